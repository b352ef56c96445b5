"""Chapter 9's comparison over inner rates and over seeds, made by the chapter's own build cells.

    python data/experiments/text_questions.py rates            # which inner rate? judged on the validation part
    python data/experiments/text_questions.py seeds 0 1 2 3 4  # every method, at equal epochs and to convergence

Rows go to data/results one by one; a row that is already there is not made again, so an interrupted run continues.
"""

import sys
from itertools import product
from pathlib import Path

from savae_lite.notebook import built
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
            row = {"method": name, "rate": rate, "seed": 0, "valid": chapter.bound(name, model, chapter.valid_set, rate)}
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


if __name__ == "__main__":
    what, *numbers = sys.argv[1:]
    chapter = built(ROOT / "chapters" / "09_text.ipynb")
    command = f"python data/experiments/text_questions.py {' '.join(sys.argv[1:])}"
    rates(chapter, command) if what == "rates" else seeds(chapter, command, [int(n) for n in numbers])
