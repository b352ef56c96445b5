"""Exercises of chapter 10: diagnosing training logs, a schedule that is reset, free bits, words that are hidden."""

import torch

from savae_lite.exercises import Exercise

BOS, UNK = 0, 2


def logs():
    """KL, MI, bound and the language model's bound of N trainings, each ``(N,)``, in nats."""
    six = [
        # KL, MI, bound, language model
        (0.02, 0.00, 19.2, 18.3),  # collapsed
        (1.25, 0.09, 19.9, 18.3),  # KL without information
        (1.10, 1.02, 17.9, 18.3),  # informed, and below the language model
        (3.90, 3.60, 20.4, 18.3),  # informed, at a price
        (0.60, 1.90, 18.1, 18.3),  # impossible: MI above KL
        (0.04, -0.01, 18.2, 18.3),  # collapsed, although its bound is the better one
    ]
    more = [
        (0.09, 0.08, 30.0, 31.0),  # collapsed, though all of its KL is MI
        (0.11, 0.02, 30.5, 31.0),  # KL without information, though the bound is the better one
        (2.40, 1.30, 31.0, 31.0),  # informed, and no worse
        (2.40, 1.10, 30.0, 31.0),  # less than half of the KL informs
        (0.00, 0.25, 31.0, 31.0),  # impossible comes first: KL is below 0.1 too
        (1.00, 1.05, 30.0, 31.0),  # MI above KL by noise alone
        (0.50, 0.40, 32.0, 31.0),
    ]
    return [tuple(torch.tensor(cases, dtype=torch.float64).T) for cases in (six, more)]


def verdicts(kl, mi, bound, language_model):
    """Codes 0 collapsed, 1 KL without information, 2 informed at a price, 3 informed and no worse, 4 impossible."""
    code = torch.where(bound > language_model, 2, 3)
    code = torch.where(mi < kl / 2, 1, code)
    code = torch.where((kl < 0.1) & (mi < 0.1), 0, code)
    return torch.where(mi > kl + 0.2, 4, code)


def by_kl_alone(kl, mi, bound, language_model):
    """you let KL decide. A KL without MI informs of nothing: ask for MI ≥ KL / 2 before you call a run informed."""
    code = torch.where(kl < 0.1, 0, torch.where(bound > language_model, 2, 3))
    return torch.where(mi > kl + 0.2, 4, code)


def by_bound(kl, mi, bound, language_model):
    """you call runs informed because their bound is good. A collapsed model can have a good bound: it is a language
    model."""
    code = verdicts(kl, mi, torch.full_like(bound, torch.inf), language_model)
    return torch.where((bound <= language_model) & (code < 4), 3, code)


def trusting(kl, mi, bound, language_model):
    """you accept an MI above the KL. KL is MI plus a divergence, so by more than noise it is a broken measurement."""
    code = torch.where(bound > language_model, 2, 3)
    code = torch.where(mi < kl / 2, 1, code)
    return torch.where((kl < 0.1) & (mi < 0.1), 0, code)


def without_noise(kl, mi, bound, language_model):
    """you allow no noise: an estimated MI may exceed the KL by up to 0.2 nats, and may fall below zero."""
    return torch.where(mi > kl, 4, verdicts(kl, mi, bound, language_model))


def price_reversed(kl, mi, bound, language_model):
    """you took the higher bound for the better one. These are bounds on −log p(x): lower is better."""
    code = verdicts(kl, mi, bound, language_model)
    return torch.where(code == 2, 3, torch.where(code == 3, 2, code))


def collapsed_last(kl, mi, bound, language_model):
    """you ask for MI ≥ KL / 2 first. Below 0.1 nats both are noise, and the run has collapsed whatever their ratio."""
    code = torch.where(bound > language_model, 2, 3)
    code = torch.where((kl < 0.1) & (mi < 0.1), 0, code)
    code = torch.where(mi < kl / 2, 1, code)
    return torch.where(mi > kl + 0.2, 4, code)


diagnosis = Exercise(verdicts, logs, [by_kl_alone, by_bound, trusting, without_noise, price_reversed, collapsed_last])


def trainings():
    """Epochs, minibatches an epoch, and steps a cycle."""
    return [(4, 5, 10), (2, 6, 3), (3, 4, 7)]


def cycles(epochs, minibatches, period):
    """β of every step ``(epochs · minibatches,)``: up from 0 to 1 in the first half of a period, then 1."""
    step = torch.arange(epochs * minibatches, dtype=torch.float64)
    return (step % period / (period / 2)).clamp(max=1)


def reset_by_batch(epochs, minibatches, period):
    """β is 0 in every step: the count starts anew inside the loop over minibatches. Let it count the whole training."""
    return torch.zeros(epochs * minibatches, dtype=torch.float64)


def reset_by_epoch(epochs, minibatches, period):
    """the count starts anew with every epoch. A period may be longer than an epoch: count the whole training."""
    return cycles(1, minibatches, period).repeat(epochs)


