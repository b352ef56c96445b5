"""Text as files really hold it: separators, composed and decomposed letters, invisible characters, encodings."""

import copy
import io
import pickle
import re
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from savae_lite.corpora import split, user_corpus
from savae_lite.data import Line, Vocab, clean, encode_all, read_sentences, split_words, tokenize
from savae_lite.reading import encode_usable, read_text

often = settings(max_examples=200)
INVISIBLE = [*"\xad\u034f\u061c\u115f\u1160\u180e\u200e\u200f\u202e\u2060\u2066\u3164\ufe0f\ufeff\uffa0\U000e0041"]
READERS = {"strict": read_sentences, "lenient": lambda path, **options: read_text(path, **options).sentences}
readers = pytest.mark.parametrize("read", READERS.values(), ids=READERS)


@pytest.fixture
def file(tmp_path):
    def write(content, encoding="utf-8"):
        path = tmp_path / "mine.txt"
        path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
        return path

    return write


# --- words ---


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("cafe\u0301", ["caf\xe9"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("हिन्दी's", ["हिन्दी", "'s"]),
        ("न\u094d\u200dष", ["न\u094d\u200dष"]),  # a joiner inside a word spells it
        ("می\u200cخواهم", ["می\u200cخواهم"]),
        ("\u200d a\u200c b", ["a", "b"]),
        ("so\xadft \ufeffword", ["soft", "word"]),
        ("no\u200bbreak", ["no", "break"]),
        ("İstanbul", ["i\u0307stanbul"]),
        ("❤\ufe0f 5\ufe0f\u20e3", ["❤", "5\u20e3"]),
        ("x\u0302_\u0301!\u0302", ["x\u0302", "_\u0301", "!\u0302"]),
        ("\u3164 \u2800", ["\u2800"]),
        ("ＡＢ\u2028ｃ\x85d\xa0e\u3000f", ["ａｂ", "ｃ", "d", "e", "f"]),
        ("a\0b\x1bc\ue000d", ["a", "b", "c", "d"]),
        ("ὈΔΥΣΣΕΎΣ", ["ὀδυσσεύς"]),
        ("नमस्ते, हिन्दी!", ["नमस्ते", ",", "हिन्दी", "!"]),
    ],
)
def test_tokens_of_letters_with_marks(text, tokens):
    assert tokenize(text) == tokens


@often
@given(st.text())
def test_how_a_letter_is_composed_changes_no_word(text):
    assert (
        tokenize(unicodedata.normalize("NFD", text)) == tokenize(unicodedata.normalize("NFC", text)) == tokenize(text)
    )
    assert split_words(unicodedata.normalize("NFD", text)) == split_words(text)
    assert all(unicodedata.is_normalized("NFC", word) for word in tokenize(text) + split_words(text))


@often
@given(st.text(), st.lists(st.tuples(st.integers(0, 40), st.sampled_from(INVISIBLE)), min_size=1))
def test_what_nobody_sees_changes_no_word(text, inserted):
    strewn = text
    for place, character in inserted:
        strewn = strewn[:place] + character + strewn[place:]
    assert tokenize(strewn) == tokenize(text) and split_words(strewn) == split_words(text)
    assert clean(strewn) == clean(text)


@often
@given(st.text(st.characters(codec="ascii")))
def test_ascii_is_read_as_ever(text):
    """The pattern of before, which knew no marks: nothing in ASCII text may change."""
    tokens = re.findall(r"(?<=\w)'[^\W_]+|[^\W_]+|[^\w\s]|_", text.lower())
    assert tokenize(text) == [token for token in tokens if token.isprintable()]
    assert split_words(text) == text.split()


# --- lines ---

pieces = st.lists(
    st.tuples(
        st.sampled_from(["a b", "", " ", "c\u2028d", "e\x0bf", "g\x85h", "é"]), st.sampled_from(["\n", "\r", "\r\n"])
    )
)


@often
@given(pieces, st.sampled_from(["", "last"]))
def test_lines_are_numbered_as_an_editor_numbers_them(tmp_path_factory, pieces, last):
    text = "".join(line + end for line, end in pieces) + last
    path = tmp_path_factory.getbasetemp() / "lines.txt"
    path.write_bytes(text.encode())
    lines = [line.split() for line in io.StringIO(text, newline=None)]  # Python's own universal newlines
    wanted = {number: words for number, words in enumerate(lines, start=1) if words}
    found = read_text(path)
    assert {line.number: list(line) for line in found.sentences} == wanted
    assert (found.lines, found.blank, found.broken) == (len(lines), len(lines) - len(wanted), [])
    if len(wanted) > 1:
        assert {line.number: list(line) for line in read_sentences(path)} == wanted


