"""Chapter 11's measurements, made by the build cells of chapters 9 and 11.

    python data/experiments/saliency.py grammar 0 1 2 3 4    # models of the grammar, beside the truth
    python data/experiments/saliency.py questions 0 1 2 3 4  # chapter 9's models of real questions

The numbers are seeds. Rows go to data/results/saliency.jsonl one by one; a row that is already there is not made again,
so an interrupted run continues. Trained models are kept in data/cache/saliency, so that measuring them again is cheap.
``questions`` needs data/results/text_costs.jsonl, which ``text.py costs`` makes.
"""

import sys
import time
from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
import torch
from text import CONVERGED, affordable
from text import chapter as chapter_9

from savae_lite.diagnostics import mutual_information
from savae_lite.gaussian import kl, unpack
from savae_lite.notebook import built
from savae_lite.records import append, provenance, rows

ROOT = Path(__file__).resolve().parent.parent.parent
RESULTS, CACHE = ROOT / "data" / "results" / "saliency.jsonl", ROOT / "data" / "cache" / "saliency"
EXAMPLES = 6
OCCLUDED = 50  # sentences

# model → (method, where β ends); no method: weights as drawn
GRAMMAR = {
    "VAE": ("VAE", 1.0),
    "random weights": (None, 1.0),
    "SA-VAE": ("SA-VAE", 1.0),
    "SA-VAE, β ≤ 0.3": ("SA-VAE", 0.3),
}
# model → (chapter 9's recipe, what differs in its training); None: weights as drawn
QUESTIONS = {
    "VAE": ("VAE", {}),
    "VAE, same seconds": ("VAE", {"patience": CONVERGED["patience"]}),
    "VAE, dropout 0.1": ("VAE", {"dropout": 0.1}),
    "random weights": ("SA-VAE", None),
    "SA-VAE": ("SA-VAE", {}),
}


def trained(name, empty, train):
    """A model trained now, or before by the same script, and what its training took; CPU seconds include validation."""
    CACHE.mkdir(parents=True, exist_ok=True)
    path = CACHE / f"{name.replace(' ', '_')}.pt"
    if not path.exists():
        started = time.process_time()
        model, history = train()
        took = {"seconds": history[-1].seconds if history else 0.0, "cpu_seconds": time.process_time() - started}
        took["valid"] = [epoch.valid for epoch in history]
        torch.save({"model": model.state_dict(), "took": took}, path)
    kept = torch.load(path, weights_only=True)
    empty.load_state_dict(kept["model"])
    return empty.requires_grad_(False), kept["took"]


def of_grammar(chapter, text, name, seed):
    """The row of one model of the grammar."""
    method, top = GRAMMAR[name]
    world, steps = chapter.new_world(seed), chapter.STEPS[method or "SA-VAE"]
    model, took = trained(
        f"grammar {name} {seed}",
        chapter.new_model(seed),
        lambda: chapter.train(world, method, seed, top=top) if method else (chapter.new_model(seed), []),
    )
    lam = chapter.codes(model, world.test.x, steps)
    table = chapter.token_table(model, world.test.x, lam, prior=200)
    probed = chapter.probes(
        chapter.codes(model, world.probe.x, steps, seed=6), world.probe.factors, lam, world.test.factors
    )
    table["truth"] = chapter.look_up(chapter.truths(world.test), table)
    table["surprise"] = chapter.look_up(chapter.surprises(world.test), table)
    held = chapter.held(probed)
    row = took | of_codes(lam) | {"probes": probed, "held": held, "mean_saliency": table.saliency.mean()}
    row |= correlations(chapter, world, table, held)
    row |= profiles(chapter, model, world.test.x, steps, table)
    return row | {"classes": by_class(chapter, world, table), "examples": examples(world, table)}


