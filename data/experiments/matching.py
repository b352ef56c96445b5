"""Chapter 8's comparison on oracles whose parameters are known, made by the chapter's own build cells.

    python data/experiments/matching.py rates 1 2            # which rates, which start?
    python data/experiments/matching.py paper 1 2 3 4 5      # every method at the paper's size, with the rates that won
    python data/experiments/matching.py small 1 2 3 4 5      # the same at the size that runs live
    python data/experiments/matching.py exact 1 2 3 4 5      # models learned by quadrature, and with ten samples of z
    python data/experiments/matching.py map 1 2 3            # small oracles: scales of z's weights, steps, encoders

The numbers are seeds, one oracle each. Trainings run in parallel processes, as many as there are cores or as
``PROCESSES`` says. Rows go to data/results one by one; a row that is already there is not made again, so an
interrupted run continues.
"""

import math
import os
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import suppress
from functools import cache, partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path

import torch
from tqdm import tqdm

from savae_lite.diagnostics import mutual_information
from savae_lite.exact import best_in_family, exact_elbo, log_evidence, moments
from savae_lite.gaussian import kl, unpack
from savae_lite.notebook import built
from savae_lite.records import append, provenance, rows

ROOT = Path(__file__).resolve().parent.parent.parent
RESULTS = ROOT / "data" / "results"
TEST_RATES = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)
MAP_MARKS = (0, 1, 3, 10)
LOW, HIGH = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02), (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)


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
    """The settings to try: Adam's rates and the size of z's first weights on the first oracle, inner rates on all."""
    first = [("oracle", "VAE", 0, {"adam": adam}) for adam in (0.001, 0.003, 0.01, 0.03)]
    first += [("oracle", "SA-VAE", 20, {"rate": 0.005, "adam": adam}) for adam in (0.001, 0.003, 0.03)]
    rated = [("oracle", method, 20, {"rate": rate}) for method, rate in product(("SA-VAE", "VAE+SVI+KL"), LOW)]
    for method, k in chapter().compared("paper", "learned").items():
        middle = {"rate": 0.02} if k else {}
        starts = [{"z_start": z_start} for z_start in (0.1, 1.0)]
        tried = [start | {"model_adam": adam} for start, adam in product(starts, (0.005, 0.01, 0.02))]
        first += [("learned", method, k, middle | how) for how in tried]
        grid = HIGH if method == "SVI" else HIGH[:-1]
        rated += [("learned", method, k, {"rate": rate, "z_start": 0.1, "model_adam": 0.01}) for rate in grid if k]
        middle = {"rate": 0.1 if method == "SVI" else 0.02} if k else {}
        near = (0.007, 0.014) if k else (0.007, 0.01, 0.014)
        rated += [("learned", method, k, middle | {"z_start": 0.1, "model_adam": adam}) for adam in near]
    adams = ({"z_start": 0.1, "model_adam": adam} for adam in (0.007, 0.01, 0.014))
    rated += [("learned", "exact", 0, how) for how in adams]
    names = ("setting", "method", "k", "how", "seed")
    rows = [(*row, seeds[0]) for row in first] + [(*row, seed) for seed in seeds for row in rated]
    return [{name: value for name, value in zip(names, row, strict=True) if name != "how"} | row[3] for row in rows]


def tried(row):
    """Validation: the exact −ELBO after k steps, at whichever test rate is best for it."""
    made, tables = world("paper", row["seed"])
    how = {name: row[name] for name in ("rate", "adam", "model_adam", "z_start") if name in row}
    student, facts = chapter().train(made, row["setting"], row["method"], row["k"], **how)
    if row["method"] == "exact":
        return {"valid": -chapter().log_p(student, made.valid).mean().item(), **facts}
    table = tables["valid"] if row["setting"] == "oracle" else chapter().ruler(student, made.valid)
    steps = dict(marks=[row["k"]], draws=2)
    bounds = {}
    for rate in TEST_RATES if row["k"] else TEST_RATES[:1]:
        with suppress(FloatingPointError):  # the rate is too long for this student
            bound, _ = chapter().exact_bounds(student, table, made.valid, rate, row["method"], **steps)
            bounds[rate] = bound.mean().item()
    best = min(bounds, key=bounds.get)
    return {"valid": bounds[best], "test_rate": best, **facts}