@readers
def test_a_bare_carriage_return_ends_a_line(file, read):
    assert read(file(b"one two\rthree\nfour\r\n\rfive")) == [["one", "two"], ["three"], ["four"], ["five"]]


@readers
def test_a_byte_order_mark_inside_is_no_word(file, read):
    """Two files with marks, one after the other."""
    found = read(file("\ufeffa b\n\ufeffc \ufeff d\ufeff\n\ufeff\n"))
    assert found == [["a", "b"], ["c", "d"]] and [line.number for line in found] == [1, 2]


@readers
def test_words_stand_as_they_are_but_composed(file, read):
    assert read(file("Cafe\u0301 x\xady\nहिन्दी A\u200b\u200dB")) == [["Caf\xe9", "xy"], ["हिन्दी", "A", "B"]]


@readers
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32", "cp1252", "latin-1", "mac-roman"])
def test_an_encoding_that_is_named_is_read(file, read, encoding):
    assert read(file("né en\nété\n", encoding), encoding=encoding) == [["né", "en"], ["été"]]


@readers
@pytest.mark.parametrize("encoding", ["iso-2022-jp", "shift_jis", "euc-jp", "utf-16", "gb18030", "iso-2022-kr"])
def test_an_encoding_that_is_not_named_is_refused(file, read, encoding):
    text = "한국어 글\n한글\n" if encoding.endswith("kr") else "日本 語\n日本\n"
    path = file(text, encoding)
    with pytest.raises(ValueError, match="encoding"):
        read(path)
    assert read(path, encoding=encoding) == [line.split() for line in text.splitlines()]


@pytest.mark.parametrize("control", ["\x00", "\x08", "\x1b[31m", "\x7f", "\x92"])
def test_control_characters_are_named_with_their_line(file, control):
    path = file(f"a b\rc\n\nd{control} e\nf")
    with pytest.raises(ValueError, match="NUL at byte" if control == "\0" else "in line 4"):
        read_sentences(path)
    text = read_text(path)
    assert text.broken == [4] and [line.number for line in text.sentences] == [1, 2, 5]


def test_an_unknown_encoding_is_named(file):
    for read in READERS.values():
        with pytest.raises(LookupError, match="klingon"):
            read(file("a\nb"), encoding="klingon")


# --- the account ---


def test_mixed_encodings_cost_their_lines_only(file):
    text = read_text(file("né\n".encode() + "né en\n".encode("cp1252") + b"\n" + "lost \ufffd\nété là\n".encode()))
    assert text.sentences == [["né"], ["été", "là"]] and [line.number for line in text.sentences] == [1, 5]
    assert text.broken == [2, 4]
    assert str(text).endswith("mine.txt as utf-8: 5 lines, 1 blank, 2 (lines 2, 4) no text; 2 sentences")


@pytest.mark.parametrize("content", [b"", b"\n", b"\r\n \n", "\ufeff".encode()])
def test_a_file_without_words_has_an_account(file, content):
    text = read_text(file(content))
    assert text.sentences == text.broken == [] and text.blank == text.lines <= 2


