"""Chapter 9's comparison over inner rates and over seeds, made by the chapter's own build cells.

    python data/experiments/text_questions.py rates            # which inner rate? judged on the validation part
    python data/experiments/text_questions.py seeds 0 1 2 3 4  # every method, at equal epochs and to convergence
    python data/experiments/text_questions.py picture          # the README's picture of the recorded rows

Rows go to data/results one by one; a row that is already there is not made again, so an interrupted run continues.
"""

import sys
from itertools import product
from pathlib import Path

import matplotlib.pyplot as plt

from savae_lite.notebook import built
from savae_lite.plots import plot_bound_against_kl
from savae_lite.records import append, provenance, rows

ROOT = Path(__file__).resolve().parent.parent.parent
RESULTS = ROOT / "data" / "results"
REFINING = ("SVI", "VAE+SVI", "VAE+SVI+KL", "SA-VAE")


def rates(chapter, command):
    """One row a method and inner rate: the validation bound of seed 0."""
    path = RESULTS / "text_questions_rates.jsonl"
    done = {(row["method"], row["rate"]) for row in rows(path)}
    for name, rate in product(REFINING, (0.1, 0.3, 1.0)):
        if (name, rate) not in done:
            model, history = chapter.train(name, seed=0, rate=rate)
            row = {
                "method": name,
                "rate": rate,
                "seed": 0,
                "valid": chapter.bound(name, model, chapter.valid_set, rate),
            }
            append(path, row | {"seconds": history[-1].seconds} | provenance(command))


def seeds(chapter, command, numbers):
    """One row a method, seed and budget: the chapter's epochs, or as many as still improve the validation bound."""
    path = RESULTS / "text_questions.jsonl"
    done = {(row["method"], row["seed"], row["budget"]) for row in rows(path)}
    budgets = {"equal": dict(), "converged": dict(epochs=100, patience=5)}
    wanted = [(name, "equal") for name in chapter.STEPS] + [(name, "converged") for name in ("LM", "VAE", "SA-VAE")]
    for seed, (name, budget) in product(numbers, wanted):
        if (name, seed, budget) not in done:
            model, history = chapter.train(name, seed=seed, **budgets[budget])
            row = {"method": name, "seed": seed, "budget": budget, "epochs": len(history)}
            row |= chapter.measure(name, model, samples=100) | {"seconds": history[-1].seconds}
            append(path, row | provenance(command))


def picture():
    """Bound against KL at equal epochs, as the chapter opens with it."""
    equal = [row for row in rows(RESULTS / "text_questions.jsonl") if row["budget"] == "equal"]
    figure, ax = plt.subplots(figsize=(6.4, 4))
    plot_bound_against_kl(equal, ax=ax)
    figure.savefig(
        ROOT / "book" / "_static" / "text_questions.png", dpi=120, bbox_inches="tight", metadata={"Software": None}
    )


def main(what, *numbers):
    """Do one of the three things that the head of this file names."""
    command = f"python data/experiments/text_questions.py {' '.join([what, *numbers])}"
    if what == "picture":
        return picture()
    chapter = built(ROOT / "chapters" / "09_text.ipynb")
    return rates(chapter, command) if what == "rates" else seeds(chapter, command, [int(n) for n in numbers])


if __name__ == "__main__":
    main(*sys.argv[1:])
