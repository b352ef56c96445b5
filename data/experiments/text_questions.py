"""Chapter 9's comparison over inner rates and over seeds, made by the chapter's own build cells.

    python data/experiments/text_questions.py rates 0 1        # which inner rate? judged on the validation part
    python data/experiments/text_questions.py seeds 0 1 2 3 4  # every method, at equal epochs and to convergence
    python data/experiments/text_questions.py picture          # the README's picture of the recorded rows

The numbers are seeds. Rows go to data/results one by one; a row that is already there is not made again, so an
interrupted run continues, and two processes may share the seeds.
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
CONVERGED = ("LM", "VAE", "VAE+SVI", "SA-VAE")


def rates(chapter, command, numbers):
    """One row a method, inner rate and seed: the bound on the validation part."""
    path = RESULTS / "text_questions_rates.jsonl"
    for seed, name, rate in product(numbers, REFINING, (0.03, 0.1, 0.3, 1.0)):
        row = {"method": name, "rate": rate, "seed": seed}
        if not any(row.items() <= known.items() for known in rows(path)):
            model, history = chapter.train(name, seed=seed, rate=rate)
            row |= {"valid": chapter.bound(name, model, chapter.valid_set, rate), "seconds": history[-1].seconds}
            append(path, row | provenance(command))


def seeds(chapter, command, numbers):
    """One row a method, seed and budget: the chapter's epochs, or as many as still improve the validation bound."""
    path = RESULTS / "text_questions.jsonl"
    budgets = {"equal": dict(), "converged": dict(epochs=100, patience=5)}
    wanted = [(name, "equal") for name in chapter.STEPS] + [(name, "converged") for name in CONVERGED]
    for seed, (name, budget) in product(numbers, wanted):
        row = {"method": name, "seed": seed, "budget": budget}
        if not any(row.items() <= known.items() for known in rows(path)):
            model, history = chapter.train(name, seed=seed, **budgets[budget])
            row |= {"epochs": len(history), "seconds": history[-1].seconds} | chapter.measure(name, model, samples=100)
            append(path, row | provenance(command))


def picture():
    """Bound against KL at equal epochs, as the chapter opens with it."""
    equal = [row for row in rows(RESULTS / "text_questions.jsonl") if row["budget"] == "equal"]
    figure, ax = plt.subplots(figsize=(6.4, 4))
    plot_bound_against_kl(equal, ax=ax)
    figure.savefig(ROOT / "book" / "_static" / "text_questions.png", dpi=120, bbox_inches="tight")


def main(what, *numbers):
    """Do one of the three things that the head of this file names."""
    if what == "picture":
        return picture()
    record = {"rates": rates, "seeds": seeds}[what]
    command = f"python data/experiments/text_questions.py {' '.join([what, *numbers])}"
    record(built(ROOT / "chapters" / "09_text.ipynb"), command, [int(number) for number in numbers])


if __name__ == "__main__":
    main(*sys.argv[1:])
