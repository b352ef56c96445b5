"""savae_lite.data against hand-made tables and properties over random sentences."""

import unicodedata
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from savae_lite.data import Line, Vocab, batches, encode_all, read_sentences, tokenize

WORDS = ["who", "what", "is", "the", "sea", "?", "'s"]
sentences = st.lists(st.sampled_from(WORDS), min_size=1, max_size=9)
corpora = st.lists(sentences, min_size=1, max_size=40)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("What's up?", "what 's up ?"),
        ("who’s who", "who 's who"),
        ("isn't the 'sea' blue", "isn 't the ' sea ' blue"),
        ("ex-wife, 20,000 (U.S.)", "ex - wife , 20 , 000 ( u . s . )"),
        ("\u200bÉmilie\u200b d_e\tf\n", "émilie d _ e f"),
        ("dogs' tails", "dogs ' tails"),
        ("", ""),
    ],
)
def test_tokenize(text, tokens):
    assert tokenize(text) == tokens.split()


def _apart(token):
    """An ending such as 's loses its apostrophe once it stands alone."""
    return ["'", token[1:]] if token[0] == "'" and len(token) > 1 else [token]


@settings(deadline=None, max_examples=300)
@given(st.text() | st.text("ab'’ -_\u200b?"))
def test_tokenize_keeps_every_letter_and_is_stable(text):
    tokens = tokenize(text)
    seen = "".join(c for c in text if unicodedata.category(c) != "Cf" and c not in "\u115f\u1160\u3164\uffa0")
    letters = unicodedata.normalize("NFC", unicodedata.normalize("NFC", seen).lower())
    assert Counter(filter(str.isalnum, "".join(tokens))) == Counter(filter(str.isalnum, letters))
    assert tokenize(" ".join(tokens)) == [part for t in tokens for part in _apart(t)]
    assert all(token and not any(map(str.isspace, token)) for token in tokens)


def test_vocab_counts_then_alphabet():
    corpus = [["b", "a", "c"], ["b", "_UNK", "a"], ["d", "</s>", "<unk>", "<unk>", "<unk>"]]
    assert Vocab.build(corpus, 7).words == ("<s>", "</s>", "<unk>", "a", "b", "c", "d")
    assert Vocab.build(corpus, 5).words == ("<s>", "</s>", "<unk>", "a", "b")
    assert Vocab.build([["c"], ["b"], ["c"]], 100).words[3:] == ("c", "b")


@settings(deadline=None)
@given(corpora, st.randoms(use_true_random=False))
def test_vocab_ignores_the_order_of_sentences(corpus, random):
    shuffled = random.sample(corpus, len(corpus))
    assert Vocab.build(corpus, 6).words == Vocab.build(shuffled, 6).words


@settings(deadline=None)
@given(sentences)
def test_decode_inverts_encode(sentence):
    vocab = Vocab.build([WORDS], 10)
    ids = vocab.encode(sentence)
    assert ids.dtype == torch.int64
    assert ids.tolist()[0] == vocab.BOS and ids.tolist()[-1] == vocab.EOS
    assert vocab.decode(ids) == sentence == vocab.decode(ids.tolist())


def test_unknown_words_and_markers_read_as_unk():
    vocab = Vocab.build([["sea", "is"]], 5)
    ids = vocab.encode(["sea", "_UNK", "<s>", "</s>", "<unk>", "moon"])
    assert ids.tolist() == [0, vocab.words.index("sea"), 2, 2, 2, 2, 2, 1]
    assert vocab.decode(ids) == ["sea"] + ["<unk>"] * 5
    assert vocab.decode([0, 3, 1, 4]) == [vocab.words[3]]
    assert vocab.decode([]) == []
    assert Vocab(vocab.words).encode(["is"]).tolist() == vocab.encode(["is"]).tolist()
    assert len(vocab) == 5


@pytest.mark.parametrize("words", [[], ["<s>", "</s>"], ["a", "<s>", "</s>"], ["<s>", "</s>", "<unk>", "a", "a"]])
def test_vocab_refuses_a_wrong_table(words):
    with pytest.raises(ValueError, match=r"unique and begin with .* got .* Vocab\.build"):
        Vocab(words)


