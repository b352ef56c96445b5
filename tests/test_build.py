"""book/: a book is always built whole, from its own folder, whatever breaks in it, surrounds it or interrupts it.

A small project of three chapters stands for the book, with the book's own programs and settings in it.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, writes

# The canary has the newest of everything, and no Jupyter Book, whose versions are pinned.
pytest.importorskip("jupyter_book")

ROOT = Path(__file__).parent.parent
CLAIM = "from savae_lite.claims import claim, claims\nclaims(claim('The sky is above us', {}, above=0))"


def write_chapter(project, name, *sources):
    """A chapter with one section, whose cells are these."""
    cells = [new_markdown_cell(f"# {name}\n\n## The sky"), *map(new_code_cell, sources)]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    (project / "chapters" / f"{name}.ipynb").write_text(writes(new_notebook(cells=cells, metadata=kernel)))
    names = sorted(path.stem for path in (project / "chapters").glob("*.ipynb"))
    entries = "".join(f"  - file: chapters/{one}\n" for one in names)
    (project / "_toc.yml").write_text(f"format: jb-book\nroot: book/preface\nchapters:\n{entries}")


QUICK_PAGES = """import pathlib, sys, time, nbformat
def main():
    source, root = pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[4])
    html = root / "_build" / "html"
    (html / "chapters").mkdir(parents=True, exist_ok=True)
    for path in source.glob("chapters/*.ipynb"):
        outputs = [o for c in nbformat.read(path, 4).cells for o in c.get("outputs", [])]
        shown = [o.get("data", {}).get("text/html") or o.get("text") or o.get("ename", "") for o in outputs]
        (html / "chapters" / f"{path.stem}.html").write_text("\\n".join(f"<div class=output>{o}</div>" for o in shown))
    time.sleep(1)
    (html / "index.html").touch()
