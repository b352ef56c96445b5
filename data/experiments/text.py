"""Chapter 9's models of questions and of State of the Union paragraphs, made by the chapter's own build cells.

    python data/experiments/text.py dropout questions 0 1         # which dropout? each method to convergence
    python data/experiments/text.py rates questions 0 1           # which inner rate? at equal epochs
    python data/experiments/text.py costs questions 0             # the seconds of an epoch, one method at a time
    python data/experiments/text.py runs questions 0 1 2 3 4      # every method: equal epochs, equal seconds, converged
    python data/experiments/text.py picture                       # the README's picture of the recorded rows

The numbers are seeds; ``sotu`` stands where ``questions`` does. Trainings run in parallel processes, as many as there
are cores or as ``PROCESSES`` says. Rows go to data/results one by one; a row that is already there is not made again.
Training itself continues from data/cache/text, which must be emptied when the code of training has changed.
"""

import os
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import cache
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import matplotlib.pyplot as plt
import torch
from tqdm import tqdm

from savae_lite.notebook import built
from savae_lite.plots import plot_bound_against_kl
from savae_lite.records import append, provenance, rows

ROOT = Path(__file__).resolve().parent.parent.parent
RESULTS, CACHE = ROOT / "data" / "results", ROOT / "data" / "cache" / "text"
DROPOUTS = {
    "questions": dict.fromkeys(("SA-VAE", "VAE+SVI", "VAE", "LM"), (0.1, 0.3, 0.5, 0.7)),
    "sotu": {"LM": (0.1, 0.3, 0.5)},
}
INNER_RATES = {  # VAE+SVI+KL takes the rate of VAE+SVI on the long documents
    "questions": {
        "SA-VAE": (0.03, 0.1, 0.3, 1.0),
        "VAE+SVI+KL": (0.03, 0.1, 0.3),
        "VAE+SVI": (0.03, 0.1, 0.3),
        "SVI": (0.03, 0.1, 0.3),
    },
    "sotu": dict.fromkeys(("SA-VAE", "VAE+SVI", "SVI"), (0.03, 0.1, 0.3)),
}
TEST_RATES = (0.03, 0.1, 0.3)
CONVERGED = dict(epochs=100, patience=5)


@cache
def chapter():
    """What the reader builds."""
    return built(ROOT / "chapters" / "09_text.ipynb")


def trained(corpus, recipe, seed, *, epochs=None, patience=None, **other):
    """A model, and the records of its epochs; continues what an earlier call with the same settings began."""
    epochs = epochs or chapter().SETTINGS[corpus]["epochs"]
    CACHE.mkdir(parents=True, exist_ok=True)
    settings = {"rate": chapter().rate_of(recipe, corpus), "dropout": chapter().SETTINGS[corpus]["dropout"]} | other
    name = " ".join(map(str, (corpus, recipe, seed, *settings.values()))).replace(" ", "_")
    checkpoint, course = CACHE / f"{name}.pt", CACHE / f"{name}.jsonl"
    if checkpoint.exists():
        done = _epochs(checkpoint)
        if done != len(rows(course)) or done > epochs:  # stopped inside a call, or too far along
            checkpoint.unlink()
    if not checkpoint.exists():
        course.unlink(missing_ok=True)
    how = dict(epochs=epochs, patience=patience, checkpoint=checkpoint) | settings
    model, history = chapter().train(recipe, seed, corpus, **how)
    for epoch in history:
        append(course, {"valid": epoch.valid, "seconds": epoch.seconds})
    return model, rows(course)


def _epochs(checkpoint):
    progress = torch.load(checkpoint, weights_only=True)["progress"]
    return progress["epoch"] - (progress.get("unread") is not None)  # an epoch that no record was made of


def of_dropout(corpus, seeds):
    """Methods to convergence over dropouts; on the long documents the language model only, which takes a minute."""
    return _over("dropout", DROPOUTS[corpus], corpus, seeds)


def dropped(row):
    """The best validation bound of one training to convergence."""
    _, course = trained(row["corpus"], row["method"], row["seed"], dropout=row["dropout"], **CONVERGED)
    yield {"valid": _best(row["corpus"], course), "epochs": len(course), "seconds": course[-1]["seconds"]}


def of_rates(corpus, seeds):
    """Refining methods over inner rates."""
    return _over("rate", INNER_RATES[corpus], corpus, seeds)


def _over(name, grid, corpus, seeds):
    return [
        {"corpus": corpus, "method": recipe, "seed": seed, name: value}
        for seed in seeds
        for recipe, values in grid.items()
        for value in values
    ]


def rated(row):
    """The best validation bound at equal epochs."""
    _, course = trained(row["corpus"], row["method"], row["seed"], rate=row["rate"])
    yield {"valid": _best(row["corpus"], course), "epochs": len(course), "seconds": course[-1]["seconds"]}


