"""The tagged cells of a notebook, and only they, run in order."""

import nbformat
import pytest

from savae_lite.notebook import built, sources


def notebook(tmp_path, *cells):
    path = tmp_path / "n.ipynb"
    cells = [nbformat.v4.new_code_cell(source, metadata={"tags": tags}) for source, tags in cells]
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# n"), *cells]), path)
    return path


def test_only_tagged_cells_run_and_in_order(tmp_path):
    path = notebook(tmp_path, ("a = 1", ["build"]), ("a = 100", []), ("b = a + 1", ["hide-input", "build"]))
    assert vars(built(path)) == {"a": 1, "b": 2}
    assert sources(path, "build") == ["a = 1", "b = a + 1"]


def test_an_error_names_the_cell(tmp_path):
    path = notebook(tmp_path, ("a = 1", ["build"]), ("1 / 0", ["build"]))
    with pytest.raises(ZeroDivisionError) as error:
        built(path)
    assert "build cell 1" in str(error.traceback[-1].path)


def test_a_notebook_without_build_cells_is_refused(tmp_path):
    with pytest.raises(ValueError, match="must have cells tagged 'build'"):
        built(notebook(tmp_path, ("a = 1", [])))
