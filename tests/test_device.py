"""The library follows the device of its tensors: all of it is run on a second device, made of the CPU's memory.

That device cannot be taken back, and must be there before the first backward pass. So the cases of `device_cases` run
in a process of their own. ``python test_device.py`` prints for each a line of JSON: its name and what went wrong.
"""

import ast
import json
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, ValuesView
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from device_cases import CASES, FAULTS, Place
from simulated_gpu import GPU, NAME, OnGPU, register, why_not
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils._pytree import tree_leaves

import savae_lite

PACKAGE = Path(savae_lite.__file__).parent

# Modules, classes and functions that never meet a tensor of the device, and why.
EXCEPTIONS = {
    **dict.fromkeys(("corpora", "reading", "data.tokenize", "data.read_sentences"), "words"),
    **dict.fromkeys(("data.Line.__init__", "data.clean", "data.split_words"), "words"),
    **dict.fromkeys(("data.Vocab.__init__", "data.Vocab.build"), "words"),
    **dict.fromkeys(("data.Vocab.encode", "data.encode_all"), "ids are made on the CPU; a batch of them is moved"),
    **dict.fromkeys(("schedules", "records", "diagnostics.perplexity", "grammar.entropy"), "numbers"),
    **dict.fromkeys(("grammar.log_prob", "grammar.log_prob_of_prefix"), "words and numbers"),
    **dict.fromkeys(("grammar.token_information", "grammar.word_classes"), "words and numbers"),
    **dict.fromkeys(("exercises", "claims"), "for notebooks, whose small examples lie on the CPU"),
    **dict.fromkeys(("download", "extras", "notebook", "unfinished"), "no tensors"),
    "checkpoint.refuse_unwritable": "no tensors",
    **dict.fromkeys(("plots", "widgets"), "pictures of numbers"),
}


@pytest.fixture(scope="module")
def verdicts():
    if reason := why_not():
        pytest.skip(reason)
    done = subprocess.run([sys.executable, __file__], capture_output=True, text=True)
    assert done.returncode == 0, f"it ended with {done.returncode} after {done.stdout[-300:]!r}\n{done.stderr}"
    return dict(map(json.loads, done.stdout.splitlines()))


@pytest.mark.parametrize("name", CASES)
def test_the_device_gives_what_the_cpu_gives(verdicts, name):
    assert not verdicts[name], verdicts[name]


@pytest.mark.parametrize("name", FAULTS)
def test_what_is_left_on_another_device_fails(verdicts, name):
    said, _ = FAULTS[name]
    assert said in verdicts[name], f"{said!r} is not said: {verdicts[name]}"


def test_other_tests_do_not_see_the_device(verdicts):
    assert not hasattr(torch, NAME)


def test_every_public_function_has_met_the_device(verdicts):
    missed = {name for name in public() - {*verdicts["met"]} if not any(excused(name, by) for by in EXCEPTIONS)}
    assert not missed, f"give these a case in tests/device_cases.py: {sorted(missed)}"


@pytest.mark.parametrize("by", EXCEPTIONS)
def test_an_exception_is_needed(verdicts, by):
    mine = {name for name in public() if excused(name, by)}
    assert mine and not mine & {*verdicts["met"]}


def excused(name: str, by: str) -> bool:
    return f"{name}.".startswith(f"{by}.")


def public() -> set[str]:
    """The public functions and methods of the library, such as text.LSTMVAE.encode."""
    trees = {module(path): ast.parse(path.read_text(encoding="utf-8")) for path in PACKAGE.rglob("*.py")}
    names = {f"{where}.{name}" for where, tree in trees.items() for node in tree.body for name in defined(node)}
    return {name for name in names if "._" not in name.replace(".__init__", "")}


def defined(node: ast.stmt) -> list[str]:
    inside = node.body if isinstance(node, ast.ClassDef) else []
    own = [node.name] if isinstance(node, ast.FunctionDef) else []
    return own + [f"{node.name}.{name}" for part in inside for name in defined(part)]


def module(path: str | Path) -> str:
    return ".".join(Path(path).relative_to(PACKAGE).with_suffix("").parts)


# what the other process does


def main() -> None:
    register()
    warnings.simplefilter("error")
    met = set()
    for name, function in (CASES | {name: function for name, (_, function) in FAULTS.items()}).items():
        print(json.dumps([name, wrong(function, met)]), flush=True)
    print(json.dumps(["met", sorted(met)]))


def wrong(function: Callable, met: set[str]) -> str:
    """How the device differs from the CPU, in words; nothing where it does not."""
    try:
        expected = tree_leaves(function(Place("cpu")))
        with GPU(), noting(met):
            found = tree_leaves(function(Place(NAME)))
        for mine, theirs in zip(found, expected, strict=True):
            check(mine, theirs)
    except Exception:
        return traceback.format_exc()
    return ""


def check(mine, theirs) -> None:
    """A result of the device lies there and is the CPU's."""
    if isinstance(mine, Tensor):
        assert on_device(mine), f"a result of shape {tuple(mine.shape)} lies on {mine.device}"
        mine, theirs = mine.detach().inner, theirs.detach()
    if isinstance(mine, Tensor | float):
        assert_close(mine, theirs, rtol=1e-9, atol=1e-12)
    else:
        assert mine == theirs, f"{mine} is not {theirs}"


@contextmanager
def noting(met: set[str]) -> Iterator[None]:
    """Note the functions of the library that have a tensor of the device for an argument, a variable or a result."""

    def note(frame, event, result):
        code = frame.f_code
        ours = event == "return" and code.co_filename.startswith(str(PACKAGE))
        if ours and on_device([result, *frame.f_locals.values()]):
            met.add(f"{module(code.co_filename)}.{code.co_qualname.partition('.<locals>')[0]}")

    sys.setprofile(note)
    try:
        yield
    finally:
        sys.setprofile(None)


def on_device(thing: object) -> bool:
    """Whether it is, or holds, a tensor of the device."""
    match thing:
        case Tensor():
            return isinstance(thing, OnGPU)
        case nn.Module():
            return any(map(on_device, thing.parameters()))
        case Mapping():
            return any(map(on_device, thing.values()))
        case list() | tuple() | ValuesView():
            return any(map(on_device, thing))
    return type(thing).__module__.startswith("savae_lite") and on_device(vars(thing))


if __name__ == "__main__":
    main()