def by_epochs(epochs, minibatches, period):
    """β moves once an epoch: you count epochs where steps belong."""
    return cycles(1, epochs, period).repeat_interleave(minibatches)


def one_ramp(epochs, minibatches, period):
    """β never comes down again: take the step modulo the period."""
    step = torch.arange(epochs * minibatches, dtype=torch.float64)
    return (step / (period / 2)).clamp(max=1)


def whole_period(epochs, minibatches, period):
    """your ramp takes the whole period, and β never stays at 1: rise in the first half only."""
    step = torch.arange(epochs * minibatches, dtype=torch.float64)
    return step % period / period


def count_from_one(epochs, minibatches, period):
    """your first step is number 1; it is number 0, and its β is 0."""
    step = torch.arange(1, epochs * minibatches + 1, dtype=torch.float64)
    return (step % period / (period / 2)).clamp(max=1)


schedule = Exercise(
    cycles, trainings, [reset_by_batch, reset_by_epoch, by_epochs, one_ramp, whole_period, count_from_one]
)


def divergences():
    """KL of each row and unit ``(B, D)``, and the floor."""
    generator = torch.Generator().manual_seed(0)
    few, many = (torch.rand(*shape, generator=generator, dtype=torch.float64) for shape in ((3, 4), (20, 6)))
    few = few * torch.tensor([0.1, 0.5, 1.0, 3.0], dtype=torch.float64)
    many = many * torch.tensor([0.0, 0.1, 0.4, 0.6, 1.0, 2.0], dtype=torch.float64)
    quiet = few.detach() * 0.3
    return [(few.requires_grad_(), 0.3), (many.requires_grad_(), 0.2), (quiet.requires_grad_(), 0.25)]


def free(units, floor):
    """Σ_d max(floor, mean over rows)."""
    return units.mean(0).clamp(min=floor).sum()


def free_by_row(units, floor):
    """you take the maximum for every row. The batch as a whole has the floor: average over rows first."""
    return units.clamp(min=floor).mean(0).sum()


def free_in_total(units, floor):
    """you compare the sum over units with one floor: then one unit can use what is free for all. Each has a floor."""
    return units.mean(0).sum().clamp(min=floor)


def free_total_of_all(units, floor):
    """you compare the sum over units with D floors. Each unit has its own floor: take the maximum before the sum."""
    return units.mean(0).sum().clamp(min=floor * units.shape[1])


def capped(units, floor):
    """your maximum is a minimum: a floor holds the KL up, it does not hold it down."""
    return units.mean(0).clamp(max=floor).sum()


def discounted(units, floor):
    """you subtract the floor. The published form charges max(floor, KL): the gradient is the same, the value is not."""
    return (units.mean(0) - floor).clamp(min=0).sum()


def mean_of_units(units, floor):
    """you average over units where they are summed: a KL is a sum over the dimensions of z."""
    return units.mean(0).clamp(min=floor).mean()


free_bits = Exercise(
    free, divergences, [free_by_row, free_in_total, free_total_of_all, capped, discounted, mean_of_units]
)


def hidden_words():
    """Token ids x ``(B, T)`` from <s> to </s>, and which of its places are hidden ``(B, T)``."""
    x = torch.tensor([[0, 5, 3, 9, 1], [0, 4, 8, 4, 1], [0, 7, 7, 6, 1]])
    hidden = torch.tensor([[1, 1, 0, 1, 1], [0, 0, 1, 0, 0], [0, 1, 0, 0, 1]]).bool()
    return [(x, hidden), (x.flip(0), hidden)]


def pairs(x, hidden):
    """The decoder's inputs and its targets, each ``(B, T − 1)``."""
    return x.masked_fill(hidden & (x != BOS), UNK)[:, :-1], x[:, 1:]


def targets_too(x, hidden):
    """the targets are hidden, too: the model would learn to predict <unk>. Hide words in the inputs only."""
    both = x.masked_fill(hidden & (x != BOS), UNK)
    return both[:, :-1], both[:, 1:]


def targets_only(x, hidden):
    """you hide what is to be predicted and show what comes before. It is the other way round."""
    return x[:, :-1], x.masked_fill(hidden & (x != BOS), UNK)[:, 1:]


def start_too(x, hidden):
    """<s> is hidden, too. It is no word: it only says where the sentence starts."""
    return x.masked_fill(hidden, UNK)[:, :-1], x[:, 1:]


def shifted_mask(x, hidden):
    """the mask is shifted by one place: hidden[:, t] belongs to x[:, t], an input before it is a target."""
    inputs = x[:, :-1]
    return inputs.masked_fill(hidden[:, 1:] & (inputs != BOS), UNK), x[:, 1:]


def kept_words(x, hidden):
    """your mask is upside down: it hides the words that should stay."""
    return pairs(x, ~hidden)


word_dropout = Exercise(pairs, hidden_words, [targets_too, targets_only, start_too, shifted_mask, kept_words])
