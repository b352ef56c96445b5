"""The shape of the library: floors, leaves, sizes, no global randomness, imports that do nothing."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "savae_lite"
MODULES = {path.stem: path for path in sorted(PACKAGE.glob("*.py")) if path.stem != "__init__"}
MODULES |= {".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
            for path in sorted(PACKAGE.glob("exercises/*.py"))}  # fmt: skip
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}

FLOORS = [
    {
        "gaussian",
        "svi",
        "schedules",
        "twice",
        "graph",
        "data",
        "extras",
        "grammar",
        "unfinished",
        "records",
        "claims",
        "notebook",
        "exercises",
    },
    {"elbo", "adjoint", "lstm", "softmax", "images", "plots", "download", "checkpoint", "reading"},
    {"models", "text", "savae", "diagnostics", "exact", "widgets", "optim_n2n", "saliency", "trainer", "corpora"},
    {name for name in MODULES if name.startswith("exercises.")},
]
LEAVES = {"matplotlib": "plots", "ipywidgets": "widgets"}

every_module = pytest.mark.parametrize("name", MODULES)


def floor(name):
    return next(number for number, names in enumerate(FLOORS) if name in names)


def imported(tree):
    """Full names of all that a module imports, at whatever depth."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: write the import in full, from savae_lite.… import …"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def neighbours(tree):
    """The modules of the library that a module imports."""
    parts = (name.split(".") for name in imported(tree))
    return {part[1] for part in parts if part[0] == "savae_lite" and len(part) > 1 and part[1] in MODULES}


def functions(tree):
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]


@every_module
def test_every_module_has_a_floor(name):
    assert any(name in names for names in FLOORS), f"give {name} a floor in tests/test_architecture.py"


@every_module
def test_imports_go_down(name):
    upward = {other for other in neighbours(TREES[name]) if floor(other) >= floor(name)}
    assert not upward, f"{name} stands on floor {floor(name)} and may not import {upward}"


def test_no_import_cycles():
    TopologicalSorter({name: neighbours(tree) for name, tree in TREES.items()}).prepare()


def test_package_exports_nothing():
    assert not list(imported(ast.parse((ROOT / "savae_lite" / "__init__.py").read_text(encoding="utf-8"))))


@every_module
@pytest.mark.parametrize("package", LEAVES)
def test_heavy_packages_stay_in_their_leaf(name, package):
    roots = {full.split(".")[0] for full in imported(TREES[name])}
    assert package not in roots or name == LEAVES[package]


@every_module
def test_no_global_random_state(name):
    tree = TREES[name]
    assert not any(full.split(".")[0] == "random" or full.startswith("numpy.random") for full in imported(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            source = ast.unparse(node)
            assert not source.startswith(("np.random", "numpy.random", "torch.random")), source
            assert source not in {"torch.manual_seed", "torch.seed", "torch.cuda.manual_seed"}, source
            assert not source.endswith("_like") or "rand" not in source, f"{source} takes no generator"


DRAWS = {f"torch.{name}" for name in ("rand", "randn", "randint", "randperm", "normal", "bernoulli", "multinomial")}


@every_module
def test_every_draw_names_its_generator(name):
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in DRAWS:
            assert any(keyword.arg == "generator" for keyword in node.keywords), ast.unparse(node)


@every_module
def test_public_names_are_documented(name):
    tree = TREES[name]
    assert ast.get_docstring(tree), f"{name} says nowhere what it is"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{name}.{node.name} has no docstring"


@every_module
def test_functions_are_short(name):
    for function in functions(TREES[name]):
        body = function.body[1:] if ast.get_docstring(function) else function.body
        lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
        assert lines <= 40, f"{name}.{function.name} has {lines} lines"


@every_module
def test_modules_are_short(name):
    assert len(MODULES[name].read_text(encoding="utf-8").splitlines()) <= 250


IMPORT_DOES_NOTHING = """
import importlib, logging, sys
import torch

before, handlers = torch.get_rng_state(), list(logging.getLogger().handlers)
for name in {others}:
    importlib.import_module("savae_lite." + name)
assert "matplotlib" not in sys.modules, "matplotlib was imported outside plots"

import matplotlib
style = dict(matplotlib.rcParams)
for name in {leaves}:
    importlib.import_module("savae_lite." + name)
assert dict(matplotlib.rcParams) == style, "matplotlib.rcParams were changed"
assert torch.equal(torch.get_rng_state(), before), "torch's random state was changed"
assert logging.getLogger().handlers == handlers, "the root logger was given handlers"
assert torch.get_default_dtype() == torch.float32 and torch.is_grad_enabled()
"""


def test_importing_does_nothing(monkeypatch):
    # widgets may stand on plots, so both come after the others
    monkeypatch.setenv("MPLBACKEND", "agg")
    leaves = [name for name in MODULES if name in LEAVES.values()]
    others = [name for name in MODULES if name not in leaves]
    script = IMPORT_DOES_NOTHING.format(others=others, leaves=leaves)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == done.stderr == ""


def test_recorded_results_are_installed():
    from importlib.resources import files

    installed = {path.name for path in files("savae_lite.recorded").iterdir()}
    assert {path.name for path in (ROOT / "data" / "results").glob("*.json*")} <= installed
