"""savae_lite.saliency against closed forms, finite differences, enumeration, and models that do not read z."""

import pytest
import torch
from cases import generator, noise, sentences, tiny_lstmvae
from torch import nn

from savae_lite.gaussian import kl, reparameterize
from savae_lite.saliency import (
    input_saliency,
    occlusion,
    output_saliency,
    rank_correlation,
    ranks,
    token_gradients,
    token_information,
)

ROWS, LENGTH, LATENT = 3, 5, 2


def linear(slope, offset):
    """A decoder whose log-likelihoods are linear in z: slope (B, T, D), offset (B, T)."""
    return lambda z: torch.einsum("btd,sbd->sbt", slope, z) + offset


def far(samples=4, seed=1):
    """λ (B, 2D) away from the prior, and noise for it."""
    return 0.5 * noise(ROWS, 2 * LATENT, seed=seed), noise(samples, ROWS, LATENT, seed=seed + 1)


# output saliency


def test_linear_decoder():
    slope, offset = noise(ROWS, LENGTH, LATENT, seed=3), noise(ROWS, LENGTH, seed=4)
    lam, eps = far()
    gradients = token_gradients(linear(slope, offset), reparameterize(lam, eps))
    torch.testing.assert_close(gradients, slope.expand(4, -1, -1, -1))
    torch.testing.assert_close(output_saliency(linear(slope, offset), lam, eps), slope.norm(dim=-1))


def test_mean_before_norm():
    """Of ½ z² the mean slope is the mean of z, which is not the mean of |z|."""
    lam, eps = far()
    z = reparameterize(lam, eps)
    found = output_saliency(lambda z: 0.5 * z.square().sum(-1, keepdim=True), lam, eps)
    torch.testing.assert_close(found[:, 0], z.mean(0).norm(dim=-1))
    assert (found[:, 0] < z.norm(dim=-1).mean(0) - 1e-3).all()