def of_size(size, seeds):
    """Every method, in both settings, for equal epochs; then the VAE for as many seconds as SA-VAE took."""
    made = chapter()
    return [
        {"size": size, "setting": setting, "method": method, "k": k, "budget": budget, "seed": seed}
        for budget in ("epochs", "seconds")
        for seed in seeds
        for setting in made.EPOCHS
        for method, k in made.compared(size, setting).items()
        if budget == "epochs" or method == "VAE"
    ]


def of_exact(seeds):
    """Models learned by their evidence itself, and with more samples of z."""
    methods = {"exact": 0, "VAE, ten samples": 0, "SA-VAE, ten samples": 20}
    key = {"size": "paper", "setting": "learned", "budget": "epochs"}
    return [key | {"method": method, "k": k, "seed": seed} for seed in seeds for method, k in methods.items()]


def matched(row):
    """One trained student, measured exactly."""
    made, tables = world(row["size"], row["seed"])
    student, facts = _student(made, row)
    if row["setting"] == "learned":
        tables = {part: chapter().ruler(student, getattr(made, part)) for part in tables}
    facts |= {"marks": list(chapter().MARKS), "test_rates": list(TEST_RATES)}
    for part, draws in (("valid", 2), ("test", 4)) if row["method"] != "exact" else ():
        how = dict(method=row["method"], draws=draws, marks=chapter().MARKS)
        found = [_after_steps(student, tables[part], getattr(made, part), rate, **how) for rate in TEST_RATES]
        facts |= {f"{part}_{name}": [of[name] for of in found] for name in found[0]}  # (rates, marks)
    best = best_in_family(tables["test"], steps=150)
    facts["nll"] = -log_evidence(tables["test"]).mean().item()
    facts["family"] = -exact_elbo(tables["test"], best).mean().item()
    facts["divergence"], facts["divergence_error"] = chapter().divergence(made, student)
    return facts | {"oracle_nll": -chapter().log_p(made.oracle, made.test).mean().item()}


def _after_steps(student, table, x, rate, **how):
    """Means over rows and draws, one value a mark: exact −ELBO, KL, mutual information."""
    try:
        bounds, lam = chapter().exact_bounds(student, table, x, rate, **how)
    except FloatingPointError:  # the rate is too long for this student
        return {name: [math.inf] * len(how["marks"]) for name in ("bound", "kl", "mi")}
    eps = torch.randn(len(x), 2, generator=torch.Generator().manual_seed(2))
    return {
        "bound": _rounded(bounds.mean(1)),
        "kl": _rounded(kl(lam.flatten(0, 2)).unflatten(0, lam.shape[:3]).mean((1, 2))),
        "mi": [round(mutual_information(at_mark[0], eps), 4) for at_mark in lam],
    }


def _rounded(values):
    return [round(value, 5) for value in values.tolist()]


def _student(made, row):
    method, setting = row["method"], row["setting"]
    epochs = _affordable(row) if row["budget"] == "seconds" else chapter().EPOCHS[setting]
    if (setting, method) == ("oracle", "SVI"):
        epochs = 0  # there is nothing to train
    student, facts = chapter().train(made, setting, method, row["k"], epochs=epochs, **chapter().TUNED[setting, method])
    return student, {"epochs": epochs, **facts}


def _affordable(row):
    """As many epochs of the VAE as take the seconds of SA-VAE, by the rows of this oracle."""
    mine = {
        old["method"]: old["seconds"]
        for old in rows(RESULTS / "matching.jsonl")
        if old["budget"] == "epochs" and all(old[name] == row[name] for name in ("size", "setting", "seed"))
    }
    return round(chapter().EPOCHS[row["setting"]] * mine["SA-VAE"] / mine["VAE"])


