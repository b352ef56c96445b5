"""savae_lite.grammar against its own definition: enumeration, counting, and tables that read factors back."""

import math
from collections import Counter
from itertools import product

import pytest
import torch

from savae_lite import grammar as module
from savae_lite.data import Vocab, tokenize
from savae_lite.grammar import (
    FACTORS,
    SLOTS,
    TEMPLATES,
    Slot,
    entropy,
    grammar,
    log_prob,
    log_prob_of_prefix,
    token_information,
    word_classes,
)

LENGTH_OF = {11: 0, 14: 1, 18: 2}
COMBINATIONS = list(product(*map(range, FACTORS.values())))


def _sample(rows, seed=0):
    return grammar(rows, torch.Generator().manual_seed(seed))


def _options(template, combination):
    """The words that each slot may hold under one combination of factor values."""
    value = dict(zip(FACTORS, combination, strict=True))
    return [slot.options[value[slot.factor] if slot.factor else 0] for slot in template]


def _brute_force(sentence):
    """p(x) = Σ over all 360 combinations, each from the definition."""
    total = 0.0
    for combination in COMBINATIONS:
        options = _options(TEMPLATES[combination[-1]], combination)
        if len(options) == len(sentence):
            total += math.prod((w in o) / len(o) for w, o in zip(sentence, options, strict=True))
    return total / len(COMBINATIONS)


def _table(factor):
    """word → value of a factor, over all slots that listen to it."""
    return {
        word: value
        for slot in SLOTS
        if slot.factor == factor
        for value, words in enumerate(slot.options)
        for word in words
    }


def test_every_factor_can_be_read_from_the_words():
    sentences, factors = _sample(2000)
    for factor in ("topic", "tense", "question", "mood"):
        table = _table(factor)
        read = [{table[word] for word in sentence if word in table} for sentence in sentences]
        assert read == [{value} for value in factors[factor].tolist()]
    assert [LENGTH_OF[len(sentence)] for sentence in sentences] == factors["length"].tolist()


def test_no_word_serves_two_slots_of_different_kind():
    homes = Counter(word for slot in set(SLOTS) for words in slot.options for word in words)
    assert set(homes.values()) == {1}
    assert len(homes) + 1 == 96 == len(Vocab.build(_sample(4000)[0], 1000)) - 3


def test_shapes_and_form():
    sentences, factors = _sample(500)
    assert {name: len(value) for name, value in factors.items()} == dict.fromkeys(FACTORS, 500)
    assert all(value.dtype == torch.int64 for value in factors.values())
    assert all(s[-1] == "?" and s.count("?") == 1 for s in sentences)
    assert all(tokenize(" ".join(s)) == s for s in sentences)
    with pytest.raises(ValueError, match="rows must be at least 1; got 0"):
        _sample(0)


def test_reproducible_and_without_global_state():
    state = torch.random.get_rng_state()
    (first, _), (again, _), (other, _) = _sample(50), _sample(50), _sample(50, seed=1)
    assert first == again != other
    assert torch.equal(torch.random.get_rng_state(), state)


def test_factors_and_words_are_uniform_and_independent():
    rows = 36_000
    sentences, factors = _sample(rows)
    joint = Counter(zip(*(value.tolist() for value in factors.values()), strict=True))
    assert len(joint) == 360
    chi2 = sum((joint[c] - 100) ** 2 / 100 for c in COMBINATIONS)
    assert abs(chi2 - 359) < 5 * math.sqrt(2 * 359)
    for position in (5, 6, 7, 8, 9):
        counts = Counter(sentence[position] for sentence in sentences)
        expected = rows / len(counts)
        assert all(abs(n - expected) < 5 * math.sqrt(expected) for n in counts.values())


def test_probabilities_sum_to_one():
    """Words of one slot are exchangeable, so one sentence stands for all of its combination."""
    total = 0.0
    for combination in COMBINATIONS:
        options = _options(TEMPLATES[combination[-1]], combination)
        total += math.prod(map(len, options)) * math.exp(log_prob([words[0] for words in options]))
    assert total == pytest.approx(1.0, abs=1e-12)


def test_log_prob_is_the_sum_over_all_derivations():
    for sentence in _sample(40)[0]:
        assert log_prob(sentence) == pytest.approx(math.log(_brute_force(sentence)), abs=1e-12)


def test_log_prob_of_an_ambiguous_grammar(monkeypatch):
    """Words may serve several factor values: every string over the alphabet is tried."""
    slots = (
        Slot("a", "topic", (("x", "y"), ("y", "z"), ("z", "z2"), ("x", "y"))),
        Slot("b", "topic", (("x", "y"), ("x", "y"), ("y", "z"), ("z", "x"))),
        Slot("c", "mood", (("x", "z"), ("x", "y"))),
        Slot("d", None, (("x", "y"),)),
    )
    monkeypatch.setattr(module, "TEMPLATES", (slots[:1], slots[:2], slots))
    monkeypatch.setattr(f"{__name__}.TEMPLATES", module.TEMPLATES)
    alphabet = ("x", "y", "z", "z2", "w")
    total = 0.0
    for length in (1, 2, 3, 4):
        for sentence in product(alphabet, repeat=length):
            p = math.exp(log_prob(sentence))
            assert p == pytest.approx(_brute_force(sentence), abs=1e-15)
            total += p
    assert total == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("sentence", ["", "?", "who is it ?", "tell me , why did the hungry teacher read today ?"])
def test_outside_the_grammar(sentence):
    assert log_prob(sentence.split()) == -math.inf
    with pytest.raises(ValueError, match="one that the grammar can produce"):
        word_classes(sentence.split())


