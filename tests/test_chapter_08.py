"""What the reader builds in chapter 8 agrees with the library, with enumeration, and with the recorded run."""

import copy
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from cases import draws_other_sequences, generator, noise
from torch.testing import assert_close

from savae_lite.exact import exact_elbo, log_evidence, tabulate
from savae_lite.models import LSTMOracle
from savae_lite.notebook import built
from savae_lite.records import recorded

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def chapter():
    threads = torch.get_num_threads()
    yield built(ROOT / "chapters" / "08_matching.ipynb")
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def tiny(chapter):
    """Sequences of two words out of four, few enough to enumerate."""
    oracle = LSTMOracle(4, length=2, embedding=3, hidden=3, z_scale=2.0, generator=generator(1))
    x, _ = oracle.sample(3000, generator=generator(2))
    return SimpleNamespace(vocabulary=4, width=3, steps=3, seed=0, oracle=oracle, x=x[:200], valid=x[:50], more=x)


def learned(chapter, world, seed=3):
    return chapter.Student(world, True, generator(seed), z_start=1.0)


def test_the_likelihood_is_the_librarys(chapter, tiny):
    x, z, oracle = tiny.x[:6], noise(5, 6, 2, seed=1), copy.deepcopy(tiny.oracle).double()
    assert_close(chapter.log_likelihood(oracle, x, z), oracle.log_likelihood(x)(z))


def test_a_student_of_a_given_model_has_the_oracles(chapter, tiny):
    student = chapter.Student(tiny, False, generator(3))
    for name, value in tiny.oracle.named_parameters():
        assert torch.equal(dict(student.speaker.named_parameters())[name], value)
    assert all(p.requires_grad for p in student.encode.parameters())
    assert not any(p.requires_grad for p in student.speaker.parameters())


def test_a_learned_model_keeps_the_lstm_and_nothing_of_the_output(chapter, tiny):
    student = learned(chapter, tiny)
    mine, known = dict(student.speaker.named_parameters()), dict(tiny.oracle.named_parameters())
    to_learn = {name for name, value in mine.items() if value.requires_grad}
    assert to_learn == {"output", "output_bias", "z_output"}
    for name in known:
        assert torch.equal(mine[name], known[name]) == (name not in to_learn)
    assert not any(value.requires_grad for value in known.values())


def test_the_divergence_is_that_of_all_sequences(chapter, tiny):
    student = learned(chapter, tiny).requires_grad_(False)
    everything = torch.tensor(list(product(range(4), repeat=2)))
    of_oracle, of_student = (
        log_evidence(tabulate(copy.deepcopy(model).double().log_likelihood(everything), len(everything), 2))
        for model in (tiny.oracle, student)
    )
    p, less = of_oracle.exp(), of_oracle - of_student
    assert_close(p.sum(), torch.ones((), dtype=torch.float64), atol=1e-4, rtol=0)
    wanted = (p * less).sum()
    error = ((p * (less - wanted).square()).sum() / len(tiny.more)).sqrt()
    mean, standard_error = chapter.divergence(tiny, student)
    assert wanted > 0.1 and abs(mean - wanted) < 4 * error
    assert_close(standard_error, error.item(), rtol=0.1, atol=0)


def test_bounds_are_exact_and_averaged_over_draws(chapter, tiny):
    student = learned(chapter, tiny).requires_grad_(False)
    x = tiny.x[:7]
    table = chapter.ruler(student, x)
    bounds, lam = chapter.exact_bounds(student, table, x, 0.05, "VAE+SVI", draws=3, marks=(0, 2, 5))
    assert bounds.shape == (3, 7) and lam.shape == (3, 3, 7, 4)
    assert_close(bounds[0], -exact_elbo(table, student.encode(x)))
    assert_close(bounds[2], -torch.stack([exact_elbo(table, each) for each in lam[2]]).mean(0))
    from_zero, lam = chapter.exact_bounds(student, table, x, 0.05, "SVI", draws=1, marks=(0, 5))
    assert not lam[0].any() and (from_zero.mean(1)[1] < from_zero.mean(1)[0])


def test_training_returns_the_best_epoch(chapter, tiny):
    student, facts = chapter.train(tiny, "learned", "SA-VAE", 2, rate=0.05, epochs=4, model_adam=0.3)
    again = chapter.validation_bound(student, tiny.valid, 0.05, 2, "SA-VAE")
    assert len(facts["history"]) == 4 and again == min(facts["history"])


def test_nothing_is_trained_in_no_epochs(chapter, tiny):
    _, facts = chapter.train(tiny, "oracle", "SVI", 2, rate=0.05, epochs=0)
    assert facts == {"seconds": 0.0, "history": []}


@pytest.mark.skipif(
    draws_other_sequences(), reason="NOT TESTED: this torch draws other sequences than the recorded runs"
)
@pytest.mark.parametrize("setting", ["oracle", "learned"])
def test_a_small_recorded_row_is_made_again(chapter, setting):
    """Within 0.05 nats: the same code, but not the same processor's rounding, which training amplifies."""
    (row,) = (
        row
        for row in recorded("matching")
        if (row["size"], row["setting"], row["method"], row["budget"], row["seed"])
        == ("small", setting, "VAE", "epochs", 1)
    )
    world = chapter.new_world("small", 1)
    student, facts = chapter.train(world, setting, "VAE", 0, **chapter.TUNED[setting, "VAE"])
    table = chapter.ruler(student, world.test)
    assert_close(torch.tensor(facts["history"]), torch.tensor(row["history"]), atol=0.05, rtol=0)
    rate = row["test_rates"][3]
    bounds, _ = chapter.exact_bounds(student, table, world.test, rate, "VAE", draws=4)
    assert_close(bounds.mean(1).tolist(), row["test_bound"][3], atol=0.05, rtol=0)
    assert abs(-log_evidence(table).mean().item() - row["nll"]) < 0.05
