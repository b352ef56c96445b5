"""Chapters are stored without outputs, open on Colab with a GPU, and carry cells to build and to check."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest
import yaml

ROOT = Path(__file__).parent.parent
CHAPTERS = sorted((ROOT / "chapters").glob("*.ipynb"))
REPOSITORY = "https://github.com/savae-lite/savae-lite"
SITE = "https://savae-lite.github.io/savae-lite"


@pytest.fixture(params=CHAPTERS, ids=lambda path: path.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def code_cells(notebook, tag=None):
    """The code cells, or only those that carry a tag."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [cell for cell in cells if tag is None or tag in cell.metadata.get("tags", [])]


def test_there_are_chapters():
    assert CHAPTERS


def test_notebook_is_valid(notebook):
    nbformat.validate(notebook)
    ids = [cell.id for cell in notebook.cells]
    assert len(ids) == len(set(ids))


def test_no_traces_of_a_run(notebook):
    assert not any(cell.outputs for cell in code_cells(notebook))
    assert all(cell.execution_count is None for cell in code_cells(notebook))
    assert "widgets" not in notebook.metadata
    assert not any("execution" in cell.metadata or "ExecuteTime" in cell.metadata for cell in notebook.cells)


def test_opens_on_colab_with_a_gpu(notebook):
    assert notebook.metadata.accelerator == "GPU"
    assert notebook.metadata.colab.gpuType == "T4"
    assert notebook.metadata.kernelspec.name == "python3"


def test_first_code_cell_installs_on_colab_only(notebook):
    lines = code_cells(notebook)[0].source.strip().splitlines()
    assert lines[0] == "import sys"
    guarded = [line for line in lines[1:] if line.strip()]
    assert guarded[0] == 'if "google.colab" in sys.modules:'
    assert all(line.startswith("    ") for line in guarded[1:])
    assert any("%pip install -q --no-deps" in line for line in guarded)


def test_starts_with_its_title(notebook):
    assert notebook.cells[0].cell_type == "markdown"
    assert notebook.cells[0].source.startswith("# ")


def test_has_cells_to_build_and_to_check(notebook):
    assert code_cells(notebook, "build"), "no cell is tagged build"
    checks = code_cells(notebook, "check")
    assert checks, "no cell is tagged check"
    for cell in checks:
        last = ast.parse(cell.source).body[-1]
        shown = isinstance(last, ast.Expr) and isinstance(last.value, ast.Call) and ast.unparse(last.value.func)
        assert shown == "claims", f"a check ends in claims(...): {cell.source}"


def test_no_claim_is_left_to_nbval(notebook):
    """Without stored outputs NBVAL_CHECK_OUTPUT checks nothing, and raises-exception passes when nothing raises."""
    for cell in code_cells(notebook):
        assert not {"nbval-check-output", "raises-exception"} & set(cell.metadata.get("tags", []))
        assert "NBVAL_" not in cell.source


def test_addresses_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert project["urls"] == {"Repository": REPOSITORY, "Documentation": SITE}
    assert config["repository"]["url"] == REPOSITORY
    assert config["html"]["baseurl"] == SITE
    assert citation["repository-code"] == REPOSITORY
    assert citation["url"] == SITE
    assert citation["version"] == project["version"]


def test_colab_cell_installs_from_the_repository(notebook):
    installed = re.findall(r"git\+(https://[^\s\"'@]+)", code_cells(notebook)[0].source)
    assert installed == [REPOSITORY]


def test_a_claim_that_does_not_hold_fails_its_cell_under_nbval(tmp_path):
    cell = "from savae_lite.claims import claim, claims\nclaims(claim('The sky is above us', {}, above=0))"
    for name, value in [("holds", 1), ("fails", -1)]:
        cells = [nbformat.v4.new_code_cell(cell.format(value))]
        nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / f"{name}.ipynb")
    nbval = ["--nbval-lax", "--nbval-current-env", "--nbval-kernel-startup-timeout=600", "-p", "no:cacheprovider"]
    done = subprocess.run([sys.executable, "-m", "pytest", *nbval], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and "1 failed, 1 passed" in done.stdout, done.stdout
    assert "«The sky is above us» expected above 0, got -1 (live)" in done.stdout
