"""A text file of your own, read with an account: what was read, what was left out, and in which lines.

It drops; it never guesses an encoding, repairs a line or hides a count. `data.read_sentences` refuses instead.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from torch import LongTensor

from savae_lite.data import CONTROL, LINE_END, Line, Sentence, Vocab, split_words

LOST = "\ufffd"


class Text(NamedTuple):
    """The sentences of a file, each with its line number, and what else was in it; ``print`` gives the account."""

    sentences: list[Line]
    path: Path
    encoding: str
    lines: int  # in the file, as an editor counts them
    blank: int  # without a word
    broken: list[int]  # numbers of the lines that are no text in this encoding

    def __str__(self) -> str:
        return (
            f"{self.path} as {self.encoding}: {self.lines} lines, {self.blank} blank, "
            f"{_these(self.broken)} no text; {len(self.sentences)} sentences"
        )


class Usable(NamedTuple):
    """What became of sentences on the way to a model; ``print`` gives the account."""

    kept: int
    too_long: list[int]  # line numbers, or places in the list, from 1
    unknown: list[int]  # likewise: without a word of the vocabulary
    tokens: int  # words in what was kept, without <s> and </s>
    unk: int  # of them, outside the vocabulary

    def __str__(self) -> str:
        share = self.unk / max(self.tokens, 1)
        return (
            f"{self.kept + len(self.too_long) + len(self.unknown)} sentences: {self.kept} kept, "
            f"{_these(self.too_long)} too long, {_these(self.unknown)} without a known word; "
            f"{share:.1%} of {self.tokens} tokens are <unk>"
        )


def read_text(path: str | Path, *, encoding: str = "utf-8", words: Callable[[str], Sentence] = split_words) -> Text:
    """Read any text file, one document a line, and leave out the lines that are no text.

    ``words`` splits a line, for instance `data.tokenize`; without it words stand between white space. Left out and
    counted are lines that break the encoding, that hold control characters, or U+FFFD, which stands for what was lost
    before.
    Raises FileNotFoundError for a missing file, LookupError for an unknown encoding, and ValueError where more lines
    are broken than whole, as in a binary file or under a wrong encoding.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"a corpus must be a text file; there is none at {path}. Check the path.")
    lines = LINE_END.split(path.read_bytes().decode(encoding, errors="replace"))
    lines = lines if lines[-1] else lines[:-1]  # the end of the last line begins no other
    broken = {number: None for number, line in enumerate(lines, start=1) if LOST in line or CONTROL.search(line)}
    rest = {number: words(line) for number, line in enumerate(lines, start=1) if number not in broken}
    sentences = [Line(found, number) for number, found in rest.items() if found]
    if len(broken) > len(lines) / 2:
        raise ValueError(
            f"a corpus must be {encoding} text; {path} has {len(lines)} lines, and {len(broken)} of them are none. "
            "Pass its encoding, such as encoding='utf-16', 'cp1252' or 'iso-2022-jp'."
        )
    return Text(sentences, path, encoding, len(lines), len(lines) - len(sentences) - len(broken), [*broken])


def encode_usable(
    sentences: Iterable[Sequence[str]], vocab: Vocab, *, longest: int | None = None
) -> tuple[list[LongTensor], Usable]:
    """Encode, (T+2,) each, the sentences of at most ``longest`` words that have a known one; say what was left out.

    The account names lines of the file for sentences that were read from one, else places in the list.
    """
    if longest is not None and longest < 1:
        raise ValueError(f"longest must be at least 1 word; got {longest}. None keeps all lengths.")
    encoded, too_long, unknown = [], [], []
    for place, sentence in enumerate(sentences, start=1):
        number = getattr(sentence, "number", place)
        if longest is not None and len(sentence) > longest:
            too_long.append(number)
            continue
        try:
            encoded.append(vocab.encode(sentence))
        except ValueError:
            unknown.append(number)
    tokens, unk = sum(len(x) - 2 for x in encoded), sum(int((x == vocab.UNK).sum()) for x in encoded)
    return encoded, Usable(len(encoded), too_long, unknown, tokens, unk)


def _these(numbers: list[int]) -> str:
    """How many, and the first five of them."""
    first = ", ".join(map(str, numbers[:5])) + (", …" if len(numbers) > 5 else "")
    return f"{len(numbers)} ({'line' if len(numbers) == 1 else 'lines'} {first})" if numbers else "0"