"""


@pytest.fixture
def project(tmp_path):
    """A folder with a space and an umlaut in its name, and an environment that finds the library in it.

    In Jupyter Book's place stands a short program; `slow` has Jupyter Book itself.
    """
    project = tmp_path / "ein Bäh buch"
    (project / "chapters").mkdir(parents=True)
    shutil.copytree(ROOT / "savae_lite", project / "savae_lite", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "book", project / "book", ignore=shutil.ignore_patterns("*.md", "__pycache__", "*.png"))
    (project / "book" / "preface.md").write_text("# A small book\n")
    shutil.copy(ROOT / "_config.yml", project)
    (project / "data" / "results").mkdir(parents=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", project / ".venv"], check=True)
    (site,) = (project / ".venv").glob("lib/python3*/site-packages")
    (site / "project.pth").write_text(f"{project}\n{sysconfig.get_path('purelib')}\n")
    kernels = project / ".venv" / "share" / "jupyter"
    shutil.copytree(Path(sys.prefix) / "share" / "jupyter" / "kernels", kernels / "kernels")
    write_chapter(project, "01_sound", CLAIM.format(1))
    (project / "jupyter_book" / "cli").mkdir(parents=True)
    (project / "jupyter_book" / "cli" / "main.py").write_text(QUICK_PAGES)
    return project


@pytest.fixture
def slow(project):
    shutil.rmtree(project / "jupyter_book")
    return project


def start(project, **variables):
    command = [project / ".venv" / "bin" / "python", project / "book" / "build.py"]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return subprocess.Popen(command, env=os.environ | {"STRICT": ""} | variables, **pipes)


def build(project, **variables):
    """Build, and return the exit status and what was printed."""
    process = start(project, **variables)
    said, _ = process.communicate(timeout=300)
    return process.returncode, said


def page(project, name):
    html = project / "_build" / "html" / "chapters" / f"{name}.html"
    return BeautifulSoup(html.read_text(encoding="utf-8"), "html.parser")


def test_a_book_that_holds(slow):
    project = slow
    status, said = build(project, STRICT="1")
    assert status == 0, said
    assert re.search(r"\[1/1\] 01_sound … \d+ s", said) and "Otherwise" not in said
    assert "1 claim checked" in page(project, "01_sound").text

    status, said = build(project, STRICT="1")
    assert status == 0 and "01_sound" not in said and "Building" not in said  # nothing has changed


def test_what_breaks_is_told_in_ten_lines_and_the_book_is_whole(slow):
    project = slow
    write_chapter(project, "02_false", CLAIM.format(-1), "print('further on')")
    write_chapter(project, "03_raises", "print('before')", "def deep():\n    return 1 / 0\ndeep()", "print('after')")
    status, said = build(project)
    assert status == 0
    told = said[said.index("Otherwise") :].splitlines()
    assert len(told) <= 10
    told = "\n".join(told)
    assert "02_false, The sky: «The sky is above us» expected above 0, got -1 (live)" in told
    assert "03_raises, The sky: ZeroDivisionError" in told and "_build/log/03_raises.log" in told
    log = (project / "_build" / "log" / "03_raises.log").read_text(encoding="utf-8")
    assert "return 1 / 0" in log and "\x1b" not in log
    assert "1 claim checked" in page(project, "01_sound").text
    false, raises = page(project, "02_false"), page(project, "03_raises")
    assert false.select("details.claims[open] .fails") and "further on" in false.text
    assert "before" in raises.text and "ZeroDivisionError" in raises.text and "after\n" not in raises.text

    status, said = build(project, STRICT="1")
    assert status != 0 and "02_false" in said and "03_raises" in said
    assert "] 03_raises" in said and "] 02_false" not in said  # what raised is tried again, what ran is not

    write_chapter(project, "02_false", CLAIM.format(2))
    write_chapter(project, "03_raises", "1")
    status, said = build(project, STRICT="1")
    assert status == 0, said
    assert not page(project, "02_false").select(".fails")


def test_many_failures_are_ten_lines_too(project):
    write_chapter(project, "02_false", *[CLAIM.format(-n) for n in range(1, 9)])
    _, said = build(project)
    told = said[said.index("Otherwise") :].splitlines()
    assert len(told) <= 10 and "8 in all" in told[0] and "and 5 more" in "\n".join(told)
    everything = (project / "_build" / "log" / "failures.txt").read_text(encoding="utf-8")
    assert everything.count("02_false") == 8


def test_a_kernel_that_dies_is_told_like_an_error(project):
    write_chapter(project, "02_dies", "import os\nos._exit(3)")
    status, said = build(project)
    assert status == 0 and "02_dies, The sky: DeadKernelError" in said


def test_a_warning_about_a_page_fails_where_it_is_strict_and_every_time(slow):
    project = slow
    (project / "book" / "preface.md").write_text("# A small book\n\n{doc}`nowhere`\n")
    status, said = build(project)
    assert status == 0 and "warnings" in said and "_build/log/pages.log" in said
    assert [build(project, STRICT="1")[0] != 0 for _ in range(2)] == [True, True]


def test_a_change_runs_again_what_depends_on_it(project):
    write_chapter(project, "02_other", "1")
    build(project)
    write_chapter(project, "02_other", "2")
    _, said = build(project)
    assert "] 02_other" in said and "01_sound" not in said
    with open(project / "savae_lite" / "claims.py", "a") as file:
        file.write("\n# changed\n")
    _, said = build(project)
    assert "] 02_other" in said and "] 01_sound" in said


SURROUNDINGS = """import os, sys, matplotlib
from IPython import get_ipython
print([name for name in ("JPY_SESSION_NAME", "COLAB_GPU", "PYTHONPATH", "SAVAE_LITE_CLAIMS") if name in os.environ])
print("cache", os.environ.get("SAVAE_LITE_CACHE"))
print("size", matplotlib.rcParams["font.size"], "started", "from_startup" in globals())
"""


def test_surroundings_do_not_reach_in(project, tmp_path):
    write_chapter(project, "01_sound", SURROUNDINGS, CLAIM.format(1))
    cache = {"SAVAE_LITE_CACHE": str(tmp_path)}  # what the reader chose for the fetched files does reach in
    plain = build(project, **cache)
    expected = page(project, "01_sound").select_one(".output").text
    (started := tmp_path / "ipython" / "profile_default" / "startup").mkdir(parents=True)
    (started / "a.py").write_text("from_startup = True")
    (tmp_path / "matplotlibrc").write_text("font.size: 40\n")
    shutil.copytree(project / "savae_lite", tmp_path / "other" / "savae_lite")
    (tmp_path / "other" / "savae_lite" / "claims.py").write_text("raise ImportError('the other folder')")
    kernel = tmp_path / "jupyter" / "kernels" / "python3"
    kernel.mkdir(parents=True)
    (kernel / "kernel.json").write_text(json.dumps({"argv": ["/bin/false", "{connection_file}"], "display_name": "no"}))
    shutil.rmtree(project / "_build")
    surrounded = build(
        project, JPY_SESSION_NAME="x", COLAB_GPU="1", SAVAE_LITE_CLAIMS="raise", IPYTHONDIR=str(tmp_path / "ipython"),
        MATPLOTLIBRC=str(tmp_path), PYTHONPATH=str(tmp_path / "other"), JUPYTER_PATH=str(tmp_path / "jupyter"),
        **cache,
    )  # fmt: skip
    assert plain[0] == surrounded[0] == 0, surrounded[1]
    assert page(project, "01_sound").select_one(".output").text == expected
    assert "[]" in expected and "started False" in expected and f"cache {tmp_path}" in expected


def test_a_copied_checkout_does_not_build_with_the_library_of_the_other(project, tmp_path):
    copied = tmp_path / "copy"
    shutil.copytree(project, copied, symlinks=True)
    status, said = build(copied, STRICT="1")
    assert status != 0 and "ImportError: a chapter must run with the library beside it" in said


def left_over(project):
    """Processes that still have the project's folder in their command line."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = entry.read_bytes()
        except OSError:
            continue
        if str(project).encode() in command:
            found.append(command.decode())
    return found


