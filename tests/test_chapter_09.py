"""What the reader builds in chapter 9 agrees with the library, on inputs that the chapter does not use."""

import functools
from itertools import product
from pathlib import Path

import pytest
import torch
from torch.distributions import Normal

from savae_lite.data import Vocab
from savae_lite.diagnostics import importance_weighted_nll, perplexity
from savae_lite.download import WHEEL, cache_dir
from savae_lite.elbo import nelbo
from savae_lite.notebook import built
from savae_lite.records import recorded, rows
from savae_lite.savae import METHODS, draw_noise, savae_loss
from savae_lite.text import LSTMVAE

ROOT = Path(__file__).parent.parent
FILES = ("text", "text_costs", "text_dropout", "text_rates")

pytestmark = pytest.mark.skipif(
    not (cache_dir() / WHEEL).exists(), reason="the questions are not in the cache: run python -m savae_lite.corpora"
)


@pytest.fixture(scope="module")
def chapter():
    threads = torch.get_num_threads()
    yield built(ROOT / "chapters" / "09_text.ipynb")
    torch.set_num_threads(threads)


@pytest.fixture(params=[True, False], ids=["skip", "no skip"])
def model(request):
    generator = torch.Generator().manual_seed(5)
    sizes = dict(embedding=3, hidden=4, latent=2, skip=request.param, z_scale=0.7)
    return LSTMVAE(11, **sizes, generator=generator).double()


x = torch.tensor([[0, 5, 3, 9, 1], [0, 2, 8, 4, 1], [0, 7, 7, 6, 1]])


def noise(steps, samples=2):
    return draw_noise(steps, len(x), 2, samples=samples, generator=torch.Generator().manual_seed(6)).double()


@pytest.mark.parametrize("corpus, unknown", [("questions", 0.23), ("sotu", 0.17)])
def test_corpora_are_cut_to_size_and_do_not_overlap(chapter, corpus, unknown):
    made, how = chapter.data(corpus), chapter.SETTINGS[corpus]
    assert tuple(map(len, made.words)) == tuple(map(len, made.ids)) == how["sizes"]
    train, *held_out = ({tuple(words) for words in part} for part in made.words)
    assert not train & set.union(*held_out)
    words = [i for x in made.ids.test for i in x[1:-1].tolist()]
    assert sum(i == Vocab.UNK for i in words) / len(words) == pytest.approx(unknown, abs=0.02)


def test_the_paragraphs_are_eight_times_as_long(chapter):
    short, long = (
        sum(map(len, part.train)) / len(part.train) for part in (chapter.data(c).words for c in ("questions", "sotu"))
    )
    assert 8 <= long / short < 9


def test_vocabulary(chapter):
    sentences = [["b", "a", "?"], ["a", "c", "?"], ["d", "a", "b", "?"]]
    assert chapter.vocabulary(sentences, 6) == Vocab.build(sentences, 6).words