def of_map(seeds):
    """Small oracles whose z weighs less or more, steps, rates, and encoders of other widths."""
    given, learned, long = (0.0002, 0.002, 0.01, 0.05), (0.005, 0.02, 0.1), (0.02, 0.1, 0.3, 1.0)
    columns = [("oracle", "VAE", 0, 1.0), ("oracle", "SVI", 0, 1.0), ("learned", "VAE", 0, 1.0)]
    columns += [("oracle", "SA-VAE", k, rate) for k, rate in product(MAP_MARKS[1:], given)]
    columns += [("learned", "SA-VAE", k, rate) for k, rate in product(MAP_MARKS[2:], learned)]
    columns += [("learned", "SVI", k, rate) for k, rate in product(MAP_MARKS[2:], long)]
    keys = [(z_scale, None, *column) for z_scale in (1.0, 2.0, 5.0, 10.0) for column in columns]
    for width in (2, 5, 10):
        keys += [(5.0, width, "oracle", "VAE", 0, 1.0)]
        keys += [(5.0, width, "oracle", "SA-VAE", MAP_MARKS[-1], rate) for rate in given]
    names = ("z_scale", "width", "setting", "method", "k", "rate", "seed")
    return [dict(zip(names, (*key, seed), strict=True)) for seed in seeds for key in keys]


def mapped(row):
    """Bounds at the test rates. All rates are in proportion to the variance of the oracle's posteriors."""
    made, tables = world("small", row["seed"], row["z_scale"])
    stretch = _variance(tables["test"]) / _variance(world("small", row["seed"])[1]["test"])
    epochs = 0 if (row["setting"], row["method"]) == ("oracle", "SVI") else None
    how = dict(rate=row["rate"] * stretch, width=row["width"], epochs=epochs)
    student, facts = chapter().train(made, row["setting"], row["method"], row["k"], **how)
    rates = (*TEST_RATES, 0.2, 0.5, 1.0) if row["method"] == "SVI" else TEST_RATES
    facts |= {"marks": list(MAP_MARKS), "test_rates": [rate * stretch for rate in rates], "stretch": stretch}
    if row["setting"] == "learned":
        tables = {part: chapter().ruler(student, getattr(made, part), row["z_scale"]) for part in tables}
    for part, draws in (("valid", 2), ("test", 4)):
        how = dict(method=row["method"], draws=draws, marks=MAP_MARKS)
        found = [_after_steps(student, tables[part], getattr(made, part), rate, **how) for rate in facts["test_rates"]]
        facts[f"{part}_bound"] = [of["bound"] for of in found]
    return facts | {"nll": -log_evidence(tables["test"]).mean().item()}


def _variance(table):
    return unpack(moments(table))[1].exp().mean().item()


# what to do: (record, rows wanted, how one is made)
PLANS = {
    "rates": ("matching_rates", of_rates, tried),
    "paper": ("matching", partial(of_size, "paper"), matched),
    "small": ("matching", partial(of_size, "small"), matched),
    "exact": ("matching", of_exact, matched),
    "map": ("matching_map", of_map, mapped),
}


def main(what, *numbers):
    """Do one of the things that the head of this file names."""
    name, plan, measure = PLANS[what]
    path = RESULTS / f"{name}.jsonl"
    source = provenance(f"python data/experiments/matching.py {' '.join([what, *numbers])}")
    wanted = {frozenset(row.items()): row for row in plan([int(number) for number in numbers])}.values()
    workers = int(os.environ.get("PROCESSES", os.cpu_count()))
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for budget in ("epochs", "seconds"):  # the second budget is read from rows of the first
            known = rows(path)
            now = [row for row in wanted if row.get("budget", "epochs") == budget]
            missing = [row for row in now if not any(row.items() <= old.items() for old in known)]
            jobs = {pool.submit(measure, row): row for row in missing}
            for job in tqdm(as_completed(jobs), total=len(jobs)):
                append(path, jobs[job] | job.result() | source)


if __name__ == "__main__":
    main(*sys.argv[1:])