@pytest.mark.parametrize(
    "content", [bytes(range(256)) * 4, b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\xff", "a b\nc".encode("utf-16")]
)
def test_what_is_no_text_is_refused(file, content):
    with pytest.raises(ValueError, match="Pass its encoding"):
        read_text(file(content))


def test_a_long_line_is_a_line(file):
    text = read_text(file("word " * 200_000 + "\nb c\n"))
    assert [len(line) for line in text.sentences] == [200_000, 2]


def test_no_file(tmp_path):
    for path in (tmp_path / "absent", tmp_path):
        with pytest.raises(FileNotFoundError, match="there is none at"):
            read_text(path)


words = st.sampled_from(["sea", "sky", "moon", "rock", "_UNK"])


@often
@given(st.lists(st.lists(words, min_size=1, max_size=6)), st.none() | st.integers(1, 6))
def test_every_sentence_is_kept_or_accounted_for(sentences, longest):
    vocab = Vocab.build([["sea", "sky"]], 10)
    lines = [Line(words, 3 * place + 2) for place, words in enumerate(sentences)]
    encoded, account = encode_usable(lines, vocab, longest=longest)
    of = {line.number: line for line in lines}
    assert account.kept == len(encoded)
    assert account.too_long == [number for number in of if longest and len(of[number]) > longest]
    rest = [number for number in of if number not in account.too_long]
    assert account.unknown == [number for number in rest if not {"sea", "sky"} & set(of[number])]
    kept = [of[number] for number in rest if number not in account.unknown]
    assert [vocab.decode(x) for x in encoded] == [
        [w if w in ("sea", "sky") else "<unk>" for w in line] for line in kept
    ]
    assert account.tokens == sum(map(len, kept))
    assert account.unk == sum(word not in ("sea", "sky") for line in kept for word in line)
    assert account.kept + len(account.too_long) + len(account.unknown) == len(sentences)


def test_the_account_in_words():
    vocab = Vocab.build([["sea", "sky"]], 10)
    sentences = [["sea"], ["sky", "x", "sea"], ["x"], ["sea"] * 5, *[["y"]] * 6]
    assert str(encode_usable(sentences, vocab, longest=4)[1]) == (
        "10 sentences: 2 kept, 1 (line 4) too long, 7 (lines 3, 5, 6, 7, 8, …) without a known word; "
        "25.0% of 4 tokens are <unk>"
    )
    assert str(encode_usable([], vocab)[1]).startswith("0 sentences: 0 kept, 0 too long")
    with pytest.raises(ValueError, match="longest must be at least 1"):
        encode_usable(sentences, vocab, longest=0)
    with pytest.raises(TypeError, match="list of words"):
        encode_usable(["the sea"], vocab)


# --- from end to end ---


@often
@given(st.lists(st.lists(words, min_size=1, max_size=3), max_size=30))
def test_a_split_keeps_each_sentence_once_with_its_line(sentences):
    lines = [Line(words, number) for number, words in enumerate(sentences, start=1)]
    parts = split(lines)
    kept = [line for part in parts for line in part]
    assert {tuple(line) for line in kept} == {tuple(line) for line in lines} and len(kept) == len({*map(tuple, kept)})
    assert all(lines[line.number - 1] is line for line in kept)
    shuffled = split(lines[::-1])
    assert [{*map(tuple, part)} for part in parts] == [{*map(tuple, part)} for part in shuffled]


def test_errors_of_encoding_name_the_lines_of_the_file(tmp_path):
    for name in ("train", "val", "test"):
        (tmp_path / f"{name}.txt").write_text("\n\nthe sea\n\nthe moon\n\nxyz\n", encoding="utf-8")
    vocab = Vocab.build([["the"]], 10)
    with pytest.raises(ValueError, match="got 1 without any: line 7 "):
        encode_all(user_corpus(tmp_path).train, vocab)


def test_a_line_can_be_copied_and_pickled():
    line = Line(["a", "b"], 7)
    for other in (copy.copy(line), copy.deepcopy(line), pickle.loads(pickle.dumps(line))):
        assert other == line and other.number == 7


@often
@given(
    st.lists(
        st.text(max_size=9).map(str.encode) | st.sampled_from([b"\n", b"a b\n", b"\r"]) | st.binary(max_size=2)
    ).map(b"".join)
)
def test_any_bytes_are_refused_or_accounted_for(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "bytes.txt"
    path.write_bytes(content)
    try:
        text = read_text(path)
    except ValueError as error:
        assert "Pass its encoding" in str(error)
        return
    assert text.lines == text.blank + len(text.broken) + len(text.sentences)
    seen = [word for line in text.sentences for word in line]
    assert all(word and word == clean(word) and word.split() == [word] for word in seen)


PAGE = Path(__file__).parent.parent / "book" / "your_corpus.md"


def test_the_page_takes_a_nasty_file_to_batches(file, monkeypatch, capsys):
    """Its code as it stands, on lines of several scripts, separators and encodings."""
    plain = "".join(f"the sea of number{i} is Cafe\u0301 {'and so on ' * (i % 25)}\n" for i in range(400))
    path = file("\ufeff".encode() + plain.encode() + b"\r\nna\xefve\r\x1b$B\n" + "हिन्दी की किताब\r\n".encode() * 3)
    monkeypatch.chdir(path.parent)
    names = {}
    for code in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL):
        exec(code, names)
    first, train, valid = capsys.readouterr().out.splitlines()
    assert first == "mine.txt as utf-8: 406 lines, 1 blank, 2 (lines 402, 403) no text; 403 sentences"
    assert "too long" in train and "<unk>" in valid
    kept = sum(len(batch) for batch in names["minibatches"])
    assert 200 < kept == len(names["train"]) < len(names["corpus"].train)
    assert sum(map(len, names["corpus"])) == 401, "the Hindi line stands three times"
    assert {"café", "हिन्दी"} <= {word for part in names["corpus"] for line in part for word in line}
