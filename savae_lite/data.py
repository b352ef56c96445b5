"""Sentences → vocabulary → batches of one length.

A batch holds sentences of one length only, so nothing below ever pads or masks: a batch is a plain
LongTensor (B, T) and every entry of it is a real token. This module does NOT know where sentences come
from (see `corpora`, `reading` and `grammar`), does not learn subwords, and does not move anything to a device.
"""

import re
import sys
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

import torch
from torch import LongTensor, Tensor

Sentence = list[str]

# What nobody sees (Unicode's Default_Ignorable_Code_Point), but for two joiners: they spell words, as in Persian.
INVISIBLE = re.compile(
    "[\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200e\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f"
    "\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
JOINERS = "\u200c\u200d"
LINE_END = re.compile("\r\n|\r|\n")
CONTROL = re.compile("[\0-\x08\x0e-\x1b\x7f-\x84\x86-\x9f]")  # those that are not white space


class Line(list):
    """The words of one line of a file; ``number`` is its number there, from 1."""

    def __init__(self, words: Iterable[str], number: int) -> None:
        super().__init__(words)
        self.number = number


def clean(text: str) -> str:
    """Return `text` in Unicode's composed form (NFC), without invisible characters; a zero-width space is a space."""
    return text if text.isascii() else unicodedata.normalize("NFC", INVISIBLE.sub("", text.replace("\u200b", " ")))


def tokenize(text: str) -> Sentence:
    """Return the lower-case words and punctuation marks of `text`, in order.

    A word is a run of letters or digits with their accents and vowel signs, and a mark is a token of its own. An
    apostrophe inside a word starts a new token, so that endings are shared; invisible characters are dropped.

    >>> tokenize("What's a semi-amortized VAE?")
    ['what', "'s", 'a', 'semi', '-', 'amortized', 'vae', '?']
    """
    text = clean(clean(text).lower()).replace("’", "'")
    return [token for token in _token(text.isascii()).findall(text) if token[0].isprintable()]


@cache
def _token(is_ascii: bool) -> re.Pattern[str]:
    """The pattern of a token. `re` does not count combining characters as parts of words, and ASCII has none."""
    places = map(chr, range(0x300, 0x301 if is_ascii else sys.maxunicode + 1))
    marks = "".join(c for c in places if unicodedata.category(c).startswith("M"))
    word = rf"[^\W_](?:[^\W_]|[{marks}]|[{JOINERS}]+(?=[^\W_]|[{marks}]))*"
    return re.compile(rf"(?<=[\w{marks}])'{word}|{word}|(?:[^\w\s{JOINERS}]|_)[{marks}]*")


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
    """Encode every sentence, (T+2,) each; ValueError names those without a known word, by their lines in the file
    where `read_sentences` read them.
    """
    encoded, unknown, counted = [], [], "number"
    for number, sentence in enumerate(sentences, start=1):
        try:
            encoded.append(vocab.encode(sentence))
        except ValueError:
            counted = "line" if isinstance(sentence, Line) else "number"
            unknown.append(getattr(sentence, "number", number))
    if unknown:
        first = ", ".join(map(str, unknown[:5])) + (", …" if len(unknown) > 5 else "")
        raise ValueError(
            f"every sentence must have at least one word of the vocabulary ({len(vocab)} entries); "
            f"got {len(unknown)} without any: {counted} {first} (counted from 1). "
            "Remove them, as reading.encode_usable does, or build a larger vocabulary."
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


def read_sentences(path: str | Path, *, encoding: str = "utf-8") -> list[Line]:
    """Read one tokenised document a line, words separated by white space; blank lines are skipped.

    LF, CR and CRLF end a line; other separators are white space. Words are taken as they stand, but for what `clean`
    does: nothing is lower-cased and no punctuation is split off. Raises FileNotFoundError for a missing file, and
    ValueError for a binary file, for text of another encoding, for control characters, for a file without words, and
    for a single document. `reading.read_text` drops broken lines instead, and says which.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"a corpus must be a text file; there is none at {path}. Check the path.")
    lines = LINE_END.split(_decode(path.read_bytes(), path, encoding))
    sentences = [Line(words, number) for number, words in enumerate(map(split_words, lines), start=1) if words]
    if len(sentences) < 2:
        raise ValueError(
            f"a corpus must have at least 2 lines with words; {path} has {len(sentences)}. "
            "Put one tokenised document on each line."
        )
    return sentences


def split_words(line: str) -> Sentence:
    """Return the words of a line as they stand but for what `clean` does, split at white space."""
    return [word for word in (part.strip(JOINERS) for part in clean(line).split()) if word]


def _decode(raw: bytes, path: Path, encoding: str) -> str:
    """Return the text of the bytes; ValueError says where it breaks."""
    remedy = "Convert it, for example with iconv -t UTF-8, or pass its encoding."
    if b"\0" in raw and "\n".encode(encoding) == b"\n":
        raise ValueError(
            f"a corpus must be UTF-8 text; {path} is binary or UTF-16 (NUL at byte {raw.index(0)}). {remedy}"
        )
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"a corpus must be {encoding.upper()} text; {path} breaks off in line {line} at byte {error.start} "
            f"(0x{raw[error.start]:02x}). {remedy}"
        ) from error
    if found := CONTROL.search(text):
        line = len(LINE_END.findall(text, 0, found.start())) + 1
        raise ValueError(
            f"a corpus must hold no control characters; {path} has U+{ord(found[0]):04X} in line {line}, as binary "
            f"files have, and ISO-2022. {remedy}"
        )
    return text


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