def test_errors_say_required_received_remedy():
    vocab = Vocab.build([["sea"]], 4)
    with pytest.raises(ValueError, match=r"at least 4 .* got 3"):
        Vocab.build([["sea"]], 3)
    with pytest.raises(ValueError, match=r"at least one word .* got 'dry land'\. Reword"):
        vocab.encode(["dry", "land"])
    with pytest.raises(ValueError, match="at least one word"):
        vocab.encode([])
    with pytest.raises(ValueError, match=r"got 2 without any: number 1, 3 \(.* Remove"):
        encode_all([["x"], ["sea"], ["y", "z"]], vocab)
    with pytest.raises(ValueError, match=r"got 7 without any: number 1, 2, 3, 4, 5, … "):
        encode_all([["x"]] * 7, vocab)
    lines = [Line(["x"], 4), Line(["sea"], 5), Line(["y"], 9)]
    with pytest.raises(ValueError, match=r"got 2 without any: line 4, 9 \(.* Remove"):
        encode_all(lines, vocab)
    with pytest.raises(ValueError, match=r"size must be at least 1; got 0"):
        batches([], 0)


def _rows(result):
    return Counter(tuple(row) for batch in result for row in batch.tolist())


@settings(deadline=None)
@given(corpora, st.integers(1, 12), st.none() | st.integers(0, 2**31))
def test_batches_hold_each_sentence_once_and_one_length_each(corpus, size, seed):
    encoded = encode_all(corpus, Vocab.build([WORDS], 10))
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    result = batches(encoded, size, generator=generator)
    assert _rows(result) == Counter(tuple(ids.tolist()) for ids in encoded)
    assert all(batch.dim() == 2 and 1 <= len(batch) <= size for batch in result)
    lengths = Counter(len(ids) for ids in encoded)
    assert len(result) == sum(-(-count // size) for count in lengths.values())


def test_batches_without_a_generator_are_in_order():
    encoded = [torch.tensor(ids) for ids in ([0, 9, 1], [0, 8, 8, 1], [0, 7, 1], [0, 6, 1])]
    result = [batch.tolist() for batch in batches(encoded, 2)]
    assert result == [[[0, 9, 1], [0, 7, 1]], [[0, 6, 1]], [[0, 8, 8, 1]]]
    assert batches([], 3) == []


def test_batches_shuffle_rows_and_order_reproducibly():
    encoded = [torch.tensor([0, i, *[5] * (i % 3), 1]) for i in range(300)]
    state = torch.random.get_rng_state()
    first, again, other = (batches(encoded, 10, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), state), "the global generator was used"
    assert all(map(torch.equal, first, again))
    assert [batch.tolist() for batch in first] != [batch.tolist() for batch in other]
    assert len({len(batch[0]) for batch in first[:10]}) > 1, "lengths must mix over time"
    assert {frozenset(b[:, 1].tolist()) for b in first} != {frozenset(b[:, 1].tolist()) for b in other}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_batches_take_a_generator_on_the_gpu():
    encoded = [torch.tensor([0, i, 1]) for i in range(50)]
    for device in ("cpu", "cuda"):
        result = batches([e.to(device) for e in encoded], 8, generator=torch.Generator("cuda").manual_seed(0))
        assert _rows(result) == Counter((0, i, 1) for i in range(50))


def test_read_sentences(tmp_path):
    path = tmp_path / "train.txt"
    path.write_bytes("\ufeffThe sea _UNK\r\n\r\n  \nis é\u2028 blue".encode())
    assert read_sentences(path) == [["The", "sea", "_UNK"], ["is", "é", "blue"]]
    assert read_sentences(str(path)) == read_sentences(path)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "at least 2 lines with words; .* has 0"),
        (b" \n\n\t\n", "at least 2 lines with words; .* has 0"),
        (b"only one line\n", "at least 2 lines with words; .* has 1"),
        (b"a b\nc\0d\n", r"binary or UTF-16 \(NUL at byte 5\)"),
        ("a\nb".encode("utf-16"), "binary or UTF-16"),
        (b"one\ntwo\nna\xefve\n", r"in line 3 at byte 10 \(0xef\)"),
        (b"one\ntwo \xc3", r"in line 2 at byte 8 \(0xc3\)"),
    ],
)
def test_read_sentences_refuses(tmp_path, raw, message):
    path = tmp_path / "train.txt"
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=message) as error:
        read_sentences(path)
    assert str(path) in str(error.value)


def test_read_sentences_needs_a_file(tmp_path):
    for path in (tmp_path / "absent.txt", tmp_path):
        with pytest.raises(FileNotFoundError, match="there is none at"):
            read_sentences(path)
