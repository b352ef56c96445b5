"""The package as others get it: what lies in it, what it asks for, and what it says where an extra is missing."""

import ast
import itertools
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email import message_from_bytes
from importlib.metadata import packages_distributions
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MODULES = {path.stem: ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "savae_lite").glob("*.py")}
CHAPTERS = sorted((ROOT / "chapters").glob("*.ipynb"))
KNOWN = packages_distributions()
OURS = {"savae_lite"} | {path.stem for folder in ("tests", "data", "book") for path in (ROOT / folder).rglob("*.py")}
# They test the built pages, which need the versions of requirements.txt.
PAGES = {"test_browser.py", "test_built_book.py"}
TESTS = [path for path in (ROOT / "tests").glob("*.py") if path.name not in PAGES]

# ---------------------------------------------------------------- what it asks for


def name(requirement):
    return re.match(r"[\w.-]+", requirement).group().lower()


def asked(extra=None):
    """What is installed with an extra, or without: names, in which extras of extras are resolved."""
    if extra is None:
        return set(map(name, PROJECT["dependencies"]))
    found = asked()
    for requirement in PROJECT["optional-dependencies"][extra]:
        inner = re.match(r"savae-lite\[(.+)\]$", requirement)
        found |= set().union(*map(asked, inner.group(1).split(","))) if inner else {name(requirement)}
    return found


def packages(*trees):
    """Packages outside the standard library and this repository that some code imports, as an index names them."""
    roots = set()
    for node in itertools.chain(*map(ast.walk, trees)):
        if isinstance(node, ast.Import):
            roots |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            roots.add(node.module.split(".")[0])
    return {KNOWN[root][0].lower() for root in roots - OURS - sys.stdlib_module_names}


def around(node):
    """The extra that a statement names: with extra("plots"): …"""
    match node:
        case ast.With(items=[ast.withitem(context_expr=ast.Call(func=ast.Name("extra"), args=[ast.Constant(value)]))]):
            return value


def chapter(path):
    cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    return ast.parse(re.sub(r"^(\s*)%.*", r"\1pass", "\n".join(cells), flags=re.MULTILINE))


def test_it_asks_for_three_packages():
    assert asked() == {"torch", "numpy", "tqdm"}


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_what_its_extra_brings(module):
    for node in MODULES[module].body:
        assert packages(node) <= asked(around(node)), ast.unparse(node)


def test_the_extras_are_those_that_the_library_names():
    named = {around(node) for tree in MODULES.values() for node in ast.walk(tree)} - {None}
    assert named | {"sotu", "book", "test"} == PROJECT["optional-dependencies"].keys()


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_book_brings_what_a_chapter_imports(path):
    assert packages(chapter(path)) <= asked("book")


def test_test_brings_what_the_tests_import():
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in TESTS]
    assert packages(*trees) <= asked("test")


def test_whatever_is_asked_for_stands_in_the_lock():
    lock = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    locked = set(re.findall(r"^([\w.-]+)==", lock, flags=re.MULTILINE))
    assert set().union(*map(asked, PROJECT["optional-dependencies"])) - {"torch"} <= locked


# ---------------------------------------------------------------- what lies in it


def build(kind, source, folder):
    """Build an "sdist" or a "wheel" of a source folder, with the setuptools that are here and no network."""
    code = f"from setuptools import build_meta; build_meta.build_{kind}({str(folder)!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("*.tar.gz" if kind == "sdist" else "*.whl")
    return built


@pytest.fixture(scope="module")
def tracked():
    if not (ROOT / ".git").exists():
        pytest.skip("what belongs into a package is known to a checkout only")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return {name for name in listed.split("\0") if (ROOT / name).is_file()}


@pytest.fixture(scope="module")
def sdist(tracked, tmp_path_factory):
    """The source package, unpacked; it is built from a copy, for a build leaves files behind."""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("sdist")
    for file in tracked:
        (source / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / file, source / file)
    with tarfile.open(build("sdist", source, folder)) as archive:
        archive.extractall(folder, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    (unpacked,) = (path for path in folder.iterdir() if path.is_dir())
    return unpacked


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory):
    """The wheel, built from the source package."""
    return build("wheel", sdist, tmp_path_factory.mktemp("wheel"))


def test_the_source_package_holds_the_repository(sdist, tracked):
    assert not [file for file in sorted(tracked) if not (sdist / file).is_file()]


def test_the_wheel_holds_the_library_and_the_recorded_runs(wheel, tracked):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == {
        re.sub(r"^data/results/", "savae_lite/recorded/", file)
        for file in tracked
        if file.startswith(("savae_lite/", "data/results/"))
    }
    assert {"savae_lite/py.typed", "savae_lite/sliders.js", "savae_lite/recorded/text.jsonl"} <= names


def test_the_wheel_says_what_it_asks_for(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        told = message_from_bytes(archive.read(metadata))
    always = [requirement for requirement in told.get_all("Requires-Dist") if "extra ==" not in requirement]
    assert set(map(name, always)) == asked() and all("==" not in requirement for requirement in always)
    assert set(told.get_all("Provides-Extra")) == PROJECT["optional-dependencies"].keys()
    assert "Typing :: Typed" in told.get_all("Classifier")


# ---------------------------------------------------------------- where an extra is missing

ALONE = """
import importlib, json, sys

sys.modules.update(dict.fromkeys(["matplotlib", "PIL", "ipywidgets", "IPython", "sotu", "pandas", "sklearn"]))
sys.path.insert(0, sys.argv[1])
said = {}
for name in sys.argv[2:]:
    try:
        importlib.import_module("savae_lite." + name)
    except ModuleNotFoundError as error:
        said[name] = str(error)
try:
    sys.modules["savae_lite.corpora"].sotu()
except RuntimeError as error:
    said["sotu"] = str(error)
print(json.dumps([sys.modules["savae_lite"].__file__, said]))
"""


@pytest.fixture(scope="module")
def alone(wheel):
    """Where the library was imported from, and what it said, by module, where only torch, numpy and tqdm are."""
    modules = [module for module in MODULES if module != "__init__"]
    command = [sys.executable, "-c", ALONE, str(wheel), *modules]
    done = subprocess.run(command, cwd=wheel.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_all_but_figures_sliders_and_speeches_works_with_three_packages(alone, wheel):
    file, said = alone
    assert file.startswith(str(wheel)) and said.keys() == {"plots", "widgets", "sotu"}, said


@pytest.mark.parametrize(("module", "package"), [("plots", "matplotlib"), ("widgets", "ipywidgets"), ("sotu", "sotu")])
def test_a_missing_package_is_named_with_its_extra(alone, module, package):
    message = alone[1][module]
    assert re.search(rf"needs (the package )?{package}; it is not installed", message)
    assert message.endswith(f'Run: pip install "savae-lite[{module}]"')