def wait_for(process, moment):
    """Read what a build prints, letter by letter for its last line is unfinished, up to a moment or to the pages."""
    said = ""
    while moment not in said and "Building" not in said:
        letter = process.stdout.read(1)
        assert letter, said
        said += letter


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_after_an_interrupt_nothing_is_left_and_a_build_is_right(project, how):
    write_chapter(project, "02_slow", "import time\ntime.sleep(4)", CLAIM.format(1))
    for moment in ("Running", "] 01_sound", "Building"):
        process = start(project, JOBS="2")
        wait_for(process, moment)
        time.sleep(0.5)
        process.send_signal(how)
        process.communicate(timeout=60)
        assert process.returncode != 0
    until = time.monotonic() + 30
    while left_over(project) and time.monotonic() < until:
        time.sleep(0.2)
    assert not left_over(project)
    status, said = build(project, STRICT="1")
    assert status == 0, said
    assert "1 claim checked" in page(project, "02_slow").text


def test_two_builds_in_one_folder_wait_for_each_other(project):
    write_chapter(project, "02_slow", "import time\ntime.sleep(2)")
    first, second = start(project), start(project)
    said = [process.communicate(timeout=300)[0] for process in (first, second)]
    assert first.returncode == second.returncode == 0, said
    assert sum("Waiting for another build" in one for one in said) == 1
    assert sum("] 02_slow" in one for one in said) == 1


@pytest.mark.parametrize("jobs", ["0", "many", "-1"])
def test_jobs_that_are_no_number_are_refused(jobs):
    done = subprocess.run(
        [sys.executable, ROOT / "book" / "machine.py"], env=os.environ | {"JOBS": jobs}, capture_output=True, text=True
    )
    assert done.returncode != 0 and "JOBS must" in done.stderr and jobs in done.stderr
