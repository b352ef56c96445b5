"""What the reader builds in chapter 9 agrees with the library, on inputs that the chapter does not use."""

import functools
from pathlib import Path

import pytest
import torch

from savae_lite.corpora import WHEEL, cache_dir
from savae_lite.data import Vocab
from savae_lite.diagnostics import importance_weighted_nll, perplexity
from savae_lite.notebook import built
from savae_lite.records import recorded, rows
from savae_lite.savae import METHODS, draw_noise, savae_loss
from savae_lite.text import LSTMVAE

ROOT = Path(__file__).parent.parent

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


def test_recorded_run_is_whole_and_says_where_it_comes_from(chapter):
    seen = {(row["method"], row["budget"], row["seed"]) for row in recorded("text_questions")}
    wanted = {(name, "equal", seed) for name in chapter.STEPS for seed in range(5)}
    wanted |= {(name, "converged", seed) for name in ("LM", "VAE", "VAE+SVI", "SA-VAE") for seed in range(5)}
    assert seen == wanted
    for row in recorded("text_questions") + recorded("text_questions_rates"):
        assert {"command", "commit", "device", "threads", "python", "torch", "seconds", "seed"} <= row.keys()
        assert not row["commit"].endswith("dirty")


def test_recorded_files_are_those_of_the_checkout():
    assert recorded("text_questions") == rows(ROOT / "data" / "results" / "text_questions.jsonl")


def test_inner_rates_of_the_chapter_are_the_best_recorded(chapter):
    tuned = recorded("text_questions_rates")
    rates, seeds = {row["rate"] for row in tuned}, {row["seed"] for row in tuned}
    for name in ("SVI", "VAE+SVI", "VAE+SVI+KL", "SA-VAE"):
        valid = {rate: [r["valid"] for r in tuned if (r["method"], r["rate"]) == (name, rate)] for rate in rates}
        assert all(len(values) == len(seeds) for values in valid.values())
        assert chapter.RATES[name] == min(valid, key=lambda rate: sum(valid[rate]))
        assert min(rates) < chapter.RATES[name] < max(rates)  # the grid brackets the best


def test_a_recorded_row_can_be_made_again(chapter):
    """The language model trains in seconds. Another processor rounds differently, hence the tolerance in nats."""
    model, history = chapter.train("LM", seed=0)
    (row,) = [r for r in recorded("text_questions") if (r["method"], r["budget"], r["seed"]) == ("LM", "equal", 0)]
    assert len(history) == row["epochs"]
    assert chapter.measure("LM", model, samples=1)["bound"] == pytest.approx(row["bound"], abs=0.3)