def of_costs(corpus, seeds):
    """Every method once."""
    recipes = chapter().RECIPES
    return [{"corpus": corpus, "method": recipe, "seed": seed} for seed in seeds for recipe in recipes]


def cost(row):
    """The seconds of an epoch: the median of three, without validation."""
    _, history = chapter().train(row["method"], row["seed"], row["corpus"], epochs=3)
    ends = [0.0, *(epoch.seconds for epoch in history)]
    yield {"seconds": median(b - a for a, b in pairwise(ends))}


def of_runs(corpus, seeds):
    """Every method; for the long documents neither ten samples nor the stronger word dropout."""
    left_out = () if corpus == "questions" else ("ten samples", "word drop 50 %")
    recipes = [name for name in chapter().RECIPES if name not in left_out]
    return [{"corpus": corpus, "method": recipe, "seed": seed} for seed in seeds for recipe in reversed(recipes)]


def run(row):
    """Three budgets of one training: equal epochs, the seconds that SA-VAE takes for these, and convergence.

    Long documents are trained to convergence only where that happens within those seconds.
    """
    corpus, recipe, seed = row["corpus"], row["method"], row["seed"]
    budgets = {"epochs": dict(), "seconds": dict(epochs=affordable(corpus, recipe), patience=CONVERGED["patience"])}
    if corpus == "questions":
        budgets["converged"] = CONVERGED
    found = {}
    for budget, how in budgets.items():
        model, course = trained(corpus, recipe, seed, **how)
        if len(course) not in found:
            found[len(course)] = chapter().measure(recipe, model, corpus, samples=500)
        facts = {"budget": budget, "epochs": len(course), "seconds": course[-1]["seconds"]}
        if budget == "seconds" and recipe != "LM":
            facts |= after_steps(corpus, recipe, model)
        yield facts | found[len(course)] | {"course": [round(epoch["valid"], 3) for epoch in course]}


def affordable(corpus, recipe):
    """As many epochs as take the seconds of SA-VAE's, by the recorded costs."""
    cost = {row["method"]: row["seconds"] for row in rows(RESULTS / "text_costs.jsonl") if row["corpus"] == corpus}
    return round(chapter().SETTINGS[corpus]["epochs"] * cost["SA-VAE"] / cost[recipe])


def after_steps(corpus, recipe, model):
    """The test bound after more or fewer steps; where training had none, at the rate that is best in validation."""
    held = 500 if corpus == "questions" else 60
    valid, test = (part[:held] for part in (chapter().data(corpus).ids.valid, chapter().data(corpus).ids.test))
    steps, own = chapter().RECIPES[recipe].steps, chapter().rate_of(recipe, corpus)
    ends = {rate: chapter().bound_after(recipe, model, valid, rate)[-1] for rate in (() if steps else TEST_RATES)}
    rate = own if steps else min(ends, key=ends.get)
    return {"test_rate": rate, "after": chapter().bound_after(recipe, model, test, rate)}


def _best(corpus, course):
    return min(epoch["valid"] for epoch in course[chapter().SETTINGS[corpus]["warm_up"] - 1 :])


def picture():
    """Bound against KL at equal epochs, as the chapter opens with it."""
    equal = [row for row in rows(RESULTS / "text.jsonl") if (row["corpus"], row["budget"]) == ("questions", "epochs")]
    figure, ax = plt.subplots(figsize=(6.4, 4))
    plot_bound_against_kl(equal, ax=ax)
    figure.savefig(ROOT / "book" / "_static" / "text.png", dpi=120, bbox_inches="tight")


# what to do: (record, rows wanted, how they are made, rows that come of one)
PLANS = {
    "dropout": ("text_dropout", of_dropout, dropped),
    "rates": ("text_rates", of_rates, rated),
    "costs": ("text_costs", of_costs, cost),
    "runs": ("text", of_runs, run),
}


def every(what, row):
    """All rows that come of one, in a process of their own."""
    return [row | facts for facts in PLANS[what][2](row)]


def main(what, *words):
    """Do one of the things that the head of this file names."""
    if what == "picture":
        return picture()
    name, plan, _ = PLANS[what]
    path = RESULTS / f"{name}.jsonl"
    source = provenance(f"python data/experiments/text.py {' '.join([what, *words])}")
    wanted = plan(words[0], [int(seed) for seed in words[1:]])
    missing = [row for row in wanted if not any(row.items() <= old.items() for old in rows(path))]
    workers = 1 if what == "costs" else int(os.environ.get("PROCESSES", os.cpu_count()))
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(every, what, row) for row in missing]
        for job in tqdm(as_completed(jobs), total=len(jobs)):
            for row in job.result():
                append(path, row | source)


if __name__ == "__main__":
    main(*sys.argv[1:])