def test_finite_differences_of_a_sentence_model():
    model, x, h = tiny_lstmvae(), sentences(ROWS, LENGTH + 1), 1e-5
    z = reparameterize(*far())
    log_likelihood = model.token_log_likelihood(x)
    gradients = token_gradients(log_likelihood, z)
    for d in range(LATENT):
        step = torch.zeros(LATENT, dtype=z.dtype)
        step[d] = h
        with torch.no_grad():
            slope = (log_likelihood(z + step) - log_likelihood(z - step)) / (2 * h)
        torch.testing.assert_close(gradients[..., d], slope, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("skip", [True, False])
def test_unused_z_has_exactly_zero(skip):
    model, x = tiny_lstmvae(skip=skip), sentences(ROWS, LENGTH + 1)
    with torch.no_grad():
        for weight in (model.z_input, model.z_state, model.z_output):
            weight.zero_()
    lam, eps = far()
    assert torch.equal(output_saliency(model.token_log_likelihood(x), lam, eps), torch.zeros(ROWS, LENGTH).double())
    information = token_information(model.token_log_likelihood(x), lam, eps, noise(7, LATENT))
    torch.testing.assert_close(information, torch.zeros_like(information), rtol=0, atol=1e-12)


def test_a_decoder_without_any_graph_to_z():
    lam, eps = far()
    found = output_saliency(lambda z: torch.ones(*z.shape[:2], LENGTH).double(), lam, eps)
    assert torch.equal(found, torch.zeros(ROWS, LENGTH).double())


def test_a_token_that_z_does_not_reach_among_others_that_it_does():
    lam, eps = far()
    found = output_saliency(lambda z: torch.stack([z.sum(-1), torch.ones_like(z[..., 0])], -1), lam, eps)
    assert (found[:, 0] > 0).all() and torch.equal(found[:, 1], torch.zeros(ROWS).double())


def test_rows_do_not_mix_and_nothing_is_left_behind():
    model, x = tiny_lstmvae(), sentences(ROWS, LENGTH + 1)
    lam, eps = far()
    lam.requires_grad_()
    together = output_saliency(model.token_log_likelihood(x), lam, eps)
    alone = [
        output_saliency(model.token_log_likelihood(x[i : i + 1]), lam[i : i + 1], eps[:, i : i + 1]) for i in range(3)
    ]
    torch.testing.assert_close(together, torch.cat(alone))
    assert not together.requires_grad and lam.grad is None and all(p.grad is None for p in model.parameters())
    with torch.no_grad():
        torch.testing.assert_close(output_saliency(model.token_log_likelihood(x), lam, eps), together)


def test_summed_log_likelihoods_are_refused():
    model, x = tiny_lstmvae(), sentences(ROWS, LENGTH + 1)
    with pytest.raises(ValueError, match=r"must return one value a token.*got \(4, 3\).*token_log_likelihood"):
        output_saliency(model.log_likelihood(x), *far())


# information


def test_token_information_of_a_code_that_can_be_enumerated():
    """Where p(x_t|z) depends on the sign of z alone, prior samples that are half and half give the exact sum."""
    table = torch.tensor([[0.5, 0.9, 0.2], [0.5, 0.3, 0.6]], dtype=torch.float64)  # sign of z, token

    def log_likelihood(z):
        return table.log()[(z[..., 0] > 0).long()]

    prior = torch.tensor([[-1.0], [2.0], [1.0], [-3.0]], dtype=torch.float64)
    lam = torch.tensor([[-9.0, -8.0], [9.0, -8.0]], dtype=torch.float64)
    found = token_information(log_likelihood, lam, noise(3, 2, 1), prior, chunk=3)
    begin = table.cumprod(1).mean(0)  # p(x_≤t)
    after = begin / torch.cat([torch.ones(1).double(), begin[:-1]])
    torch.testing.assert_close(found, table.log() - after.log())


def test_information_of_a_sentence_is_the_sum_of_its_tokens():
    model, x = tiny_lstmvae(), sentences(ROWS, LENGTH + 1)
    lam, eps = far()
    prior = noise(60, LATENT, seed=9)
    found = token_information(model.token_log_likelihood(x), lam, eps, prior)
    with torch.no_grad():
        given = model.log_likelihood(x)(reparameterize(lam, eps)).mean(0)
        evidence = model.log_likelihood(x)(prior[:, None].expand(-1, ROWS, -1)).exp().mean(0).log()
    torch.testing.assert_close(found.sum(1), given - evidence)
    torch.testing.assert_close(found, token_information(model.token_log_likelihood(x), lam, eps, prior, chunk=7))


# the encoder's side


class LinearEncoder(nn.Module):
    """λ = Σ_t a_t A e_t, with a table of embeddings: the slope of μ in e_t is a_t A."""

    def __init__(self):
        super().__init__()
        self.words = nn.Parameter(noise(6, 4, seed=20))
        self.map, self.weight = noise(4, 2 * LATENT, seed=21), noise(LENGTH, seed=22)

    def forward(self, x):
        return torch.einsum("t,bte->be", self.weight, self.words[x]) @ self.map


def test_input_saliency_of_a_linear_encoder():
    encoder, x = LinearEncoder(), sentences(ROWS, LENGTH, vocabulary=6)
    expected = encoder.weight.abs() * encoder.map[:, :LATENT].norm()  # of the mean, not of the log-variance
    torch.testing.assert_close(input_saliency(encoder, x), expected.expand(ROWS, -1))


def test_input_saliency_by_finite_differences():
    """A word that occurs once has an embedding of its own: move it."""
    model, x, h = tiny_lstmvae(8), torch.tensor([[0, 5, 3, 7, 1]]), 1e-5
    found = input_saliency(model.encoder, x)
    words = model.encoder.words
    slopes = torch.zeros(5, dtype=torch.float64)
    with torch.no_grad():
        for t, token in enumerate(x[0].tolist()):
            for e in range(words.shape[1]):
                ends = []
                for sign in (1, -1):
                    words[token, e] += sign * h
                    ends.append(model.encode(x)[0, :LATENT].clone())
                    words[token, e] -= sign * h
                slopes[t] += ((ends[0] - ends[1]) / (2 * h)).square().sum()
    torch.testing.assert_close(found[0], slopes.sqrt(), rtol=1e-6, atol=1e-8)


def test_input_saliency_tells_two_places_of_one_word_apart():
    model, x = tiny_lstmvae(), torch.tensor([[0, 3, 3, 3, 1]])
    assert len(set(input_saliency(model.encoder, x)[0].tolist())) == 5
    assert model.encoder.words.grad is None


def test_occlusion():
    encoder, x = LinearEncoder(), torch.tensor([[0, 5, 2, 4, 1]])
    found = occlusion(encoder, x, 2)
    moved = torch.tensor([[0, 5, 2, 2, 1]])
    torch.testing.assert_close(found[:, 3], kl(encoder(x), encoder(moved)).detach())
    assert found[0, 2].abs() < 1e-15 and (found[0, [0, 1, 3, 4]] > 0).all() and not found.requires_grad


def test_occlusion_of_an_encoder_that_does_not_listen():
    x = sentences(ROWS, LENGTH)
    found = occlusion(lambda x: torch.ones(len(x), 4).double(), x, 2)
    assert torch.equal(found, torch.zeros(ROWS, LENGTH).double())


# ranks


def test_rank_correlation_is_scipys():
    stats = pytest.importorskip("scipy.stats")
    for seed in range(5):
        a = torch.randint(0, 6, (40,), generator=generator(seed)).double()
        b = a + 3 * noise(40, seed=seed + 50)
        torch.testing.assert_close(ranks(a).numpy(), stats.rankdata(a))
        assert rank_correlation(a, b) == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-12)


def test_rank_correlation_sees_order_only():
    a = noise(30)
    assert rank_correlation(a, a.exp()) == pytest.approx(1)
    assert rank_correlation(a, -a.exp()) == pytest.approx(-1)


@pytest.mark.parametrize("a, b, said", [
    (torch.ones(3), torch.arange(3.0), "at least two different values"),
    (torch.ones(3), torch.ones(4), r"got \(3,\) and \(4,\)"),
    (torch.ones(3, 2), torch.ones(3, 2), "Flatten them"),
])  # fmt: skip
def test_what_cannot_be_ranked_is_refused(a, b, said):
    with pytest.raises(ValueError, match=said):
        rank_correlation(a, b)
