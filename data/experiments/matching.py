"""Chapter 8's comparison on oracles whose parameters are known, made by the chapter's own build cells.

    python data/experiments/matching.py rates 1 2            # which rates, which start?
    python data/experiments/matching.py paper 1 2 3 4 5      # every method at the paper's size, with the rates that won
    python data/experiments/matching.py small 1 2 3 4 5      # the same at the size that runs live
    python data/experiments/matching.py map 1 2 3            # oracle setting: scales of the oracle, steps, encoders

The numbers are seeds, one oracle each. Trainings run in parallel processes, as many as there are cores or as
``PROCESSES`` says. Rows go to data/results one by one; a row that is already there is not made again, so an
interrupted run continues.
"""

import os
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import suppress
from functools import cache
from multiprocessing import get_context
from pathlib import Path

from tqdm import tqdm

from savae_lite.notebook import built
from savae_lite.records import append, provenance, rows

ROOT = Path(__file__).resolve().parent.parent.parent
RESULTS = ROOT / "data" / "results"
TEST_RATES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)


@cache
def chapter():
    """What the reader builds."""
    return built(ROOT / "chapters" / "08_matching.ipynb")


@cache
def world(size, seed, z_scale=5.0):
    """One oracle with its data, and the tables of its validation and test parts."""
    made = chapter().new_world(size, seed, z_scale)
    return made, {part: chapter().ruler(made.oracle, getattr(made, part), z_scale) for part in ("valid", "test")}


def of_rates(seeds):
    """Settings to try: rates one after the other, around a middle."""
    tried = [("oracle", "VAE", 0, {"adam": adam}) for adam in (0.001, 0.003, 0.01, 0.03)]
    tried += [("oracle", "SA-VAE", 20, {"rate": 0.005, "adam": adam}) for adam in (0.001, 0.003, 0.03)]
    tried += [("oracle", "SA-VAE", 20, {"rate": rate}) for rate in (0.001, 0.002, 0.005, 0.01, 0.02)]
    tried += [("oracle", "VAE+SVI+KL", 20, {"rate": rate}) for rate in (0.001, 0.002, 0.005, 0.01, 0.02)]
    for method, k in (("VAE", 0), ("SVI", 20), ("VAE+SVI", 20), ("VAE+SVI+KL", 20), ("SA-VAE", 20)):
        rated = {"rate": 0.02} if k else {}
        starts = [{"z_start": z_start} for z_start in (0.1, 1.0)]
        for start in starts:
            tried += [("learned", method, k, rated | start | {"model_adam": a}) for a in (0.005, 0.01, 0.02)]
            tried += [("learned", method, k, {"rate": rate} | start) for rate in (0.005, 0.01, 0.05) if k]
    return [
        {"setting": setting, "method": method, "k": k, **how, "seed": seed}
        for seed in seeds
        for setting, method, k, how in tried
    ]


def tried(row):
    """Validation: the exact −ELBO after k steps, at whichever test rate is best for it."""
    made, tables = world("paper", row["seed"])
    how = {name: row[name] for name in ("rate", "adam", "model_adam", "z_start") if name in row}
    student, facts = chapter().train(made, row["setting"], row["method"], row["k"], **how)
    table = tables["valid"] if row["setting"] == "oracle" else chapter().ruler(student, made.valid)
    steps = dict(marks=[row["k"]], draws=2)
    bounds = {}
    for rate in TEST_RATES if row["k"] else TEST_RATES[:1]:
        with suppress(FloatingPointError):  # the rate is too long for this student
            bound, _ = chapter().exact_bounds(student, table, made.valid, rate, row["method"], **steps)
            bounds[rate] = bound.mean().item()
    best = min(bounds, key=bounds.get)
    return {"valid": bounds[best], "test_rate": best, **facts}


PLANS = {"rates": ("matching_rates", of_rates, tried)}


def main(what, *numbers):
    """Do one of the things that the head of this file names."""
    name, plan, measure = PLANS[what]
    path = RESULTS / f"{name}.jsonl"
    source = provenance(f"python data/experiments/matching.py {' '.join([what, *numbers])}")
    known = rows(path)
    missing = [row for row in plan([int(n) for n in numbers]) if not any(row.items() <= old.items() for old in known)]
    workers = int(os.environ.get("PROCESSES", os.cpu_count()))
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        jobs = {pool.submit(measure, row): row for row in missing}
        for job in tqdm(as_completed(jobs), total=len(jobs)):
            append(path, jobs[job] | job.result() | source)


if __name__ == "__main__":
    main(*sys.argv[1:])