def of_codes(lam):
    """KL and MI of the posteriors λ (N, 2D) of a corpus."""
    noise = torch.randn(len(lam), lam.shape[1] // 2, generator=torch.Generator().manual_seed(2))
    return {"kl": kl(lam).mean().item(), "mi": mutual_information(lam, noise)}


def correlations(chapter, world, table, held):
    """Rank correlations over tokens with three truths: what all factors tell, what topic and tense tell, and what the
    factors tell that z holds. "open" leaves out tokens that the words before decide.
    """
    spoken = table[table.place < table.length - 1]
    counts = Counter(i for x in world.train.x for i in x.tolist())
    frequency = [counts[i] for i in spoken.id]
    found = {
        "rho_place": chapter.rho(spoken.saliency, spoken.place),
        "rho_place_truth": chapter.rho(spoken.truth, spoken.place),
        "rho_frequency": chapter.rho(spoken.saliency, frequency),
        "rho_frequency_truth": chapter.rho(spoken.truth, frequency),
    }
    truths = {"all": table.truth}
    for name, factors in {"two": ["topic", "tense"], "held": held}.items():
        if factors:
            truths[name] = chapter.look_up(chapter.truths(world.test, factors), table)
    for name, truth in truths.items():
        found |= with_truth(chapter, table.assign(truth=truth), name)
    return found


def with_truth(chapter, table, name):
    """How saliency and information rank beside one truth, and which part of them falls on tokens that are told."""
    found = {}
    for which, some in {name: table, f"{name}_open": table[table.surprise > 0]}.items():
        found[f"ceiling_{which}"] = chapter.ceiling(some.truth)
        for value in ("saliency", "information"):
            found[f"rho_{value}_{which}"] = chapter.rho(some[value], some.truth)
            found[f"share_{value}_{which}"] = some[value][some.truth > 0].sum() / some[value].sum()
    return found


def profiles(chapter, model, sentences, steps, table):
    """Means place by place, for each length of sentence."""
    found = {}
    for length, mine in table.groupby("length"):
        for column in ("saliency", "information", "truth"):
            found[f"{column}_{length}"] = mine.groupby("place")[column].mean().tolist()
    for by_slope, by_hiding in chapter.from_end(model, sentences[:OCCLUDED], steps):
        length = by_slope.shape[1] - 1
        found[f"input_{length}"] = by_slope.mean(0).tolist()
        found[f"occlusion_{length}"] = by_hiding.mean(0).tolist()
    return found


def by_class(chapter, world, table):
    """Mean saliency, information and truth of each word class."""
    classes = [[*chapter.word_classes(words), "</s>"] for words in world.test.words]
    groups = table.groupby(chapter.look_up(classes, table))[["saliency", "information", "truth"]]
    return {name: values.mean().tolist() for name, values in groups}


def examples(world, table):
    """The first sentences of the test part, token by token."""
    found = []
    for number in range(EXAMPLES):
        mine = table[table.sentence == number].sort_values("place")
        columns = {name: mine[name].tolist() for name in ("saliency", "information", "truth")}
        found.append({"words": [*world.test.words[number], "</s>"], **columns})
    return found


def of_questions(chapter, text, name, seed):
    """The row of one model of real questions, as chapter 9 trains it."""
    (recipe, how), data = QUESTIONS[name], text.data("questions")
    new = text.new_model(recipe, seed)
    model, took = trained(f"questions {name} {seed}", new, lambda: question_training(text, recipe, seed, how))
    bound = text.look(recipe, model, data.ids.test, text.rate_of(recipe), samples=10)[1].mean().item()
    lam = question_codes(chapter, text, recipe, model.cpu(), data.ids.test)
    table = chapter.token_table(model, data.ids.test, lam, prior=100)
    counts = Counter(i for x in data.ids.train for i in x.tolist())
    row = {"seconds": took["seconds"], "valid": took["valid"], "bound": bound}
    row |= of_codes(lam) | {"mean_saliency": table.saliency.mean()}
    for value in ("saliency", "information"):
        row[f"findings_{value}"] = chapter.findings(table, data.vocab.words, counts, value)
    row["kinds"] = Counter(chapter.kind(data.vocab.words[i]) for i in table.id)
    return row | {"probes": question_probes(chapter, text, recipe, model, lam)}


def question_training(text, recipe, seed, how):
    """Model and history. With patience: as many epochs at most as take the seconds of SA-VAE's."""
    if how is None:
        return text.new_model(recipe, seed), []
    if "patience" in how:
        how = how | {"epochs": affordable("questions", recipe)}
    return text.train(recipe, seed, **how)


def question_codes(chapter, text, recipe, model, sentences, seed=7):
    """λ_K of every sentence, (N, 2D), found the way of chapter 9."""
    generator = torch.Generator().manual_seed(seed)
    lam = torch.zeros(len(sentences), 2 * model.latent)
    for numbers, x in chapter.by_length(sentences):
        lam[numbers] = text.refined(recipe, model, x, generator, text.rate_of(recipe))
    return lam


def question_probes(chapter, text, recipe, model, test_lam):
    """Can the first question word, and the length, be read from μ?"""
    data, found = text.data("questions"), {}
    lam = question_codes(chapter, text, recipe, model, data.ids.train, seed=6)
    code, test_code = unpack(lam)[0].numpy(), unpack(test_lam)[0].numpy()
    labels = {"question word": chapter.first_question_word, "length": len}
    for name, label in labels.items():
        y, y_test = (np.array([label(words) for words in part]) for part in (data.words.train, data.words.test))
        known = np.isin(y_test, y)
        found[name] = chapter.probe(code, y, test_code[known], y_test[known])
    return found


def short(value):
    """Numbers to five digits, at whatever depth."""
    match value:
        case dict():
            return {name: short(inner) for name, inner in value.items()}
        case list():
            return [short(inner) for inner in value]
        case float() | np.floating():
            return float(f"{value:.5g}")
    return value


def main(corpus, *seeds):
    """One row a model and seed of a corpus: grammar or questions."""
    measure, names = {"grammar": (of_grammar, GRAMMAR), "questions": (of_questions, QUESTIONS)}[corpus]
    command = f"python data/experiments/saliency.py {' '.join([corpus, *seeds])}"
    chapter = built(ROOT / "chapters" / "11_saliency.ipynb")
    text = chapter_9() if corpus == "questions" else None
    for name, seed in product(names, map(int, seeds)):
        row = {"corpus": corpus, "model": name, "seed": seed}
        if not any(row.items() <= known.items() for known in rows(RESULTS)):
            append(RESULTS, short(row | measure(chapter, text, name, seed)) | provenance(command))


if __name__ == "__main__":
    main(*sys.argv[1:])
