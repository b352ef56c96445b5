"""The README keeps its word: its code runs, and its first lines say what, for whom and how."""

import re
from pathlib import Path

import pytest
import torch

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def test_the_code_runs_and_the_gradient_reaches_the_encoder():
    names = {}
    exec(re.search(r"```python\n(.*?)```", README, re.DOTALL).group(1), names)
    assert names["loss"].item() == pytest.approx(12 * 7, rel=0.5)  # some log 1000 nats for each of 11 words
    assert torch.count_nonzero(names["model"].encoder.output.grad)


def test_the_first_lines_name_the_two_commands():
    first = "\n".join(README.splitlines()[:10])
    assert "make book" in first and "make test" in first and "semi-amortized" in first.lower()


def test_pictures_and_links_of_the_checkout_exist():
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (Path(__file__).parent.parent / target).exists(), target
