"""Differentiating through SVI: what each way costs and how exact it is, measured on this machine.

    python data/experiments/bench run                     # about half an hour on one core; continues where it stopped
    python data/experiments/bench run --quick --out x     # less than a minute: is everything in place?
    python data/experiments/bench table                   # the rows, to be read

Rows go to data/results/adjoint.jsonl one by one. A row that is there for this device and number of threads is not
measured again. "published" is the way of Kim et al. (2018) and the measure of all times. Times are of one step's
gradients, all parameters, no dropout. `requirements.txt` beside this file names the libraries that are compared;
where they are missing, their rows say so.
"""

import argparse
import platform
import time
from functools import partial
from pathlib import Path

import errors
import memory
import report
import timing
import torch
from sizes import SIZES
from ways import SLOW_TO_START

from savae_lite.records import append, provenance
from savae_lite.records import rows as recorded_rows

OUT = Path(__file__).resolve().parents[2] / "results" / "adjoint.jsonl"
ERROR_STEPS = {"S": (1, 5, 10, 20, 40), "M": (5, 20)}


def tasks(quick: bool, device: str, known):
    """All rows that are missing, one after the other; cheap ones first."""
    if quick:
        ways = [way for way in timing.TIMED if way not in SLOW_TO_START]
        yield from timing.rows(SIZES["S"], device, known, (1, 5), seconds={}, ways=ways)
        yield from errors.rows(SIZES["S"], device, known, (1, 5), weights=("initial",), skip=SLOW_TO_START)
        return
    for name in ("S", "M"):
        yield from timing.rows(SIZES[name], device, known)
        yield from memory.rows(SIZES[name], device, known)
        yield from errors.rows(SIZES[name], device, known, ERROR_STEPS[name])


def run(out: Path, *, quick: bool = False, device: str = "cpu", threads: int = 1) -> None:
    """Measure what ``out`` does not hold yet."""
    torch.set_num_threads(threads)
    command = "python data/experiments/bench run" + f" --device {device}" * (device != "cpu")
    where = provenance(command + f" --threads {threads}" * (threads != 1) + " --quick" * quick)
    if torch.device(device).type == "cpu":
        where["device"] = f"{platform.machine()} CPU"
    place = {name: where[name] for name in ("device", "threads")}
    for row in tasks(quick, device, partial(_known, out, place)):
        append(out, row | where)


def _known(out: Path, place: dict, head: dict) -> bool:
    wanted = (head | place).items()
    return any(wanted <= row.items() for row in recorded_rows(out))


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["run", "table"])
    parser.add_argument("--out", type=Path, default=OUT, help="the file of rows (%(default)s)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="size S, K = 1 and 5, time and error at the start alone")
    given = parser.parse_args(arguments)
    if given.what == "run":
        start = time.perf_counter()
        run(given.out, quick=given.quick, device=given.device, threads=given.threads)
        print(f"Measured in {(time.perf_counter() - start) / 60:.1f} minutes")
    print(report.table(recorded_rows(given.out)))


if __name__ == "__main__":
    main()
