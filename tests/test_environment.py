"""Setting up: any Python is told what is needed, a failure names its log and its remedy, and a folder has its own."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LOCK = (ROOT / "requirements.txt").read_text(encoding="utf-8")
GIT = shutil.which("git") and (ROOT / ".git").exists()
needs_git = pytest.mark.skipif(not GIT, reason="looks at what git has")


@pytest.fixture
def environment(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(ROOT / "book")
    import environment

    monkeypatch.setattr(environment, "LOG", str(tmp_path / "setup.log"))
    monkeypatch.chdir(ROOT)
    yield environment
    del sys.modules["environment"]


def test_an_old_python_is_told_what_is_needed():
    program = str(ROOT / "book" / "environment.py")
    script = f"import sys, runpy; sys.version_info = (3, 9, 1); runpy.run_path({program!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", script, ".venv"], capture_output=True, text=True)
    assert done.returncode == 1 and "needs Python 3.11 or newer" in done.stderr and "PYTHON=" in done.stderr


def step(environment, commands):
    with open(environment.LOG, "w", encoding="utf-8") as log:
        environment.step("packages", [[sys.executable, "-c", code] for code in commands], log, "Is there a network?")


def test_a_step_says_what_it_did_and_falls_back(environment, capfd):
    step(environment, ["raise SystemExit(1)", "print('noise')"])
    assert re.fullmatch(r"\s*packages … \d+ s\s*", capfd.readouterr().out)
    assert "noise" in Path(environment.LOG).read_text(encoding="utf-8")


def test_a_step_that_fails_says_the_end_of_its_log_and_the_remedy(environment):
    with pytest.raises(SystemExit) as error:
        step(environment, ["raise SystemExit(1)", "print(*range(99), sep='\\n'); raise SystemExit('no space left')"])
    said = str(error.value)
    assert "no space left" in said and "setup.log" in said and "Is there a network?" in said
    assert len(said.splitlines()) <= 10


def pinned(text):
    return re.findall(r"^([A-Za-z0-9_.-]+)==([^\s;\\]+)", text, re.MULTILINE)


def test_every_package_of_the_lock_has_checksums_and_torch_is_not_among_them():
    blocks = re.split(r"\n(?=[A-Za-z0-9])", LOCK)[1:]
    assert len(blocks) > 100
    assert all("--hash=sha256:" in block for block in blocks)
    assert "torch" not in dict(pinned(LOCK))
    assert pinned((ROOT / "requirements-torch.txt").read_text(encoding="utf-8"))[0][0] == "torch"


def test_what_is_asked_for_directly_is_in_the_lock():
    asked = {
        (name.lower(), version) for name, version in pinned((ROOT / "requirements.in").read_text(encoding="utf-8"))
    }
    assert asked <= {(name.lower(), version) for name, version in pinned(LOCK)}


@pytest.mark.parametrize("package", ["uv", "numpy"])
def test_the_lines_of_one_package_are_cut_from_the_lock(environment, tmp_path, package):
    text = Path(environment.write_lock_of(package, str(tmp_path))).read_text(encoding="utf-8")
    assert [name for name, _ in pinned(text)] == [package]
    assert text.count("--hash") == LOCK.split(f"\n{package}==")[1].split("# via")[0].count("--hash") > 0


def make(folder, *arguments):
    done = subprocess.run(["make", *arguments], cwd=folder, capture_output=True, text=True)
    return done.stdout + done.stderr


@pytest.fixture
def checkout(tmp_path):
    """The files that make looks at, in a folder with a space, a quote and an umlaut in its name."""
    folder = tmp_path / "mein Bü'ch"
    folder.mkdir()
    for name in ("Makefile", "requirements.txt", "requirements-torch.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    return folder


def set_up(folder):
    """As if the environment had been made there."""
    (folder / ".venv").mkdir()
    (name,) = set(re.findall(r"touch (\.venv/\.ready-\d+)", make(folder, "-n", "book")))
    (folder / name).touch()


def test_a_moved_or_copied_checkout_is_set_up_anew(checkout, tmp_path):
    set_up(checkout)
    assert "environment.py" not in make(checkout, "-n", "book")
    shutil.copytree(checkout, tmp_path / "copy", copy_function=shutil.copy2)
    assert "environment.py" in make(tmp_path / "copy", "-n", "book")
    checkout.rename(tmp_path / "moved")
    assert "environment.py" in make(tmp_path / "moved", "-n", "test")


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-torch.txt", "pyproject.toml"])
def test_other_requirements_are_set_up_anew(checkout, name):
    set_up(checkout)
    (checkout / name).write_text("changed")
    subprocess.run(["touch", "-d", "+1 minute", checkout / name], check=True)
    assert "environment.py" in make(checkout, "-n", "book")


@needs_git
def test_cleaning_deletes_nothing_that_is_tracked_and_all_that_is_built(tmp_path):
    subprocess.run(["git", "clone", "-q", "--local", ROOT, tmp_path / "clone"], check=True)
    clone = tmp_path / "clone"
    for made in (".venv/bin/python", "_build/html/index.html", "savae_lite/__pycache__/x.pyc"):
        (clone / made).parent.mkdir(parents=True, exist_ok=True)
        (clone / made).touch()
    make(clone, "clean")
    status = subprocess.run(["git", "status", "--porcelain", "--ignored"], cwd=clone, capture_output=True, text=True)
    assert status.stdout == ""


@needs_git
def test_nothing_is_both_tracked_and_ignored():
    both = subprocess.run(["git", "ls-files", "-ci", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    assert both.stdout == "" and both.returncode == 0
