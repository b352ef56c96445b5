"""A small grammar of English questions whose hidden factors, and whose entropy, are known.

    tell me , when did the clever teacher read yesterday near this desk with the curious pupil ?

Five factors are drawn uniformly and independently: topic, tense, question word, mood and length. They pick
the words that each slot of one template may hold, and every word is then drawn uniformly from its slot:

    p(x) = Σ_f p(f) Π_t p(x_t | f)

Every factor can be read back from the sentence: no word belongs to two factor values, and the length is the
number of tokens (11, 14 or 18). What a model of these sentences knows can therefore be compared with what
there is to know. This module does NOT model real English; `corpora` has real questions.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import LongTensor

FACTORS = {"topic": 4, "tense": 3, "question": 5, "mood": 2, "length": 3}
NOTHING = MappingProxyType({})


class Slot(NamedTuple):
    """One position of the template: `options[v]` are the words it may hold where its factor has value v."""

    name: str
    factor: str | None
    options: tuple[tuple[str, ...], ...]


def _slot(name: str, factor: str | None, *options: str) -> Slot:
    """Write a slot with one string of words for each value of its factor."""
    return Slot(name, factor, tuple(tuple(words.split()) for words in options))


# topics:                                   kitchen, school, music, farm
ADJECTIVE = _slot("adjective", "topic", "hungry thirsty greedy plump", "clever diligent curious learned",
                  "famous talented loud shy", "sturdy sunburnt weathered patient")  # fmt: skip
PERSON = _slot("noun", "topic", "chef baker waiter butcher", "teacher pupil professor student",
               "singer pianist drummer composer", "farmer shepherd gardener miller")  # fmt: skip
VERB = _slot("verb", "topic", "cook bake fry serve", "read write study recite",
             "sing play record rehearse", "plant sow harvest weed")  # fmt: skip
PLACE = _slot("noun", "topic", "oven stove kitchen table", "library classroom desk blackboard",
              "stage piano studio theatre", "barn field stable orchard")  # fmt: skip
# tenses:                                   past, present, future
AUXILIARY = _slot("auxiliary", "tense", "did", "does", "will")
ADVERB = _slot("adverb", "tense", "yesterday recently previously", "today nowadays usually",
               "tomorrow soon eventually")  # fmt: skip
# moods:                                    imperative, indicative
OPENING = _slot("opening", "mood", "tell", "i"), _slot("opening", "mood", "me", "wonder")
QUESTION = _slot("question", "question", "what", "when", "where", "why", "how")
DETERMINER = _slot("determiner", None, "the this that every")
PREPOSITION = _slot("preposition", None, "near by behind beside")
WITH = _slot("preposition", None, "with")
COMMA, MARK = _slot("mark", None, ","), _slot("mark", None, "?")

SLOTS = (
    *OPENING, COMMA, QUESTION, AUXILIARY, DETERMINER, ADJECTIVE, PERSON, VERB, ADVERB,
    PREPOSITION, DETERMINER, PLACE,
    WITH, DETERMINER, ADJECTIVE, PERSON,
)  # fmt: skip
CUTS = (10, 13, 17)  # the length factor keeps so many slots; "?" follows

TEMPLATES = tuple((*SLOTS[:cut], MARK) for cut in CUTS)


def grammar(rows: int, generator: torch.Generator) -> tuple[list[list[str]], dict[str, LongTensor]]:
    """Draw `rows` sentences and the factors that made them: one LongTensor (rows,) for each of `FACTORS`.

    Raises ValueError for rows < 1.
    """
    if rows < 1:
        raise ValueError(f"rows must be at least 1; got {rows}. Ask for one or more sentences.")
    factors = {name: _draw(count, rows, generator) for name, count in FACTORS.items()}
    choices = torch.stack([_draw(len(slot.options[0]), rows, generator) for slot in SLOTS], 1).tolist()
    values = {name: value.tolist() for name, value in factors.items()}
    return [_sentence({name: values[name][i] for name in values}, choices[i]) for i in range(rows)], factors


def _draw(count: int, rows: int, generator: torch.Generator) -> LongTensor:
    """Draw `rows` numbers uniformly from 0 … count−1."""
    return torch.randint(count, (rows,), generator=generator, device=generator.device)


def _sentence(value: dict[str, int], choice: list[int]) -> list[str]:
    """Fill the slots of one length with the chosen words, and close with the question mark."""
    slots = SLOTS[: CUTS[value["length"]]]
    return [slot.options[value.get(slot.factor, 0)][choice[t]] for t, slot in enumerate(slots)] + ["?"]


def word_classes(sentence: list[str]) -> list[str]:
    """Name the word class of each token: "opening", "question", "auxiliary", "adjective", "noun", …

    Raises ValueError where the sentence is not of the grammar.
    """
    if log_prob(sentence) == -math.inf:
        raise ValueError(
            f"the sentence must be one that the grammar can produce; got {' '.join(sentence)!r}. "
            "Take sentences from grammar(rows, generator)."
        )
    return [slot.name for template in TEMPLATES if len(template) == len(sentence) for slot in template]


def log_prob(sentence: list[str]) -> float:
    """Return log p(x) in nats under the grammar, −inf for a sentence that it cannot produce."""
    _check_words(sentence)
    return _log_sum(sentence, [template for template in TEMPLATES if len(template) == len(sentence)]) - _log_lengths(
        NOTHING
    )


def log_prob_of_prefix(words: list[str], known: Mapping[str, int] = NOTHING) -> float:
    """Return in nats log p(x_≤t | known): that a sentence with these factor values begins with these words.

    −inf where none does. Factors that are not known are summed out.

    >>> log_prob_of_prefix([])
    0.0
    """
    _check_words(words)
    _check_known(known)
    templates = [TEMPLATES[known["length"]]] if "length" in known else TEMPLATES
    fitting = [template[: len(words)] for template in templates if len(template) >= len(words)]
    return _log_sum(words, fitting, known) - _log_lengths(known)


def token_information(sentence: list[str], known: Mapping[str, int]) -> list[float]:
    """Return log p(x_t | x_<t, known) − log p(x_t | x_<t) in nats for every token: what some factor values add to the
    words before it.

    Its sum is log p(x | known) − log p(x); the mean of that over the grammar is the mutual information of sentences
    and these factors. Raises ValueError where these values cannot produce the sentence.
    """
    prefixes = [sentence[:t] for t in range(len(sentence) + 1)]
    gains = [log_prob_of_prefix(words, known) for words in prefixes]
    if gains[-1] == -math.inf or log_prob(sentence) == -math.inf:
        raise ValueError(
            f"known must be factor values that made the sentence; got {dict(known)} for {' '.join(sentence)!r}. "
            "Take both from one draw of grammar(rows, generator)."
        )
    gains = [gain - log_prob_of_prefix(words) for gain, words in zip(gains, prefixes, strict=True)]
    return [round(after - before, 12) + 0.0 for before, after in pairwise(gains)]  # what is equal shall rank as equal


def _check_words(words: list[str]) -> None:
    if isinstance(words, str):
        raise TypeError(f"a sentence must be a list of words; got the text {words[:40]!r}. Use .split() first.")


def _check_known(known: Mapping[str, int]) -> None:
    for name, value in known.items():
        if name not in FACTORS or not 0 <= value < FACTORS[name]:
            raise ValueError(
                f"known must hold factors of {FACTORS} with a value below the number beside it; got {name!r}: {value}. "
                "Take values from grammar(rows, generator)."
            )


def _log_lengths(known: Mapping[str, int]) -> float:
    """The log of how many templates there are to choose from."""
    return 0.0 if "length" in known else math.log(len(TEMPLATES))


def _log_sum(words: list[str], templates: Sequence[tuple[Slot, ...]], known: Mapping[str, int] = NOTHING) -> float:
    """Sum over templates and over all values of unknown factors the probability of these words.

    The sum over factor values is a product of small sums, because a slot listens to one factor only:
    p(x) = p(length) Π_f Σ_v p(f = v) Π_{t of f} p(x_t | v).
    """
    total = 0.0
    for template in templates:
        total += math.prod(_marginal(factor, words, template, known) for factor in (None, *FACTORS))
    return math.log(total) if total else -math.inf


def _marginal(factor: str | None, words: list[str], template: tuple[Slot, ...], known: Mapping[str, int]) -> float:
    """Average over the values of one factor, or take at its known value, the probability of the tokens that depend on
    it.
    """
    pairs = [(words[t], slot.options) for t, slot in enumerate(template) if slot.factor == factor]
    values = [known[factor]] if factor in known else range(FACTORS.get(factor, 1))
    terms = [math.prod((token in opts[v]) / len(opts[v]) for token, opts in pairs) for v in values]
    return sum(terms) / len(values)


def entropy() -> float:
    """Return the entropy of the grammar in nats a sentence: no model's mean negative log-likelihood is lower.

    H = Σ_f log |f| + E_length Σ_t log |slot_t|, as each sentence has exactly one derivation.
    """
    words = [sum(math.log(len(slot.options[0])) for slot in template) for template in TEMPLATES]
    return sum(map(math.log, FACTORS.values())) + sum(words) / len(words)