def test_decoder(chapter, model):
    z = noise(1, samples=4)[0]
    torch.testing.assert_close(chapter.decode(model, x, z), model.log_likelihood(x)(z), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("clip", [0.5, 100.0])
def test_loss_and_its_gradient(chapter, model, clip):
    eps, inner = noise(4), dict(lr=0.3, momentum=0.5, clip=clip)
    mine = chapter.semi_amortized_loss(model, x, eps, **inner)
    library = savae_loss(model, x, eps, **inner, **METHODS["SA-VAE"])
    gradient = functools.partial(torch.autograd.grad, inputs=list(model.parameters()), materialize_grads=True)
    torch.testing.assert_close(mine, library, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient(mine.mean()), gradient(library.mean()), rtol=1e-9, atol=1e-12)


def test_importance_weighted_nll(chapter, model):
    args = model.log_likelihood(x), model.encode(x).detach(), noise(1, samples=7)[0]
    torch.testing.assert_close(chapter.importance_weighted(*args), importance_weighted_nll(*args))


def test_perplexity(chapter):
    assert chapter.nats_to_perplexity(9.0, list(x)) == pytest.approx(perplexity(27.0, tokens=12))


@pytest.mark.parametrize("recipe", ["VAE", "SVI", "SA-VAE"])
def test_look_agrees_with_torch_distributions(chapter, recipe):
    model, sentences = chapter.new_model(recipe, seed=3), chapter.data().ids.test[:7]
    found = chapter.look(recipe, model, sentences, 0.1, samples=3, weighted=20)
    generator, begin = torch.Generator().manual_seed(1), 0
    for x in chapter.batches(sentences, 100):
        lam, bound, tight = (values[begin : begin + len(x)] for values in found)
        begin += len(x)
        draw_noise(chapter.RECIPES[recipe].steps, len(x), 6, generator=generator)
        many, few = (draw_noise(1, len(x), 6, samples=count, generator=generator)[0] for count in (20, 3))
        mean, logvar = lam.chunk(2, dim=-1)
        prior, q = Normal(0.0, 1.0), Normal(mean, (logvar / 2).exp())
        z, likelihood = mean + q.scale * many, model.log_likelihood(x)
        weights = likelihood(z) + (prior.log_prob(z) - q.log_prob(z)).sum(-1)
        torch.testing.assert_close(tight, -weights.exp().mean(0).log(), rtol=1e-4, atol=1e-3)
        divergence = torch.distributions.kl_divergence(q, Normal(torch.zeros_like(mean), 1.0)).sum(-1)
        torch.testing.assert_close(bound, divergence - likelihood(mean + q.scale * few).mean(0), rtol=1e-4, atol=1e-3)


def test_a_language_model_has_one_bound(chapter):
    sentences = chapter.data().ids.test[:7]
    model = chapter.new_model("LM", seed=3)
    lam, bound, tight = chapter.look("LM", model, sentences, 1.0, samples=3, weighted=20)
    assert lam.shape == (7, 0)
    torch.testing.assert_close(bound, tight)
    exact = [-model.log_likelihood(x[None])(torch.zeros(1, 1, 0)).item() for x in sorted(sentences, key=len)]
    assert bound.tolist() == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize("recipe", ["SVI", "VAE+SVI"])
def test_bound_after_steps_is_the_bound_of_the_refined_code(chapter, recipe):
    model, sentences = chapter.new_model(recipe, seed=3), chapter.data().ids.test[:5]
    after = chapter.bound_after(recipe, model, sentences, 0.1, marks=(0, 1, 4))
    assert len(after) == 3 and after[2] < after[1] < after[0]
    with torch.no_grad():
        start = chapter.METHODS[recipe].get("start", chapter.from_encoder)
        generator, total = torch.Generator().manual_seed(5), 0.0
        for x in chapter.batches(sentences, 100):
            draw_noise(4, len(x), model.latent, generator=generator)
            eps = draw_noise(1, len(x), model.latent, samples=4, generator=generator)[0]
            total += nelbo(model.log_likelihood(x), start(model, x), eps).sum().item()
    assert after[0] == pytest.approx(total / 5, rel=1e-6)


def test_word_drop_hides_words_from_the_decoder_only_in_training(chapter):
    model, plain = chapter.new_model("word drop 50 %"), chapter.new_model("VAE")
    assert model.word_dropout == 0.5 and plain.word_dropout == 0.0
    sentences = chapter.data().ids.test[:9]
    for name in ("word drop 50 %", "VAE"):  # the same weights, and no generator: the same bound
        torch.testing.assert_close(
            chapter.look(name, model, sentences, 1.0)[1], chapter.look(name, plain, sentences, 1.0)[1]
        )


@pytest.mark.parametrize("corpus", ["questions", "sotu"])
def test_the_recorded_run_is_whole_and_says_where_it_comes_from(chapter, corpus):
    left_out = {"sotu": ("ten samples", "word drop 50 %"), "questions": ()}[corpus]
    budgets = {"sotu": ("epochs", "seconds"), "questions": ("epochs", "seconds", "converged")}[corpus]
    seen = [(row["method"], row["budget"], row["seed"]) for row in recorded("text") if row["corpus"] == corpus]
    wanted = product(set(chapter.RECIPES) - set(left_out), budgets, range(5))
    assert sorted(seen) == sorted(wanted)
    for row in [row for name in FILES for row in recorded(name)]:
        assert {"command", "commit", "device", "threads", "python", "torch", "seconds", "seed"} <= row.keys()
        assert not row["commit"].endswith("dirty")


def test_rows_are_of_the_epochs_that_their_budget_allows(chapter):
    costs = {(row["corpus"], row["method"]): row["seconds"] for row in recorded("text_costs")}
    for row in recorded("text"):
        how, budget = chapter.SETTINGS[row["corpus"]], row["budget"]
        affordable = round(how["epochs"] * costs[row["corpus"], "SA-VAE"] / costs[row["corpus"], row["method"]])
        course, first = row["course"], how["warm_up"] - 1
        assert len(course) == row["epochs"]
        best = first + min(range(len(course) - first), key=course[first:].__getitem__)
        assert {"epochs": how["epochs"], "seconds": affordable, "converged": 100}[budget] >= row["epochs"]
        if budget == "converged" or (budget == "seconds" and row["epochs"] < affordable):
            assert row["epochs"] - 1 - best == 5 or row["epochs"] == 100  # five epochs without a better one


def test_recorded_files_are_those_of_the_checkout():
    for name in FILES:
        assert recorded(name) == rows(ROOT / "data" / "results" / f"{name}.jsonl")


@pytest.mark.parametrize("corpus", ["questions", "sotu"])
def test_inner_rates_of_the_chapter_are_the_best_recorded(chapter, corpus):
    tuned = [row for row in recorded("text_rates") if row["corpus"] == corpus]
    for name in {row["method"] for row in tuned}:
        mine = [row for row in tuned if row["method"] == name]
        rates = sorted({row["rate"] for row in mine})
        valid = {rate: [row["valid"] for row in mine if row["rate"] == rate] for rate in rates}
        assert all(len(values) == 2 for values in valid.values())
        assert chapter.RATES[corpus][name] == min(valid, key=lambda rate: sum(valid[rate]))
        assert rates[0] < chapter.RATES[corpus][name] < rates[-1]  # the grid brackets the best
    assert chapter.RATES["sotu"]["VAE+SVI+KL"] == chapter.RATES["sotu"]["VAE+SVI"]


def test_a_recorded_row_can_be_made_again(chapter):
    """The language model trains in seconds. Another processor rounds differently, hence the tolerance in nats."""
    model, history = chapter.train("LM", seed=0)
    (row,) = [
        r
        for r in recorded("text")
        if (r["corpus"], r["method"], r["budget"], r["seed"]) == ("questions", "LM", "epochs", 0)
    ]
    assert len(history) == row["epochs"]
    assert [epoch.valid for epoch in history][:3] == pytest.approx(row["course"][:3], abs=0.3)
    assert chapter.measure("LM", model, samples=1)["bound"] == pytest.approx(row["bound"], abs=0.3)
