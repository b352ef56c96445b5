"""How far every live claim of the book moves on other machines: python data/experiments/margins.py [CHAPTER …]

Each chapter runs under every condition; ``--report`` prints the claims that broke or came near: their range, the values
met and the margin, which is the distance from the value here to the nearer end of the range, over the farthest that it
moved. Over machines (arithmetic, threads, a newer torch) it must be 3. Over draws (two other seeds, and the oldest
torch, whose oracles sample other sequences from the same seed) every claim must hold, and its margin is told. A claim
of the example that was drawn (``this_draw``) is not asked to hold for other seeds.
Conditions of another torch run under the Python that a variable names: OLDEST=…/bin/python NEWEST=…/bin/python.

    python data/experiments/margins.py 03_svi                    all conditions that this machine has
    python data/experiments/margins.py 03_svi --only plain,seed1 some of them
    python data/experiments/margins.py --report                  the table, from what was measured
    python data/experiments/margins.py --record                  the same, kept in data/results/margins.jsonl
"""

import argparse
import asyncio
import json
import math
import os
import subprocess
import sys
from pathlib import Path

from savae_lite.records import append, provenance

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "book"))
CACHE = ROOT / "data" / "cache" / "margins"
RECORD = ROOT / "data" / "results" / "margins.jsonl"
CHAPTERS = sorted(path.stem for path in (ROOT / "chapters").glob("*.ipynb"))