def test_mixed_factor_values_are_outside():
    sentence = tokenize("tell me, why did the hungry chef bake yesterday?")
    assert log_prob(sentence) > -math.inf
    for position, word in ((9, "today"), (0, "i"), (7, "pupil"), (10, ",")):
        assert log_prob([*sentence[:position], word, *sentence[position + 1 :]]) == -math.inf


def test_entropy_is_the_mean_surprise():
    """H = −Σ p log p, summed exactly over the 360 classes of equally likely sentences."""
    exact = 0.0
    for combination in COMBINATIONS:
        options = _options(TEMPLATES[combination[-1]], combination)
        exact -= log_prob([words[-1] for words in options]) / len(COMBINATIONS)
    assert entropy() == pytest.approx(exact, abs=1e-10)
    surprise = -torch.tensor([log_prob(sentence) for sentence in _sample(4000)[0]])
    assert abs(surprise.mean() - entropy()) < 5 * surprise.std() / 4000**0.5


def test_word_classes():
    sentence = tokenize("i wonder, how will the shy singer play soon near that stage with every loud drummer?")
    assert " ".join(word_classes(sentence)) == (
        "opening opening mark question auxiliary determiner adjective noun verb adverb "
        "preposition determiner noun preposition determiner adjective noun mark"
    )


def _matches(combination, known):
    value = dict(zip(FACTORS, combination, strict=True))
    return all(value[name] == wanted for name, wanted in known.items())


def _brute_force_prefix(words, known):
    """p(x_≤t | known): the mean over all combinations with the known values, each from the definition."""
    combinations = [combination for combination in COMBINATIONS if _matches(combination, known)]
    total = 0.0
    for combination in combinations:
        options = _options(TEMPLATES[combination[-1]], combination)
        if len(options) >= len(words):
            total += math.prod((w in o) / len(o) for w, o in zip(words, options, strict=False))
    return total / len(combinations)


SUBSETS = [(), ("topic",), ("length",), ("topic", "tense"), ("question", "mood", "length"), tuple(FACTORS)]


@pytest.mark.parametrize("names", SUBSETS, ids="+".join)
def test_prefixes_and_token_information_are_those_of_enumeration(names):
    sentences, factors = _sample(6)
    for row, sentence in enumerate(sentences):
        known = {name: int(factors[name][row]) for name in names}
        given, free = (
            [_brute_force_prefix(sentence[:t], values) for t in range(len(sentence) + 1)] for values in (known, {})
        )
        for t, p in enumerate(given):
            assert math.exp(log_prob_of_prefix(sentence[:t], known)) == pytest.approx(p, rel=1e-12)
        information = token_information(sentence, known)
        for t, value in enumerate(information):
            exact = math.log(given[t + 1] / given[t]) - math.log(free[t + 1] / free[t])
            assert value == pytest.approx(exact, abs=1e-10)
        assert sum(information) == pytest.approx(math.log(given[-1]) - log_prob(sentence), abs=1e-10)


def test_a_prefix_and_all_that_may_follow():
    """p(x_≤t) = Σ_w p(x_≤t, w), plus the probability that the sentence has ended."""
    words = sorted({word for slot in SLOTS for options in slot.options for word in options} | {"?"})
    for sentence in _sample(3)[0]:
        for t in range(len(sentence)):
            following = math.fsum(math.exp(log_prob_of_prefix([*sentence[:t], word])) for word in words)
            assert following == pytest.approx(math.exp(log_prob_of_prefix(sentence[:t])), rel=1e-12)
        assert log_prob_of_prefix(sentence) == pytest.approx(log_prob(sentence), abs=1e-12)


def test_information_of_all_factors_is_their_entropy():
    """Every sentence says its factors, so I(x; f) = H(f) = H(x) − H(x|f), and no factor is told twice."""
    sentences, factors = _sample(200)
    by_length = {}
    for row, sentence in enumerate(sentences):
        information = token_information(sentence, {name: int(value[row]) for name, value in factors.items()})
        assert sum(information) == pytest.approx(math.log(360), abs=1e-9)
        by_length.setdefault(len(sentence), set()).add(tuple(information))
    assert set(map(len, by_length.values())) == {1}  # it depends on the length, and on no word
    words = [sum(math.log(len(slot.options[0])) for slot in template) for template in TEMPLATES]
    assert entropy() - sum(words) / 3 == pytest.approx(math.log(360), abs=1e-12)
    (long,) = by_length[18]
    told = {0: 2, 3: 5, 4: 3, 6: 4, 10: 1.5, 13: 2}  # position → one over the surprise without the factors
    assert long == pytest.approx([math.log(told.get(t, 1)) for t in range(18)], abs=1e-10)
    assert long[5] == 0.0


def test_information_of_values_that_did_not_make_the_sentence():
    sentences, factors = _sample(1)
    wrong = {"topic": (int(factors["topic"][0]) + 1) % 4}
    with pytest.raises(ValueError, match="known must be factor values that made the sentence"):
        token_information(sentences[0], wrong)
    with pytest.raises(ValueError, match="known must be"):
        token_information(sentences[0][:-1], {})


def test_a_prefix_that_nothing_begins_with():
    assert log_prob_of_prefix(["why"]) == -math.inf
    assert log_prob_of_prefix(["tell"], {"mood": 1}) == -math.inf
    assert log_prob_of_prefix([]) == 0.0 == log_prob_of_prefix([], {"length": 2})


def test_the_example_at_the_head_is_a_sentence_of_the_grammar():
    (example,) = (line.split() for line in module.__doc__.splitlines() if line.startswith("    tell me"))
    assert module.log_prob(example) > -math.inf
