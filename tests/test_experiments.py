"""The scripts of recorded runs: rows are made in parallel, once each, and an interrupted run continues."""

import sys
from collections import Counter
from pathlib import Path

import pytest

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
