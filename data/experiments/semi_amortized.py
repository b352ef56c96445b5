"""Chapter 7's comparison on oracles, made by the chapter's own build cells.

    python data/experiments/semi_amortized.py rates 1 2        # which inner rate, which rate of Adam?
    python data/experiments/semi_amortized.py seeds 1 2 4 5 6  # every method and k, with the rates that won

The numbers are seeds, one oracle each. Rows go to data/results one by one; a row that is already there is not made
again, so an interrupted run continues.
"""

import sys
from pathlib import Path

import torch

from savae_lite.notebook import built
from savae_lite.records import append, provenance, rows
from savae_lite.savae import from_encoder, from_prior

ROOT = Path(__file__).resolve().parent.parent.parent
RESULTS = ROOT / "data" / "results"
TEST_RATES = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
LOW, MIDDLE, HIGH = (0.001, 0.002, 0.005, 0.01, 0.02), (0.002, 0.005, 0.01, 0.02, 0.05), (0.005, 0.01, 0.02, 0.05, 0.1)
# (encoder, method, k, rates)
TUNED = [
    ("LSTM", "SA-VAE", 10, MIDDLE),
    ("LSTM", "VAE+SVI+KL", 10, MIDDLE),
    ("LSTM", "first order", 10, LOW),
    ("last word", "SA-VAE", 10, HIGH),
    ("blind", "SA-VAE", 10, HIGH),
    ("LSTM", "SA-VAE", 1, HIGH),
    ("LSTM", "SA-VAE", 2, HIGH),
    ("LSTM", "SA-VAE", 5, MIDDLE),
    ("LSTM", "SA-VAE", 20, LOW),
]
ADAMS = [(1.0, "VAE", 0, adam) for adam in (0.003, 0.01, 0.03, 0.1)] + [
    (0.01, "SA-VAE", 10, adam) for adam in (0.01, 0.03, 0.1)
]


def rates(chapter, command, numbers):
    """One row an encoder, method, k, pair of rates and seed: the gap on the validation part after k steps, at whichever
    test rate is best for it.
    """
    path = RESULTS / "semi_amortized_rates.jsonl"
    wanted = [("LSTM", method, k, rate, adam) for rate, method, k, adam in ADAMS]
    wanted += [(encoder, method, k, rate, chapter.ADAM) for encoder, method, k, grid in TUNED for rate in grid]
    for number in numbers:
        world = chapter.new_world(number)
        for encoder, method, k, rate, adam in wanted:
            row = {"encoder": encoder, "method": method, "k": k, "rate": rate, "adam": adam, "seed": number}
            if not any(row.items() <= known.items() for known in rows(path)):
                how = dict(adam=adam, encoder=chapter.ENCODERS[encoder])
                model, seconds = chapter.train(world, method, k, rate, **how)
                gaps = {
                    r: chapter.gaps_after(model, world.valid, r, marks=[k], draws=2).mean().item() for r in TEST_RATES
                }
                best = min(gaps, key=gaps.get)
                row |= {"valid": gaps[best], "test_rate": best, "seconds": seconds}
                append(path, row | provenance(command))


def seeds(chapter, command, numbers):
    """One row a trained encoder: gaps after k steps at several rates, on the validation and on the test part."""
    path = RESULTS / "semi_amortized.jsonl"
    wanted = [(*key, "epochs") for key in chapter.TRAINED]
    wanted += [(encoder, "VAE", 0, "seconds") for encoder in chapter.ENCODERS] + [("LSTM", "SA-VAE", 10, "long")]
    for number in numbers:
        world = chapter.new_world(number)
        for encoder, method, k, budget in wanted:
            row = {"encoder": encoder, "method": method, "k": k, "budget": budget, "seed": number}
            if not any(row.items() <= known.items() for known in rows(path)):
                rate = chapter.TRAINED[encoder, method, k]
                epochs = chapter.EPOCHS if budget == "epochs" else _affordable(path, chapter.EPOCHS, number, encoder)
                model, seconds = _trained(chapter, world, encoder, method, k, rate, epochs)
                row |= {"rate": rate, "epochs": epochs, "seconds": seconds}
                append(path, row | _measured(chapter, world, model, method) | provenance(command))


def _trained(chapter, world, encoder, method, k, rate, epochs):
    how = dict(epochs=0, method="VAE") if method == "SVI" else dict(epochs=epochs, method=method)
    return chapter.train(world, k=k, rate=rate, encoder=chapter.ENCODERS[encoder], **how)


def _affordable(path, epochs, number, encoder):
    """As many epochs of the VAE as take the seconds of the SA-VAE with ten steps, by the rows of this seed; what is
    "long" takes as many epochs, whatever their seconds.
    """
    mine = [row for row in rows(path) if (row["seed"], row["encoder"]) == (number, encoder)]
    (cheap,) = [row["seconds"] for row in mine if row["method"] == "VAE" and row["budget"] == "epochs"]
    (dear,) = [row["seconds"] for row in mine if (row["method"], row["k"]) == ("SA-VAE", 10)]
    return round(epochs * dear / cheap)


def _measured(chapter, world, model, method):
    start = from_prior if method == "SVI" else from_encoder
    found = {"marks": list(chapter.MARKS), "test_rates": list(TEST_RATES)}
    for name, part, draws in (("valid", world.valid, 2), ("test", world.test, 6)):
        gaps = [chapter.gaps_after(model, part, rate, draws=draws, start=start).mean(1) for rate in TEST_RATES]
        found[name] = torch.stack(gaps).tolist()  # (rates, marks)
    return found


def main(what, *numbers):
    """Do one of the two things that the head of this file names."""
    record = {"rates": rates, "seeds": seeds}[what]
    command = f"python data/experiments/semi_amortized.py {' '.join([what, *numbers])}"
    record(built(ROOT / "chapters" / "07_semi_amortized.ipynb"), command, [int(number) for number in numbers])


if __name__ == "__main__":
    main(*sys.argv[1:])
