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


def test_pictures_and_links_hold_on_a_package_page_and_lead_to_files_that_exist():
    repository = (
        r"https://(?:raw\.githubusercontent\.com/savae-lite/savae-lite|github\.com/savae-lite/savae-lite/blob)/main/"
    )
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    paths = [re.sub(f"^{repository}", "", target) for target in targets]
    assert len(targets) >= 2 and all(target.startswith("https://") for target in targets), targets
    assert all((Path(__file__).parent.parent / path).exists() for path in paths if "://" not in path), paths
