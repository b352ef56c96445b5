"""Chapter 10's remedies, schedules and lag, made by the chapter's own build cells.

    python data/experiments/collapse.py recipes 0,1,2,3,4          # every recipe, at equal epochs
    python data/experiments/collapse.py recipes 0,1 LM SVI         # some of them
    python data/experiments/collapse.py rates 0,1                  # the other inner rates of what refines
    python data/experiments/collapse.py converged 0,1,2,3,4        # four of them, until validation stops improving
    python data/experiments/collapse.py dropout 0,1 LM linear      # the same at two other rates of dropout
    python data/experiments/collapse.py dropout 2,3,4 0.5          # all four of them at one rate
    python data/experiments/collapse.py slider 0,1,2               # schedules × inner steps
    python data/experiments/collapse.py lag 0,1,2,3,4              # encoders against the best λ; decoders that are told
    python data/experiments/collapse.py cheap 0,1,2,3,4            # the best λ of later decoders at a small β

The numbers are seeds. Rows go to data/results one by one; a row that is already there is not made again, so an
interrupted run continues, and two processes may share the seeds. ``seconds`` are CPU seconds of the training thread.
"""

import sys
from itertools import product
from pathlib import Path

from savae_lite.notebook import built
from savae_lite.records import append, provenance, rows

ROOT = Path(__file__).resolve().parent.parent.parent
RESULTS = ROOT / "data" / "results"
REFINING = ("SVI", "VAE+SVI", "SA-VAE")
CONVERGED = ("LM", "linear", "VAE+SVI", "SA-VAE")
DROPOUT = (0.3, 0.5)  # beside the chapter's own
COURSE = ("valid", "kl", "mi", "beta", "seconds")


def recipes(chapter, record, numbers, names):
    """One row a recipe and seed: the chapter's epochs."""
    for name, seed in product(names or chapter.RECIPES, numbers):
        record(
            "collapse",
            {"recipe": name, "seed": seed, "budget": "equal"},
            lambda name=name, seed=seed: _trained(chapter, name, seed),
        )


def rates(chapter, record, numbers, names):
    """One row a refining recipe, seed and inner rate that it does not have: its course in validation."""
    for name, rate, seed in product(names or REFINING, (0.1, 0.3, 1.0), numbers):
        if rate != chapter.settings(name).rate:
            record(
                "collapse_rates",
                {"recipe": name, "seed": seed, "rate": rate},
                lambda name=name, seed=seed, rate=rate: _course(chapter.train(name, seed, rate=rate)[1]),
            )


def converged(chapter, record, numbers, names):
    """One row a recipe and seed: until validation has not improved for five epochs."""
    for seed, name in product(numbers, names or CONVERGED):
        record(
            "collapse",
            {"recipe": name, "seed": seed, "budget": "converged"},
            lambda name=name, seed=seed: _trained(chapter, name, seed, epochs=60, patience=5),
        )


def dropout(chapter, record, numbers, names):
    """One row a recipe, rate of dropout and seed, as in `converged`; ``names`` holds rates and recipes."""
    chosen = [float(name) for name in names if name[0].isdigit()] or DROPOUT
    recipes = [name for name in names if not name[0].isdigit()] or CONVERGED
    for seed, rate, name in product(numbers, chosen, recipes):
        record(
            "collapse_dropout",
            {"recipe": name, "seed": seed, "budget": "converged", "dropout": rate},
            lambda name=name, seed=seed, rate=rate: _trained(chapter, name, seed, epochs=200, patience=5, dropout=rate),
        )


def slider(chapter, record, numbers, names):
    """One row a schedule, number of steps and seed, for what `recipes` has not."""
    have = {("none", 0), ("long", 0), ("cyclical", 0), ("long", 5)}
    for seed, k, schedule in product(numbers, (0, 1, 5), names or chapter.SCHEDULES):
        if (schedule, k) not in have:
            how = dict(schedule=schedule, steps=k, method="SA-VAE" if k else "VAE")
            record(
                "collapse_slider",
                {"schedule": schedule, "k": k, "seed": seed},
                lambda seed=seed, how=how: _scheduled(chapter, seed, how),
            )


def lag(chapter, record, numbers, names):
    """One row a recipe and seed: encoders against the best λ of held decoders; and the course of a decoder that is told
    the factors.
    """
    for seed in numbers:
        record("collapse_lag", {"recipe": "told", "seed": seed}, lambda seed=seed: {"told": chapter.train_told(seed)})
        for name in names or ("linear", "deaf decoder"):
            how = {"recipe": name, "seed": seed}
            record("collapse_lag", how, lambda name=name, seed=seed: {"lag": chapter.lag(name, seed)})


def cheap(chapter, record, numbers, names):
    """One row a recipe and seed: what the best λ of later decoders would tell at the β of the first epoch."""
    for seed, name in product(numbers, names or ("linear",)):
        row = {"recipe": name, "seed": seed}
        record("collapse_cheap", row, lambda name=name, seed=seed: {"cheap": chapter.when_cheap(name, seed)})


def _trained(chapter, name, seed, **budget):
    model, history = chapter.train(name, seed, **budget)
    return _course(history) | chapter.measure(chapter.settings(name), model)


def _scheduled(chapter, seed, how):
    model, history = chapter.train("SA-VAE", seed, **how)
    lam, bound = chapter.look(chapter.settings("SA-VAE", **how), model, chapter.test_set, samples=10)
    end = {"bound": bound.mean().item(), "kl": chapter.kl(lam).mean().item(), "mi": chapter.information(lam)}
    return _course(history) | end


def _course(history):
    course = {name: [round(epoch[name], 4) for epoch in history] for name in COURSE}
    return {"epochs": len(history), "seconds": history[-1]["seconds"], "course": course}


def main(what, numbers, *names):
    """Do one of the things that the head of this file names."""
    command = f"python data/experiments/collapse.py {what} {numbers} {' '.join(map(repr, names))}".strip()

    def record(file, row, make):
        path = RESULTS / f"{file}.jsonl"
        if not any(row.items() <= known.items() for known in rows(path)):
            append(path, row | make() | provenance(command))

    plans = (recipes, rates, converged, dropout, slider, lag, cheap)
    make = {plan.__name__: plan for plan in plans}[what]
    make(built(ROOT / "chapters" / "10_collapse.ipynb"), record, [int(seed) for seed in numbers.split(",")], names)


if __name__ == "__main__":
    main(*sys.argv[1:])
