"""savae_lite.claims: a sentence holds when every number lies in its range, and says so when it does not."""

import json
import math
import os

import numpy as np
import pandas as pd
import pytest
import torch
from bs4 import BeautifulSoup
from hypothesis import given
from hypothesis import strategies as st

from savae_lite.claims import MIME, ClaimError, claim, claims

numbers = st.floats(-1e6, 1e6)
SENTENCE = "SVI is ahead of the encoder"


@given(st.lists(numbers, min_size=1), numbers, numbers)
def test_a_claim_holds_when_every_number_lies_inside(values, a, b):
    low, high = min(a, b), max(a, b) + 1
    assert claim(SENTENCE, values, above=low, below=high).holds == all(low < v < high for v in values)
    assert claim(SENTENCE, values, above=low).holds == (min(values) > low)
    assert claim(SENTENCE, values, below=high).holds == (max(values) < high)


@pytest.mark.parametrize("gather", [list, tuple, np.array, torch.tensor, pd.Series, lambda v: pd.DataFrame({"gap": v})])
def test_values_come_in_any_table(gather):
    one = claim(SENTENCE, gather([1.0, 3.0]), above=0, below=3.5)
    assert one.holds and (one.least, one.most) == (1.0, 3.0)
    assert not claim(SENTENCE, gather([1.0, 3.0]), above=1).holds  # at the edge is not inside
    assert not claim(SENTENCE, gather([1.0, math.nan]), above=0).holds
    assert not claim(SENTENCE, gather([1.0, math.inf]), below=5).holds


def test_tensors_inside_lists_and_with_a_graph():
    value = [torch.tensor([1.0, 2.0], requires_grad=True), torch.tensor([3.0, 4.0])]
    assert claim(SENTENCE, value, above=0.5, below=4.5).holds


@pytest.mark.parametrize(
    "value, equal, holds",
    [("SVI", "SVI", True), ("SVI", "VAE", False), (["a", "b"], ["a", "b"], True), ([1, 2, 3], [1, 2], False),
     (torch.tensor([1, 2]), [1, 2], True), (False, False, True), (0, 0, True), ({"a": 1}, {"a": 2}, False)],
)  # fmt: skip
def test_equal(value, equal, holds):
    assert claim(SENTENCE, value, equal=equal).holds is holds


@pytest.mark.parametrize(
    "value, options",
    [([], dict(above=0)), (torch.zeros(0), dict(below=1)), (1, {}), (1, dict(above=1, below=1)),
     (1, dict(above=2, below=1)), (1, dict(above=0, equal=1)), (1, dict(above=math.nan, below=1))],
)  # fmt: skip
def test_a_claim_without_a_value_or_a_range_is_refused(value, options):
    with pytest.raises(ValueError, match="got"):
        claim(SENTENCE, value, **options)
    with pytest.raises(ValueError, match="sentence"):
        claim(" ", 1, above=0)


def test_a_list_of_claims_holds_claims():
    for wrong in [(), (True,), ([claim(SENTENCE, 1, above=0)],)]:
        with pytest.raises(ValueError, match="claim"):
            claims(*wrong)


def shown(*stated):
    bundle = claims(*stated)._repr_mimebundle_()
    return BeautifulSoup(bundle["text/html"], "html.parser"), bundle


def test_the_page_shows_sentence_value_range_and_run(monkeypatch):
    monkeypatch.delenv("SAVAE_LITE_CLAIMS", raising=False)
    page, bundle = shown(
        claim("λ < μ & so on", [0.25, 0.5], above=0, below=1),
        claim("recorded", "SVI", equal="SVI", recorded=True),
        claim("the example", 1, above=0, this_draw=True),
    )
    assert not page.details.has_attr("open") and "3 claims" in page.summary.text
    first, second, third = page.select("li")
    assert "λ < μ & so on" in first.text and "0.25 to 0.5 · expected between 0 and 1 · live" in first.text
    assert "SVI · expected SVI · recorded" in second.text
    assert "live, this draw" in third.text
    assert "λ < μ & so on: 0.25 to 0.5" in bundle["text/plain"]


def test_one_that_does_not_hold_is_marked_and_stops_nothing(monkeypatch):
    monkeypatch.delenv("SAVAE_LITE_CLAIMS", raising=False)
    page, bundle = shown(claim(SENTENCE, -0.1, above=0), claim("The other", 1, above=0))
    assert page.details.has_attr("open") and "1 of 2" in page.summary.text
    assert ["does not hold here" in item.text for item in page.select("li")] == [True, False]
    assert "DOES NOT HOLD" in bundle["text/plain"]
    assert [one["holds"] for one in bundle[MIME]] == [False, True]


def test_where_claims_raise_all_that_do_not_hold_are_named(monkeypatch):
    monkeypatch.setenv("SAVAE_LITE_CLAIMS", "raise")
    claims(claim(SENTENCE, 1, above=0))
    with pytest.raises(ClaimError) as error:
        claims(claim(SENTENCE, -0.1, above=0), claim("The other", 1, above=0), claim("Third", 2, equal=3))
    assert str(error.value).splitlines() == [
        f"«{SENTENCE}» expected above 0, got -0.1 (live)",
        "«Third» expected 3, got 2 (live)",
    ]


def test_what_the_builder_reads_is_json(monkeypatch):
    monkeypatch.delenv("SAVAE_LITE_CLAIMS", raising=False)
    _, bundle = shown(claim(SENTENCE, [1.0, math.nan, math.inf], below=3), claim("b", True, equal=True))
    first, second = json.loads(json.dumps(bundle[MIME], allow_nan=False))
    assert first["least"] is first["most"] is None and first["below"] == 3 and not first["holds"]
    assert second["holds"] is True and second["here"] == "True"


def test_the_tests_of_chapters_run_where_claims_raise():
    assert os.environ["SAVAE_LITE_CLAIMS"] == "raise"
