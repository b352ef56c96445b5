"""savae_lite.models against Bayes on a grid, enumeration, and a decoder written a second time."""

from itertools import product

import pytest
import torch
from cases import generator, halves, linear_gaussian, noise, seeds, sentences, tiny_lstmvae
from hypothesis import given, settings
from torch.distributions import MultivariateNormal, Normal
from torch.testing import assert_close

from savae_lite.models import LinearGaussian
from savae_lite.text import LSTMVAE

few = settings(max_examples=8)


# --- the linear-Gaussian model ---


def test_the_posterior_is_that_of_bayes_on_a_grid():
    model, x = linear_gaussian(rows=3)
    axis = torch.linspace(-6, 6, 601, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    prior = Normal(0.0, 1.0).log_prob(grid).sum(-1)
    log_joint = model.log_likelihood(x)(grid[:, None].expand(-1, 3, -1)) + prior[:, None]
    weight = log_joint.softmax(0)
    mean = weight.T @ grid
    covariance = torch.einsum("gb,gi,gj->bij", weight, grid, grid) - mean[:, :, None] * mean[:, None]
    lam_mean, lam_logvar = model.encode(x).chunk(2, -1)
    assert_close(lam_mean, mean, atol=1e-8, rtol=0)
    assert_close(torch.diag_embed(lam_logvar.exp()), covariance, atol=1e-8, rtol=0)
    cell = (axis[1] - axis[0]).square()
    assert_close(model.log_evidence(x), log_joint.logsumexp(0) + cell.log(), atol=1e-8, rtol=0)


@given(seeds)
def test_the_evidence_is_a_normal_for_any_weight(seed):
    weight, x = noise(3, 2, seed=seed), noise(5, 3, seed=seed + 1)
    covariance = weight @ weight.T + 0.49 * torch.eye(3, dtype=torch.float64)
    expected = MultivariateNormal(torch.zeros(3, dtype=torch.float64), covariance).log_prob(x)
    assert_close(LinearGaussian(weight, 0.7).log_evidence(x), expected)


@given(seeds)
def test_the_likelihood_is_a_normal_around_the_image_of_z(seed):
    weight, x, z = noise(3, 2, seed=seed), noise(5, 3, seed=seed + 1), noise(4, 5, 2, seed=seed + 2)
    expected = Normal(z @ weight.T, 0.7).log_prob(x).sum(-1)
    assert_close(LinearGaussian(weight, 0.7).log_likelihood(x)(z), expected)


def test_columns_that_are_not_orthogonal_have_no_diagonal_posterior():
    weight = torch.tensor([[1.0, 1.0], [0.0, 1.0]], dtype=torch.float64)
    with pytest.raises(ValueError, match="orthogonal"):
        LinearGaussian(weight, 0.7).encode(noise(2, 2))


@pytest.mark.parametrize("scale", [0.0, -1.0])
def test_a_scale_that_is_not_positive_is_refused(scale):
    with pytest.raises(ValueError, match=rf"scale.*{scale}"):
        LinearGaussian(torch.eye(2), scale)


# --- the sentence VAE ---


def step(gates, h, c):
    """One LSTM step from gates [input | forget | output | candidate]."""
    i, f, o, g = gates.chunk(4, -1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def read(model, sentence):
    """λ of one sentence, a token at a time."""
    p = dict(model.named_parameters())
    h = c = torch.zeros(p["encoder.recurrent"].shape[0], dtype=torch.float64)
    for token in sentence:
        h, c = step(
            p["encoder.words"][token] @ p["encoder.input"] + p["encoder.bias"] + h @ p["encoder.recurrent"], h, c
        )
    return h @ p["encoder.output"] + p["encoder.output_bias"]


def conditionals(model, prefix, z, *, skip):
    """log p(· | prefix, z) of every next token, for one sentence and one z."""
    p = dict(model.named_parameters())
    h = z @ p["z_state"] + p["z_state_bias"]
    c = torch.zeros_like(h)
    for token in prefix:
        gates = p["words"][token] @ p["input"] + p["bias"] + z @ p["z_input"] + h @ p["recurrent"]
        h, c = step(gates, h, c)
    logits = h @ p["output"] + p["output_bias"]
    return (logits + z @ p["z_output"] if skip else logits).log_softmax(-1)


@pytest.mark.parametrize("skip", [False, True])
def test_the_decoder_is_the_one_written_here(skip):
    model, x, z = tiny_lstmvae(skip=skip), sentences(), noise(2, 3, 2)
    found = model.token_log_likelihood(x)(z)
    for s, b, t in product(range(2), range(3), range(1, 5)):
        expected = conditionals(model, x[b, :t], z[s, b], skip=skip)[x[b, t]]
        assert_close(found[s, b, t - 1], expected, rtol=1e-10, atol=1e-12)


def test_the_encoder_is_the_one_written_here():
    model, x = tiny_lstmvae(), sentences()
    assert_close(model.encode(x), torch.stack([read(model, row) for row in x]), rtol=1e-10, atol=1e-12)


@few
@given(seeds)
def test_the_probabilities_of_all_continuations_sum_to_one(seed):
    """Every id may follow at every step, so the 3⁴ continuations of <s> are everything that can happen."""
    model = tiny_lstmvae(3, skip=True)
    x = torch.tensor([(0, *rest) for rest in product(range(3), repeat=4)])
    z = noise(1, 1, 2, seed=seed).expand(2, len(x), 2)
    assert_close(model.log_likelihood(x)(z).logsumexp(1), torch.zeros(2, dtype=torch.float64), atol=1e-12, rtol=0)


@pytest.mark.parametrize("skip", [False, True])
def test_the_finished_sentences_and_the_unfinished_ones_share_the_mass(skip):
    """Sentences that end within 3 tokens, and the prefixes of 3 that have not: a tree cut at its leaves."""
    model, z = tiny_lstmvae(4, skip=skip), noise(1, 1, 2)
    words = (0, 2, 3)
    mass = 0.0
    for length in (1, 2, 3):
        leaves = [(*body, 1) for body in product(words, repeat=length - 1)]
        leaves += list(product(words, repeat=3)) if length == 3 else []
        x = torch.tensor([(0, *leaf) for leaf in leaves])
        mass += model.log_likelihood(x)(z.expand(1, len(x), 2)).exp().sum().item()
    assert mass == pytest.approx(1.0, abs=1e-12)


def test_the_likelihood_of_a_sentence_is_the_sum_over_its_tokens():
    model, x, z = tiny_lstmvae(), sentences(), noise(4, 3, 2)
    tokens = model.token_log_likelihood(x)(z)
    assert tokens.shape == (4, 3, 4)
    assert_close(model.log_likelihood(x)(z), tokens.sum(-1))


def test_samples_at_once_are_samples_one_at_a_time():
    model, x, z = tiny_lstmvae(skip=True), sentences(), noise(4, 3, 2)
    likelihood = model.log_likelihood(x)
    assert_close(likelihood(z), torch.cat([likelihood(one[None]) for one in z]), rtol=1e-12, atol=1e-12)


def test_rows_at_once_are_rows_one_at_a_time():
    model, x, z = tiny_lstmvae(skip=True), sentences(), noise(2, 3, 2)
    alone = [model.log_likelihood(x[b : b + 1])(z[:, b : b + 1]) for b in range(3)]
    assert_close(model.log_likelihood(x)(z), torch.cat(alone, 1), rtol=1e-12, atol=1e-12)
    assert_close(model.encode(x), torch.cat([model.encode(row[None]) for row in x]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("skip", [False, True])
def test_without_a_latent_it_is_a_language_model(skip):
    model, x = tiny_lstmvae(latent=0, skip=skip), sentences()
    assert model.encode(x).shape == (3, 0)
    p = dict(model.named_parameters())
    x1, z = x[:1], torch.zeros(0, dtype=torch.float64)
    expected = [conditionals(model, x1[0, :t], z, skip=False)[x1[0, t]] for t in range(1, 5)]
    assert_close(model.token_log_likelihood(x1)(z[None, None])[0, 0], torch.stack(expected))
    assert_close(model.log_likelihood(x)(noise(2, 3, 0))[0], model.log_likelihood(x)(noise(1, 3, 0))[0])
    assert p["z_input"].numel() == 0


@pytest.mark.parametrize("skip", [False, True])
def test_z_reaches_every_token_and_every_decoder_parameter_is_used(skip):
    model, x = tiny_lstmvae(skip=skip), sentences()
    z = noise(1, 3, 2).requires_grad_()
    tokens = model.token_log_likelihood(x)(z)
    for t in range(4):
        (gradient,) = torch.autograd.grad(tokens[..., t].sum(), z, retain_graph=True)
        assert (gradient != 0).all()
    tokens.sum().backward()
    _, decoder = halves(model)
    unused = {name for name, p in decoder.items() if p.numel() and (p.grad is None or not p.grad.any())}
    assert unused == (set() if skip else {"z_output"} & {n for n, p in decoder.items() if p.numel()})


def test_weights_start_within_their_bounds_and_from_the_generator_alone():
    def make(seed):
        return LSTMVAE(50, embedding=20, hidden=20, latent=8, generator=generator(seed), skip=True, z_scale=0.4)

    before = torch.get_rng_state()
    model = make(1)
    assert torch.equal(torch.get_rng_state(), before)
    for (name, p), other in zip(model.named_parameters(), make(1).parameters(), strict=True):
        assert torch.equal(p, other)
        bound = 0.4 if name in ("z_input", "z_state", "z_output") else 0.1
        assert p.abs().max() <= bound
        assert p.numel() < 100 or p.abs().max() > 0.9 * bound, name
    assert not torch.equal(model.words, make(2).words)


# --- dropout ---


def test_dropout_is_off_without_a_generator():
    with_dropout, without, x, z = tiny_lstmvae(dropout=0.5), tiny_lstmvae(), sentences(), noise(2, 3, 2)
    assert_close(with_dropout.log_likelihood(x)(z), without.log_likelihood(x)(z), rtol=0, atol=0)


def test_the_masks_are_drawn_once_for_each_function():
    model, x, z, g = tiny_lstmvae(dropout=0.5), sentences(), noise(2, 3, 2), generator(1)
    first, second = model.log_likelihood(x, generator=g), model.log_likelihood(x, generator=g)
    again = model.log_likelihood(x, generator=generator(1))
    assert_close(first(z), first(z), rtol=0, atol=0)
    assert_close(first(z), again(z), rtol=0, atol=0)
    assert not torch.equal(first(z), second(z))
    assert not torch.equal(first(z), model.log_likelihood(x)(z))
    assert_close(first(z), torch.cat([first(one[None]) for one in z]))


def test_dropout_zeroes_or_rescales_embeddings_and_states():
    """One step, one unit: the difference of two logits is 0, h(0)/(1−p) or h(e/(1−p))/(1−p), at known rates."""
    p, rows = 0.25, 40_000
    model = tiny_lstmvae(4, embedding=1, hidden=1, latent=1, dropout=p, scale=1.5)
    z = noise(1, 1, 1).expand(1, rows, 1)
    difference = 0.0
    for sign, token in ((1, 2), (-1, 3)):
        x = torch.tensor([[0, token]]).expand(rows, 2)
        difference += sign * model.log_likelihood(x, generator=generator(5))(z)[0]
    named = dict(model.named_parameters())
    h0 = z[0, 0] @ named["z_state"] + named["z_state_bias"]
    outer = named["output"][:, 2] - named["output"][:, 3]

    def value(embedding):
        gates = embedding @ named["input"] + named["bias"] + z[0, 0] @ named["z_input"] + h0 @ named["recurrent"]
        return step(gates, h0, torch.zeros_like(h0))[0] @ outer / (1 - p)

    word = named["words"][0] / (1 - p)
    values = torch.stack([0 * outer[0], value(0 * word), value(word)])
    values = (values + named["output_bias"][2] - named["output_bias"][3]).detach()
    distance, which = (difference.detach()[:, None] - values).abs().min(1)
    assert distance.max() < 1e-10
    shares = torch.bincount(which, minlength=3) / rows
    assert_close(shares, torch.tensor([p, p * (1 - p), (1 - p) ** 2]), atol=5 * 0.5 / rows**0.5, rtol=0)


# --- word dropout ---


@pytest.mark.parametrize("skip", [False, True])
def test_when_all_words_are_hidden_the_decoder_reads_unk_and_predicts_the_words(skip):
    model, x, z = tiny_lstmvae(word_dropout=1.0, skip=skip), sentences(), noise(2, 3, 2)
    given = model.token_log_likelihood(x, generator=generator(1))(z)
    for t in range(1, x.shape[1]):
        hidden = torch.full((len(x), t + 1), 2)
        hidden[:, 0], hidden[:, -1] = 0, x[:, t]
        assert_close(given[..., t - 1], tiny_lstmvae(skip=skip).token_log_likelihood(hidden)(z)[..., -1])


def test_words_are_hidden_only_with_a_generator_and_a_share():
    model, x, z = tiny_lstmvae(word_dropout=0.5), sentences(), noise(2, 3, 2)
    plain = tiny_lstmvae().log_likelihood(x)(z)
    assert_close(model.log_likelihood(x)(z), plain, rtol=0, atol=0)
    draws = generator(1)
    before = draws.get_state()
    assert_close(tiny_lstmvae().log_likelihood(x, generator=draws)(z), plain, rtol=0, atol=0)
    assert torch.equal(draws.get_state(), before), "without dropout nothing is drawn"


def test_the_hidden_words_are_drawn_once_and_in_the_share_asked_for():
    """Of the three words of a sentence any may be hidden: eight inputs, of known shares."""
    p, rows = 0.3, 20_000
    model, x = tiny_lstmvae(word_dropout=p), torch.tensor([[0, 3, 4, 3, 1]])
    z, many = noise(1, 1, 2), x.expand(rows, 5)
    given = model.log_likelihood(many, generator=generator(2))
    values = given(z.expand(1, rows, 2))[0].detach()
    assert_close(values, given(z.expand(1, rows, 2))[0].detach(), rtol=0, atol=0)
    patterns = torch.cartesian_prod(*[torch.tensor([False, True])] * 3)
    expected = []
    for pattern in patterns:
        inputs = x.clone()
        inputs[0, 1:4][pattern] = 2
        steps = [torch.cat([inputs[:, :t], x[:, t : t + 1]], 1) for t in range(1, 5)]
        expected.append(sum(tiny_lstmvae().token_log_likelihood(step)(z)[0, 0, -1] for step in steps))
    distance, which = (values[:, None] - torch.stack(expected)).abs().min(1)
    assert distance.max() < 1e-10
    hidden = patterns.sum(1)
    shares = torch.bincount(which, minlength=8) / rows
    assert_close(shares, p**hidden * (1 - p) ** (3 - hidden), atol=5 * 0.5 / rows**0.5, rtol=0)


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_share_of_words_out_of_range_is_refused(share):
    with pytest.raises(ValueError, match=f"word_dropout.*{share}"):
        tiny_lstmvae(word_dropout=share)


# --- writing ---


@pytest.mark.parametrize("skip", [False, True])
def test_greedy_generation_is_the_chain_of_the_likeliest_tokens(skip):
    model, z = tiny_lstmvae(skip=skip, scale=1.5), 2 * noise(12, 2, seed=3)
    with torch.no_grad():
        model.output_bias[1] += 1.0
    x = model.generate(z, steps=6)
    expected = torch.ones(12, 7, dtype=torch.long)
    for row, code in zip(expected, z, strict=True):
        row[0] = 0
        for t in range(1, 7):
            row[t] = conditionals(model, row[:t], code, skip=skip).argmax()
            if row[t] == 1:
                break
    lengths = (expected != 1).sum(1)
    assert lengths.min() < lengths.max(), "or the case would show nothing"
    assert_close(x, expected[:, : x.shape[1]])
    assert (expected[:, x.shape[1] :] == 1).all()


def test_what_follows_the_end_is_the_end():
    model, z = tiny_lstmvae(), noise(200, 2, seed=3)
    x = model.generate(z, steps=8, generator=generator())
    assert x.shape[0] == 200 and 2 <= x.shape[1] <= 9 and (x[:, 0] == 0).all()
    ended = (x == 1).cumsum(1) > 0
    assert (x[ended] == 1).all() and ended.any() and not ended.all()


def test_sampled_tokens_have_the_frequencies_of_the_softmax():
    """First tokens, and second tokens after the commonest word, within 5 standard errors."""
    model, rows = tiny_lstmvae(skip=True), 20_000
    code = noise(2, seed=3)
    x = model.generate(code.expand(rows, 2), steps=2, generator=generator(4))
    for prefix, tokens in (((0,), x[:, 1]), ((0, 2), x[x[:, 1] == 2, 2])):
        p = conditionals(model, torch.tensor(prefix), code, skip=True).exp()
        share = torch.bincount(tokens, minlength=5) / len(tokens)
        assert len(tokens) > 1000
        assert ((share - p).abs() < 5 * (p * (1 - p) / len(tokens)).sqrt()).all()


def test_generation_draws_from_its_generator_alone():
    model, z, before = tiny_lstmvae(), noise(20, 2), torch.get_rng_state()
    draws = [model.generate(z, steps=6, generator=generator(seed)) for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    assert torch.equal(torch.get_rng_state(), before)


# --- refusals ---


@pytest.mark.parametrize("function", ["encode", "log_likelihood", "token_log_likelihood"])
@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.tensor([[0, 5, 1]]), "5"),
        (torch.tensor([[0, -1, 1]]), "-1"),
        (torch.tensor([0, 2, 1]), r"\(3,\)"),
        (torch.tensor([[0.0, 2.0, 1.0]]), "float32"),
    ],
)
def test_bad_tokens_are_refused(function, x, message):
    with pytest.raises((ValueError, TypeError), match=message):
        getattr(tiny_lstmvae(), function)(x)


@pytest.mark.parametrize("shape", [(3, 2), (2, 4, 2), (2, 3, 3), (2, 1, 2)])
def test_a_code_of_another_shape_is_refused(shape):
    with pytest.raises((ValueError, RuntimeError)):
        tiny_lstmvae().log_likelihood(sentences())(noise(*shape))


@pytest.mark.parametrize("dropout", [-0.1, 1.0])
def test_a_dropout_out_of_range_is_refused(dropout):
    with pytest.raises(ValueError, match=f"dropout.*{dropout}"):
        tiny_lstmvae(dropout=dropout)
