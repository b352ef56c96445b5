"""The scripts of recorded runs: rows are made in parallel, once each, and an interrupted run continues."""

import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

from savae_lite.download import WHEEL, cache_dir
from savae_lite.records import rows

EXPERIMENTS = Path(__file__).parent.parent / "data" / "experiments"


def plan(numbers):
    """A row for each number; the first is asked for twice."""
    return [{"seed": number, "budget": "epochs"} for number in [*numbers, numbers[0]]]


def measure(row):
    """Stands for an hour's work; a process of its own must find it, so it lies at the top of this file."""
    return {"square": row["seed"] ** 2}


@pytest.fixture
def matching(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(EXPERIMENTS)
    import matching

    monkeypatch.setattr(matching, "RESULTS", tmp_path)
    monkeypatch.setitem(matching.PLANS, "squares", ("squares", plan, measure))
    monkeypatch.setenv("PROCESSES", "2")
    yield matching
    del sys.modules["matching"]


def test_an_interrupted_run_continues(matching, tmp_path):
    path = tmp_path / "squares.jsonl"
    matching.main("squares", "2", "3")
    found = rows(path)
    assert {row["seed"]: row["square"] for row in found} == {2: 4, 3: 9} and len(found) == 2
    assert all({"command", "commit", "device", "torch"} <= row.keys() for row in found)

    text = path.read_text()
    path.write_text(text[: len(text) - 40])  # the last line was cut short
    kept = rows(path)
    matching.main("squares", "2", "3", "4")
    assert len(kept) == 1 and kept[0] in rows(path)
    assert Counter(row["seed"] for row in rows(path)) == {2: 1, 3: 1, 4: 1}


@pytest.fixture
def text(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(EXPERIMENTS)
    threads = torch.get_num_threads()
    import text

    monkeypatch.setattr(text, "CACHE", tmp_path)
    yield text
    torch.set_num_threads(threads)
    del sys.modules["text"]


@pytest.mark.skipif(
    not (cache_dir() / WHEEL).exists(), reason="the questions are not in the cache: run python -m savae_lite.corpora"
)
def test_training_continues_from_budget_to_budget(text, tmp_path):
    """One training serves several budgets. It begins anew where a call was stopped in the middle, and where more epochs
    have been done than are asked for.
    """
    for epochs in (1, 3):
        _, course = text.trained("questions", "LM", 0, epochs=epochs)
        assert len(course) == epochs
    (kept,) = tmp_path.glob("*.jsonl")
    kept.write_text("".join(kept.read_text().splitlines(keepends=True)[:2]))
    _, again = text.trained("questions", "LM", 0, epochs=3)
    _, fewer = text.trained("questions", "LM", 0, epochs=2)
    values = [epoch["valid"] for epoch in course]
    assert [epoch["valid"] for epoch in fewer] == values[:2]
    assert [epoch["valid"] for epoch in again] == values == sorted(values, reverse=True)


def test_equal_seconds_are_those_of_sa_vae(text):
    for corpus, how in text.chapter().SETTINGS.items():
        assert text.affordable(corpus, "SA-VAE") == how["epochs"] < text.affordable(corpus, "VAE+SVI")
        assert text.affordable(corpus, "VAE+SVI") < text.affordable(corpus, "VAE") < text.affordable(corpus, "LM")