THREADS = "import torch; torch.set_num_threads(2); torch.set_num_threads = lambda number: None"
SEED = """import torch
class Shifted(torch.Generator):
    def manual_seed(self, seed):
        return super().manual_seed(seed + {})
torch.Generator = Shifted"""
PLAIN = {"ATEN_CPU_CAPABILITY": "default", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2", "ONEDNN_MAX_CPU_ISA": "SSE41"}
AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
# name: variables, code that runs before the chapter, the variable that names another Python
CONDITIONS = {
    "here": ({}, "", None),
    "plain": (PLAIN, "", None),
    "avx2": (AVX2, "", None),
    "threads": ({"OMP_WAIT_POLICY": "PASSIVE"}, THREADS, None),
    "seed1": ({}, SEED.format(1000), None),
    "seed2": ({}, SEED.format(2000), None),
    "oldest": ({}, "", "OLDEST"),
    "newest": ({}, "", "NEWEST"),
}

DRAWS = {"seed1", "seed2", "oldest"}


def measure(chapter: str, condition: str) -> None:
    """Run one chapter under one condition, in this process's Python, and keep its claims and failures."""
    from execute import HERE, apart, execute, failures, stated

    variables, preamble, _ = CONDITIONS[condition]
    CACHE.mkdir(parents=True, exist_ok=True)
    log = CACHE / f"{chapter}.{condition}.log"
    path, kernel = ROOT / "chapters" / f"{chapter}.ipynb", apart(CACHE / "home") | variables
    notebook = asyncio.run(execute(path, log=log, env=kernel, preamble=HERE + preamble))
    errors = [f"{found.section}: {found.what}" for found in failures(notebook) if not found.claim]
    kept = {"claims": [[section, claim] for section, claim in stated(notebook)], "errors": errors}
    (CACHE / f"{chapter}.{condition}.json").write_text(json.dumps(kept), encoding="utf-8")


def run(chapters: list[str], conditions: list[str]) -> None:
    for condition in conditions:
        named = CONDITIONS[condition][2]
        python = os.environ.get(named) if named else sys.executable
        if not python:
            print(f"{condition}: left out, {named} names no Python")
            continue
        for chapter in chapters:
            print(f"{condition} {chapter}", flush=True)
            if subprocess.run([python, __file__, chapter, "--measure", condition]).returncode:
                print(f"{condition} {chapter}: could not be run")


def read(chapter: str) -> dict[str, dict]:
    """What was kept of a chapter, by condition."""
    kept = {name: CACHE / f"{chapter}.{name}.json" for name in CONDITIONS}
    return {name: json.loads(path.read_text(encoding="utf-8")) for name, path in kept.items() if path.exists()}


def compare(chapter: str) -> list[dict]:
    """One row a claim: its range, its value here, the farthest it moved and under what, and the margin."""
    kept = read(chapter)
    found = {
        name: {(section, claim["sentence"]): claim for section, claim in one["claims"]} for name, one in kept.items()
    }
    return [row(chapter, key, claim, found) for key, claim in found["here"].items() if claim["run"] != "recorded"]


def row(chapter: str, key: tuple[str, str], claim: dict, found: dict[str, dict]) -> dict:
    drawn = claim["run"] == "live, this draw"
    others = {
        name: claims.get(key)
        for name, claims in found.items()
        if name != "here" and not (drawn and name.startswith("seed"))
    }
    broken = [name for name, other in others.items() if other is None or not other["holds"]]
    machines = {name: other for name, other in others.items() if other and name not in DRAWS}
    draws = {name: other for name, other in others.items() if other and name in DRAWS}
    return {
        "chapter": chapter, "section": key[0], "claim": key[1], "expected": claim["expected"], "run": claim["run"],
        "values": {"here": claim["here"]} | {name: other["here"] for name, other in others.items() if other},
        "margin": margin(claim, machines), "margin_of_draws": margin(claim, draws), "broken": broken,
    }  # fmt: skip


def margin(claim: dict, others: dict[str, dict]) -> float | None:
    """Room to the nearer end of the range over the farthest that the value moved; None where it did not move."""
    ends = [(end, side) for end, side in (("above", "least"), ("below", "most")) if claim[end] is not None]
    room = min((abs(claim[end] - claim[side]) for end, side in ends if claim[side] is not None), default=math.inf)
    moved = max((moves(claim, other) for other in others.values()), default=0.0)
    return round(room / moved, 2) if moved and math.isfinite(room) else None


def moves(claim: dict, other: dict) -> float:
    """How far the ends of a claim's values move towards the ends of its range."""
    if claim["least"] is None or other["least"] is None:
        return 0.0 if claim["here"] == other["here"] else math.inf
    low = claim["least"] - other["least"] if claim["above"] is not None else 0.0
    high = other["most"] - claim["most"] if claim["below"] is not None else 0.0
    return max(abs(low), abs(high))


def report(chapters: list[str]) -> list[dict]:
    rows = []
    for chapter in chapters:
        for name, one in read(chapter).items():
            print(*(f"{chapter}, {name}: RAISED {error}" for error in one["errors"]), sep="\n", end="")
        rows += compare(chapter)
    near = [row for row in rows if row["broken"] or min(known(row)) < 3]
    for row in sorted(near, key=lambda row: (row["chapter"], min(known(row)))):
        print("\n{chapter}, {section}: {claim} ({run})\n    expected {expected}, values {values}\n    "
              "margin {margin}, of draws {margin_of_draws}, broken under {broken}".format(**row))  # fmt: skip
    broken = sum(bool(row["broken"]) for row in rows)
    machines, draws = (sum(known(row)[n] < 3 for row in rows) for n in (0, 1))
    print(f"\n{len(rows)} live claims: {broken} broken; margin below 3 over machines: {machines}, over draws: {draws}")
    return rows


def known(row: dict) -> list[float]:
    return [row[name] if row[name] is not None else math.inf for name in ("margin", "margin_of_draws")]


def record(rows: list[dict]) -> None:
    """Write the table anew."""
    behind = provenance("python data/experiments/margins.py")
    RECORD.unlink(missing_ok=True)
    for row in rows:
        append(RECORD, row | behind)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("chapters", nargs="*", default=CHAPTERS)
    arguments.add_argument("--only", type=lambda text: text.split(","), default=list(CONDITIONS))
    arguments.add_argument("--measure", help=argparse.SUPPRESS)
    arguments.add_argument("--report", action="store_true")
    arguments.add_argument("--record", action="store_true")
    given = arguments.parse_args()
    if given.measure:
        return measure(given.chapters[0], given.measure)
    if not (given.report or given.record):
        run(given.chapters, given.only)
    rows = report(given.chapters)
    if given.record:
        record(rows)


if __name__ == "__main__":
    main()
