"""What the reader builds in chapter 11 agrees with the library, on inputs that the chapter does not use."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from cases import noise, sentences, tiny_lstmvae

from savae_lite.grammar import FACTORS, grammar, log_prob, log_prob_of_prefix, token_information, word_classes
from savae_lite.notebook import built
from savae_lite.records import recorded, rows
from savae_lite.saliency import output_saliency
from savae_lite.saliency import token_information as information_of_model

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "chapters" / "11_saliency.ipynb"


@pytest.fixture(scope="module")
def chapter():
    threads = torch.get_num_threads()
    yield built(PAGE)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def runs():
    return recorded("saliency")


def of(runs, corpus, model):
    found = [row for row in runs if (row["corpus"], row["model"]) == (corpus, model)]
    return sorted(found, key=lambda row: row["seed"])


# what the reader builds


def test_slopes(chapter):
    model, x = tiny_lstmvae(), sentences(3, 6)
    lam, eps = 0.5 * noise(3, 4, seed=1), noise(7, 3, 2, seed=2)
    per_token = model.token_log_likelihood(x)
    mine = chapter.slopes(per_token, lam, eps)
    torch.testing.assert_close(mine, output_saliency(per_token, lam, eps), rtol=1e-12, atol=1e-14)


def test_what_z_has_told(chapter):
    model, x = tiny_lstmvae(), sentences(3, 6)
    args = model.token_log_likelihood(x), 0.5 * noise(3, 4, seed=1), noise(7, 3, 2, seed=2), noise(40, 2, seed=3)
    torch.testing.assert_close(chapter.told(*args), information_of_model(*args), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("names", [(), ("tense",), ("topic", "length"), tuple(FACTORS)], ids="+".join)
def test_the_truth_by_enumeration(chapter, names):
    drawn, factors = grammar(4, torch.Generator().manual_seed(77))
    for row, words in enumerate(drawn):
        known = {name: int(factors[name][row]) for name in names}
        np.testing.assert_allclose(chapter.surprise_saved(words, known), token_information(words, known), atol=1e-9)
        assert chapter.log_begin(words, {}) == pytest.approx(log_prob(words), abs=1e-10)


def test_truths_and_surprises_end_with_the_mark_of_the_end(chapter):
    part = chapter.draw_part(5, torch.Generator().manual_seed(3))
    for words, truth, surprise in zip(part.words, chapter.truths(part), chapter.surprises(part), strict=True):
        assert len(truth) == len(surprise) == len(words) + 1 and truth[-1] == surprise[-1] == 0
        assert sum(surprise) == pytest.approx(-log_prob(words), abs=1e-6)
        begins = [words[:t] for t in range(len(words) + 1)]
        exact = [log_prob_of_prefix(a) - log_prob_of_prefix(b) for a, b in pairwise(begins)]
        assert surprise[:-1] == pytest.approx(exact, abs=1e-8)


def test_a_token_table_keeps_tokens_in_their_place(chapter):
    part, model = chapter.draw_part(9, torch.Generator().manual_seed(4)), chapter.new_model(seed=5)
    lam = chapter.codes(model, part.x, steps=2)
    table = chapter.token_table(model, part.x, lam, samples=3, prior=10)
    for number, x in enumerate(part.x):
        mine = table[table.sentence == number].sort_values("place")
        assert mine.id.tolist() == x[1:].tolist() and set(mine.length) == {len(x) - 1}
        per_token = model.token_log_likelihood(x[None])
        zero = torch.zeros(1, 1, model.latent)
        sharp = lam[number : number + 1].clone()
        sharp[:, model.latent :] = -30  # q without spread: the samples make no difference
        alone = output_saliency(per_token, sharp, zero)[0]
        again = chapter.token_table(model, [x], sharp, samples=2, prior=4)
        np.testing.assert_allclose(again.saliency, alone, rtol=1e-4, atol=1e-6)


def test_probes_read_what_is_there_and_nothing_else(chapter):
    generator = torch.Generator().manual_seed(8)
    train, test = (chapter.draw_part(rows, generator) for rows in (600, 400))

    def code(part):  # the tense, loud, the mood in letters smaller than the noise, and two dimensions of noise
        mean = torch.randn(len(part.x), 4, generator=generator)
        mean[:, 0] = 3.0 * part.factors["tense"]
        mean[:, 1] = 0.01 * part.factors["mood"]
        return torch.cat([mean, torch.zeros(len(mean), 4)], 1)

    found = chapter.probes(code(train), train.factors, code(test), test.factors)
    assert found["tense"]["accuracy"] > 0.99 and found["tense"]["nats"] > 0.7
    assert found["topic"]["accuracy"] < 0.35 and abs(found["topic"]["nats"]) < 0.1
    assert abs(found["mood"]["nats"]) < 0.1
    assert chapter.held(found)[:1] == ["tense"] and "topic" not in chapter.held(found)


def test_classes_of_words(chapter):
    wanted = {"what": "question word", "of": "function", "capital": "content", "1984": "content", ",": "mark"}
    wanted |= {"?": "?", "<unk>": "<unk>", "</s>": "</s>", "'s": "function"}
    assert {word: chapter.kind(word) for word in wanted} == wanted
    assert not chapter.LISTS["question word"] & chapter.LISTS["function"]
    assert chapter.first_question_word(["in", "who", "or", "what"]) == chapter.first_question_word(["who"]) > 0
    assert chapter.first_question_word(["is", "it", "?"]) == 0


def test_a_coloured_sentence_is_text_with_its_number(chapter):
    page = chapter.coloured([("A & B", ["tell", "<unk>"], [1.0, 0.25], [100, 25])], "Caption <1>.").data
    assert "A &amp; B" in page and "&lt;unk&gt;<small>25</small>" in page and "Caption &lt;1&gt;." in page
    assert page.count("<span") == 2 and "--s:0.25" in page and "<img" not in page


def test_the_ceiling_is_that_of_a_perfect_order(chapter):
    truth = np.array([0.0] * 80 + [1.0] * 20)
    assert chapter.ceiling(truth) == pytest.approx(np.sqrt(3 * 0.2 * 0.8), abs=0.01)
    assert chapter.ceiling(np.arange(50.0)) == pytest.approx(1)


# what was recorded


def test_recorded_run_is_whole_and_says_where_it_comes_from(runs):
    models = {"grammar": ("VAE", "random weights", "SA-VAE", "SA-VAE, β ≤ 0.3"),
              "questions": ("VAE", "VAE, same seconds", "VAE, dropout 0.1", "random weights", "SA-VAE")}  # fmt: skip
    wanted = {(corpus, model, seed) for corpus in models for model in models[corpus] for seed in range(5)}
    assert {(row["corpus"], row["model"], row["seed"]) for row in runs} == wanted and len(runs) == len(wanted)
    for row in runs:
        assert {"command", "commit", "device", "threads", "python", "torch", "seconds", "seed"} <= row.keys()
        assert not row["commit"].endswith("dirty")
    assert runs == rows(ROOT / "data" / "results" / "saliency.jsonl")


def test_a_vae_was_given_the_seconds_of_the_sa_vae(runs):
    """It stopped within them, and not before five epochs had brought nothing better."""
    cost = {row["method"]: row["seconds"] for row in recorded("text_costs") if row["corpus"] == "questions"}
    for vae, sa_vae in zip(of(runs, "questions", "VAE, same seconds"), of(runs, "questions", "SA-VAE"), strict=True):
        assert len(vae["valid"]) * cost["VAE"] < len(sa_vae["valid"]) * cost["SA-VAE"]
        assert vae["valid"].index(min(vae["valid"])) == len(vae["valid"]) - 6


def test_recorded_truth_and_classes_are_the_grammars(chapter, runs):
    for row in of(runs, "grammar", "SA-VAE"):
        for one in row["examples"]:
            assert len(word_classes(one["words"][:-1])) == len(one["truth"]) - 1
            assert sum(one["truth"]) == pytest.approx(np.log(360), abs=1e-3)
        test = chapter.new_world(row["seed"]).test
        assert row["examples"][0]["words"][:-1] == test.words[0]


def test_a_recorded_profile_can_be_made_again(chapter, runs):
    """Random weights need no training: their part of the figures, slot by slot, made as the script makes it. Another
    processor rounds differently: 2 % of room.
    """
    (row,) = [row for row in of(runs, "grammar", "random weights") if row["seed"] == 0]
    test, model = chapter.new_world(0).test, chapter.new_model(0).requires_grad_(False)
    lam = chapter.codes(model, test.x, chapter.STEPS["SA-VAE"])
    table = chapter.token_table(model, test.x, lam, prior=200)
    for length, mine in table.groupby("length"):
        profile = mine.groupby("place")[["saliency", "information"]].mean()
        np.testing.assert_allclose(profile.saliency, row[f"saliency_{length}"], rtol=0.02)
        np.testing.assert_allclose(profile.information, row[f"information_{length}"], atol=0.005)


def test_a_recorded_vae_can_be_trained_again(chapter, runs):
    """The figure's curve of the collapsed VAE, seed 0: it stays collapsed, its slopes small, wherever it is trained."""
    (row,) = [row for row in of(runs, "grammar", "VAE") if row["seed"] == 0]
    world = chapter.new_world(0)
    model, history = chapter.train(world, "VAE", 0)
    assert history[-1].valid == pytest.approx(row["valid"][-1], abs=0.5)
    lam = chapter.codes(model, world.test.x, 0)
    table = chapter.token_table(model, world.test.x, lam, prior=2)
    assert table.saliency.mean() == pytest.approx(row["mean_saliency"], abs=0.02)
