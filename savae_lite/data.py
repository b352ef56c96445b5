"""Sentences → vocabulary → batches of one length.

A batch holds sentences of one length only, so nothing below ever pads or masks: a batch is a plain
LongTensor (B, T) and every entry of it is a real token. This module does NOT know where sentences come
from (see `corpora` and `grammar`), does not learn subwords, and does not move anything to a device.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import LongTensor, Tensor

Sentence = list[str]

TOKEN = re.compile(r"(?<=\w)'[^\W_]+|[^\W_]+|[^\w\s]|_")


def tokenize(text: str) -> Sentence:
    """Return the lower-case words and punctuation marks of `text`, in order.

    A word is a run of letters or digits, and a mark is a token of its own. An apostrophe inside a word
    starts a new token, so that endings are shared; invisible characters are dropped.

    >>> tokenize("What's a semi-amortized VAE?")
    ['what', "'s", 'a', 'semi', '-', 'amortized', 'vae', '?']
    """
    tokens = TOKEN.findall(text.lower().replace("’", "'"))
    return [token for token in tokens if token.isprintable()]


class Vocab:
    """A two-way table between words and ids 0 … len(vocab) − 1; the first three ids are markers.

    `words[i]` is the word of id i. `<s>` opens a sentence, `</s>` closes it, and `<unk>` stands for every
    word outside the table. A marker that occurs inside a sentence, or the `_UNK` of published corpora, is
    not a word and reads as `<unk>`.
    """

    BOS, EOS, UNK = 0, 1, 2
    MARKERS = ("<s>", "</s>", "<unk>")

    def __init__(self, words: Sequence[str]):
        """Take the full list of words, markers first (that is, `Vocab(vocab.words)` is a copy).

        Raises ValueError where the markers are not in front or a word stands twice.
        """
        self.words = tuple(words)
        if self.words[:3] != self.MARKERS or len(set(self.words)) != len(self.words):
            raise ValueError(
                f"words must be unique and begin with {self.MARKERS}; got {len(self.words)} words beginning "
                f"with {self.words[:3]}. Use Vocab.build to make a vocabulary from sentences."
            )
        self._ids = {word: i for i, word in enumerate(self.words) if i > self.UNK}

    @classmethod
    def build(cls, sentences: Iterable[Sequence[str]], size: int) -> "Vocab":
        """Keep the most frequent words of `sentences` (the training part), `size` entries with the markers.

        Equal counts are ordered by the alphabet, so the result does not depend on the order of the
        sentences; fewer entries come out where there are fewer words. Raises ValueError for size ≤ 3.
        """
        if size <= len(cls.MARKERS):
            raise ValueError(f"size must be at least 4 (three markers and one word); got {size}. Raise size.")
        sentences = list(sentences)
        if any(isinstance(sentence, str) for sentence in sentences):
            raise TypeError("sentences must be lists of words; got text. Use tokenize(text) on each first.")
        counts = Counter(word for sentence in sentences for word in sentence)
        for word in (*cls.MARKERS, "_UNK"):
            counts.pop(word, None)
        ranked = sorted(counts, key=lambda word: (-counts[word], word))
        return cls([*cls.MARKERS, *ranked[: size - len(cls.MARKERS)]])

    def __len__(self) -> int:
        return len(self.words)

    def encode(self, words: Sequence[str]) -> LongTensor:
        """Return the ids (T+2,) of T words between `<s>` and `</s>`.

        Raises ValueError where no word is in the vocabulary: such a sentence carries nothing to model.
        """
        if isinstance(words, str):
            raise TypeError(
                f"a sentence must be a list of words; got the text {words[:40]!r}. Use tokenize(text) first."
            )
        ids = [self._ids.get(word, self.UNK) for word in words]
        if all(i == self.UNK for i in ids):
            raise ValueError(
                f"a sentence must have at least one word of the vocabulary; got {' '.join(words)[:80]!r}. "
                "Reword it, or build a larger vocabulary."
            )
        return torch.tensor([self.BOS, *ids, self.EOS])

    def decode(self, ids: Tensor | Iterable[int]) -> Sentence:
        """Return the words of `ids` (T,) up to the first `</s>`, without `<s>`."""
        words = []
        for i in torch.as_tensor(ids).tolist():
            if i == self.EOS:
                break
            if not 0 <= i < len(self.words):
                raise ValueError(
                    f"ids must lie in 0 … {len(self.words) - 1}; got {i}. Decode with the model's vocabulary."
                )
            if i != self.BOS:
                words.append(self.words[i])
        return words


def encode_all(sentences: Iterable[Sequence[str]], vocab: Vocab) -> list[LongTensor]:
    """Encode every sentence, (T+2,) each; ValueError names the sentences without a known word."""
    encoded, unknown = [], []
    for number, sentence in enumerate(sentences, start=1):
        try:
            encoded.append(vocab.encode(sentence))
        except ValueError:
            unknown.append(number)
    if unknown:
        first = ", ".join(map(str, unknown[:5])) + (", …" if len(unknown) > 5 else "")
        raise ValueError(
            f"every sentence must have at least one word of the vocabulary ({len(vocab)} entries); "
            f"got {len(unknown)} without any: number {first} (counted from 1, blank lines left out). "
            "Remove them, or build a larger vocabulary."
        )
    return encoded


def batches(encoded: Sequence[LongTensor], size: int, *, generator: torch.Generator | None = None) -> list[LongTensor]:
    """Cut the sentences into batches (B, T) of one length, B ≤ size, each sentence in exactly one.

    With a generator (on any device) it is random which sentences share a batch and in which order the
    batches come; without one, lengths ascend and sentences keep their order. The last batch of a length
    may be smaller than the others. Raises ValueError for size < 1.
    """
    if size < 1:
        raise ValueError(f"size must be at least 1; got {size}. Ask for one or more sentences a batch.")
    groups = defaultdict(list)
    for sentence in encoded:
        groups[len(sentence)].append(sentence)
    result = []
    for length in sorted(groups):
        rows = torch.stack(groups[length])
        result += rows[_order(len(rows), generator).to(rows.device)].split(size)
    return [result[i] for i in _order(len(result), generator).tolist()]


def _order(count: int, generator: torch.Generator | None) -> LongTensor:
    """Return 0 … count−1, (count,), in random order where a generator is given."""
    if generator is None:
        return torch.arange(count)
    return torch.randperm(count, generator=generator, device=generator.device)


def read_sentences(path: str | Path) -> list[Sentence]:
    """Read one tokenised document a line, words separated by white space; blank lines are skipped.

    Words are taken as they stand: nothing is lower-cased and no punctuation is split off.
    Raises FileNotFoundError for a missing file, and ValueError for a binary file, for text that is not
    UTF-8, for a file without words, and for a single document.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"a corpus must be a text file; there is none at {path}. Check the path.")
    lines = _decode(path.read_bytes(), path).split("\n")
    sentences = [words for words in map(str.split, lines) if words]
    if len(sentences) < 2:
        raise ValueError(
            f"a corpus must have at least 2 lines with words; {path} has {len(sentences)}. "
            "Put one tokenised document on each line."
        )
    return sentences


