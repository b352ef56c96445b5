"""savae_lite.records: what was written is read again, and an interruption costs one line at most."""

import json
from importlib.metadata import version
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from savae_lite.records import append, provenance, recorded, rows

RESULTS = Path(__file__).parent.parent / "data" / "results"
values = st.one_of(st.text(), st.integers(), st.booleans(), st.floats(allow_nan=False, allow_infinity=False))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "record.jsonl"


@given(st.lists(st.dictionaries(st.text(), values), max_size=5))
def test_rows_are_what_was_appended_in_order(tmp_path_factory, written):
    path = tmp_path_factory.mktemp("records") / "record.jsonl"
    for row in written:
        append(path, row)
    assert rows(path) == written
    assert rows(str(path)) == written


def test_a_file_that_is_not_there_has_no_rows_and_is_made_on_demand(path):
    assert rows(path) == []
    append(path, {"seed": 0})
    assert rows(path) == [{"seed": 0}]


def test_a_line_is_one_json_object(path):
    append(path, {"text": "two\nlines", "nll": 1.5})
    append(path, {"text": "μ ≤ σ"})
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [{"text": "two\nlines", "nll": 1.5}, {"text": "μ ≤ σ"}]


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_line_cut_short_is_left_out_and_appending_continues(path, cut):
    append(path, {"seed": 0})
    whole = path.read_bytes()
    append(path, {"seed": 1})
    path.write_bytes(path.read_bytes()[: len(whole) + cut])
    finished = [{"seed": 0}] + ([{"seed": 1}] if cut >= len('{"seed": 1}') else [])
    assert rows(path) == finished
    append(path, {"seed": 2})
    assert rows(path) == [*finished, {"seed": 2}]


def test_a_line_cut_after_a_brace_in_its_text_is_left_out_as_well(path):
    append(path, {"seed": 0})
    append(path, {"command": "{x}"})
    path.write_bytes(path.read_bytes()[: -len('"}\n')])
    assert path.read_text(encoding="utf-8").endswith('{"command": "{x}')
    assert rows(path) == [{"seed": 0}]


def test_provenance_names_the_command_and_the_versions():
    found = provenance("make lab")
    assert found["command"] == "make lab"
    assert set(found) >= {"commit", "device", "python", "torch"}
    # the metadata may leave out the build that follows the "+"
    assert found["torch"].partition("+")[0] == version("torch").partition("+")[0]
    assert json.loads(json.dumps(found)) == found


def test_a_name_that_is_not_recorded_lists_those_that_are():
    known = [file.stem for file in RESULTS.glob("*.json*")]
    with pytest.raises(FileNotFoundError) as error:
        recorded("no such run")
    assert "no such run" in str(error.value) and all(name in str(error.value) for name in known)


@pytest.mark.parametrize("file", sorted(RESULTS.glob("*.jsonl")), ids=lambda file: file.stem)
def test_every_recorded_run_can_be_read_by_its_name(file):
    assert recorded(file.stem) == rows(file) and rows(file)
