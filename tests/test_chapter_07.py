"""What the reader builds in chapter 7 agrees with the library or a closed form, on inputs that the chapter does not
use."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from cases import generator, noise
from torch.testing import assert_close

from savae_lite.adjoint import kept, recomputed, refine
from savae_lite.exact import exact_elbo, gaps
from savae_lite.images import MLPVAE
from savae_lite.models import LinearGaussian
from savae_lite.notebook import built
from savae_lite.records import recorded
from savae_lite.savae import METHODS, from_prior, savae_loss
from savae_lite.svi import last, svi

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def chapter():
    threads = torch.get_num_threads()
    yield built(ROOT / "chapters" / "07_semi_amortized.ipynb")
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def small(chapter):
    """A world with few sequences, so that its tables cost little."""
    oracle, draws = chapter.new_oracle(7), generator(1)
    valid, test = (chapter.ruled(oracle, rows, draws) for rows in (4, 6))
    held_out = chapter.codes(torch.cat([valid.x, test.x]))
    return SimpleNamespace(seed=7, oracle=oracle, valid=valid, test=test, held_out=held_out)


def images():
    model = MLPVAE(6, 5, 3, generator=generator(2)).double()
    return model, (noise(4, 6) > 0).double()


@pytest.mark.parametrize("steps", [0, 1, 4])
@pytest.mark.parametrize("momentum", [0.0, 0.7])
def test_the_loss_and_its_gradient_are_the_librarys(chapter, steps, momentum):
    model, x = images()
    eps, how = noise(steps + 1, 2, 4, 3, seed=1), dict(lr=0.05, momentum=momentum)
    weights = list(model.parameters())
    mine = chapter.semi_amortized_loss(model, x, eps, **how)
    for adjoint in (kept, recomputed):
        library = savae_loss(model, x, eps, adjoint=adjoint, **how)
        assert_close(mine, library, rtol=1e-12, atol=1e-12)
        of_mine, of_library = (torch.autograd.grad(loss.mean(), weights, retain_graph=True) for loss in (mine, library))
        assert_close(of_mine, of_library, rtol=1e-8, atol=1e-11)


def test_at_the_exact_posterior_steps_without_noise_stay(chapter):
    model = LinearGaussian(torch.tensor([[1.0], [-0.5]], dtype=torch.float64), 0.8)
    x = noise(5, 2, seed=3)
    eps = torch.tensor([-1.0, 1.0], dtype=torch.float64).view(1, 2, 1, 1).expand(6, 2, 5, 1)  # mean 0, variance 1
    loss = chapter.semi_amortized_loss(model_with_a_leaf(model), x, eps, lr=0.1, momentum=0.5)
    assert_close(loss, -model.log_evidence(x))


def model_with_a_leaf(model):
    return SimpleNamespace(encode=lambda x: model.encode(x).requires_grad_(), log_likelihood=model.log_likelihood)


def test_straight_ends_where_the_steps_end_and_passes_the_gradient_on(chapter):
    losses = [lambda lam, c=c: (lam.square() * c).sum(-1) for c in (0.5, 1.0, 2.0)]
    lam = noise(3, 2).requires_grad_()
    end = refine(losses, lam, lr=0.1, adjoint=chapter.straight)
    assert_close(end, last(svi(losses, lam.detach(), lr=0.1)))
    assert_close(torch.autograd.grad(end.square().sum(), lam)[0], 2 * end.detach())


def test_the_methods_are_the_librarys_and_one_more(chapter):
    assert set(chapter.HOW) == {*METHODS, "first order"}
    trained = {method for _, method, _ in chapter.TRAINED}
    assert trained == set(chapter.HOW) - {"VAE+SVI"}  # whose encoder is the VAE's


@pytest.mark.parametrize("method", ["VAE+SVI", "VAE+SVI+KL", "first order", "SA-VAE"])
def test_every_method_reports_the_same_end(chapter, method):
    """Less what ``teach`` adds, the value is −ELBO(λ_K) whichever way the encoder learns."""
    model, x = images()
    eps, how = noise(4, 2, 4, 3, seed=1), {**chapter.HOW[method]}
    how.pop("teach", None)
    if method in ("VAE+SVI", "VAE+SVI+KL"):
        how = dict(start=lambda model, x: model.encode(x))
    value = savae_loss(model, x, eps, lr=0.05, **how)
    assert_close(value, chapter.semi_amortized_loss(model, x, eps, lr=0.05, momentum=0.0))


def test_codes_are_one_to_one(chapter):
    x = torch.randint(20, (500, 5), generator=generator(3))
    assert len(set(chapter.codes(x).tolist())) == len({tuple(row) for row in x.tolist()})


def test_no_held_out_sequence_is_trained_on(chapter, small):
    batches = list(chapter.fresh(small, 7, generator(4)))
    assert [len(x) for x in batches] == [chapter.BATCH] * 7
    held_out = {tuple(row) for row in torch.cat([small.valid.x, small.test.x]).tolist()}
    assert held_out.isdisjoint(tuple(row) for x in batches for row in x.tolist())


def test_limited_encoders_see_what_they_should(chapter):
    x = torch.tensor([[1, 2, 3, 4, 5], [9, 9, 9, 9, 5], [1, 2, 3, 4, 6]])
    last_word, blind = (chapter.ENCODERS[name](generator(1)) for name in ("last word", "blind"))
    for encoder in (last_word, blind):
        encoder.table.data = noise(20, 4)
    assert torch.equal(last_word(x), last_word.table[torch.tensor([5, 5, 6])])
    assert torch.equal(blind(x), blind.table[:1].expand(3, 4))


def test_training_lowers_the_gap_and_depends_on_its_seed_alone(chapter, small):
    first, again = (chapter.train(small, "SA-VAE", 2, 0.01, epochs=1)[0].encode(small.test.x) for _ in range(2))
    assert torch.equal(first, again) and not first.requires_grad
    prior = gaps(small.test.table, torch.zeros_like(first), small.test.best)[1]
    assert gaps(small.test.table, first, small.test.best)[1].mean() < 0.7 * prior.mean()


def test_paths_start_where_they_should_and_follow_svi(chapter, small):
    model, _ = chapter.train(small, "VAE", 0, 1.0, epochs=0)
    route = chapter.paths(model, small.test, 0.01, 3, draws=2)
    assert route.shape == (4, 2, 6, 4)
    assert_close(route[0], model.encode(small.test.x).expand(2, -1, -1))
    assert not torch.equal(route[3, 0], route[3, 1])  # draws of the noise differ
    assert (chapter.paths(model, small.test, 0.01, 3, start=from_prior)[0] == 0).all()


def test_gaps_after_are_those_of_the_ruler(chapter, small):
    model, _ = chapter.train(small, "VAE", 0, 1.0, epochs=0)
    found = chapter.gaps_after(model, small.test, 0.01, marks=(0, 2), draws=2)
    route = chapter.paths(model, small.test, 0.01, 2, draws=2)
    wanted = torch.stack([gaps(small.test.table, lam, small.test.best)[1] for lam in route[2]]).mean(0)
    assert_close(found[1], wanted)
    assert (exact_elbo(small.test.table, small.test.best) >= exact_elbo(small.test.table, route[0, 0]) - 1e-6).all()


@pytest.mark.parametrize("steps", [0, 1, 6])
def test_the_best_start_of_the_toy_is_where_its_slope_is_zero(chapter, steps):
    m, h, lr = noise(7), noise(7, seed=1).square() + 0.1, 0.07
    c = chapter.best_start(m, h, lr, steps).requires_grad_()
    loss = chapter.toy(c, m, h, lr, steps)
    shrunk = (1 - lr * h) ** steps * (c.detach() - m)
    assert_close(loss.detach(), (0.5 * h * shrunk.square()).mean())
    (slope,) = torch.autograd.grad(loss, c)
    assert_close(slope, torch.zeros_like(slope), rtol=0, atol=1e-12)


def test_recorded_rows_are_of_the_rates_that_the_chapter_names(chapter):
    rows = recorded("semi_amortized")
    assert {(row["encoder"], row["method"], row["k"]) for row in rows} == set(chapter.TRAINED)
    for row in rows:
        assert row["rate"] == chapter.TRAINED[row["encoder"], row["method"], row["k"]]
        assert row["marks"] == list(chapter.MARKS)
        assert len(row["test"]) == len(row["test_rates"]) and len(row["test"][0]) == len(chapter.MARKS)


def test_the_long_training_has_the_epochs_of_the_vae_at_equal_seconds():
    """A row for each seed, so that epochs and not seconds are equal."""
    rows = [row for row in recorded("semi_amortized") if row["encoder"] == "LSTM"]
    epochs = {
        budget: {row["seed"]: row["epochs"] for row in rows if (row["method"], row["budget"]) == (method, budget)}
        for method, budget in (("SA-VAE", "long"), ("VAE", "seconds"))
    }
    assert epochs["long"] == epochs["seconds"] and len(epochs["long"]) == 5