def _decode(raw: bytes, path: Path) -> str:
    """Return the text of UTF-8 bytes, without a byte order mark; ValueError says where it breaks."""
    if b"\0" in raw:
        raise ValueError(
            f"a corpus must be UTF-8 text; {path} is binary or UTF-16 (NUL at byte {raw.index(0)}). "
            "Save it as UTF-8 text."
        )
    try:
        return raw.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"a corpus must be UTF-8 text; {path} breaks off in line {line} at byte {error.start} "
            f"(0x{raw[error.start]:02x}). Convert it, for example with iconv -t UTF-8."
        ) from error


def check_tokens(x: Tensor, vocabulary: int, *, shortest: int = 2) -> None:
    """Refuse what is not a batch ``(B, T)`` of token ids below ``vocabulary``, T ≥ ``shortest``: raises ValueError."""
    if x.dim() != 2 or len(x) < 1 or x.shape[1] < shortest or x.dtype != torch.int64:
        raise ValueError(
            f"x must be int64 token ids (B, T) with B ≥ 1, T ≥ {shortest}, of one length and without padding; "
            f"got {x.dtype} of shape {tuple(x.shape)}. Build sentences with data.Vocab.encode and data.batches."
        )
    low, high = x.aminmax()
    if low < 0 or high >= vocabulary:
        remedy = "Encode with the vocabulary that the model was made for."
        raise ValueError(f"token ids must lie in 0 … {vocabulary - 1}; got {low} … {high}. {remedy}")
