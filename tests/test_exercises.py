"""Exercises: stubs fail, every known wrong answer gets its own hint, and the solutions on the page pass."""

import importlib
from pathlib import Path

import pytest
import torch

from savae_lite.exercises import Exercise
from savae_lite.notebook import sources

ROOT = Path(__file__).parent.parent
MODULES = sorted(path.stem for path in (ROOT / "savae_lite" / "exercises").glob("chapter_*.py"))


def exercises(module):
    found = vars(importlib.import_module(f"savae_lite.exercises.{module}"))
    return {name: value for name, value in found.items() if isinstance(value, Exercise)}


EVERY = [(module, name) for module in MODULES for name in exercises(module)]
every_exercise = pytest.mark.parametrize("module, name", EVERY, ids=[f"{m}-{n}" for m, n in EVERY])


def notebook(module):
    (path,) = (ROOT / "chapters").glob(f"{module.removeprefix('chapter_')}_*.ipynb")
    return path


@every_exercise
def test_the_oracle_is_right_and_an_empty_function_is_not(module, name, capsys):
    exercise = exercises(module)[name]
    assert exercise.check(exercise.oracle)
    assert not exercise.check(lambda *args: None)
    assert "returns nothing" in capsys.readouterr().out


@every_exercise
def test_each_known_wrong_answer_gets_its_own_hint(module, name):
    exercise = exercises(module)[name]
    assert exercise.wrong, "an exercise knows at least one wrong answer"
    for wrong in exercise.wrong:
        assert wrong.__doc__ and exercise.verdict(wrong) == f"Not yet: {wrong.__doc__}"


@every_exercise
def test_an_unknown_wrong_answer_is_told_its_size(module, name):
    exercise = exercises(module)[name]

    def shifted(*args):
        answer = exercise.oracle(*args)
        return tuple(part + 0.123 for part in answer) if isinstance(answer, tuple) else answer + 0.123

    assert "off by up to" in exercise.verdict(shifted)


@every_exercise
def test_the_page_asks_it_and_solves_it(module, name):
    """A cell tagged exercise hands a stub to the check, and a cell tagged solution asserts that an answer passes."""
    asked = [source for source in sources(notebook(module), "exercise") if f"exercises.{name}.check(" in source]
    solved = [source for source in sources(notebook(module), "solution") if f"exercises.{name}.check(" in source]
    assert len(asked) == len(solved) == 1
    assert "assert exercises." in solved[0]
    assert "assert" not in asked[0] and "return" not in asked[0], "a stub is left for the reader"


@pytest.mark.parametrize("module", MODULES)
def test_stubs_fail_and_solutions_pass(module, capsys):
    """The cells stand by themselves on the chapter's imports and build cells, so that a reader can do them alone."""
    names = {"exercises": importlib.import_module(f"savae_lite.exercises.{module}")}
    threads = torch.get_num_threads()
    for source in sources(notebook(module), "build"):
        exec(source, names)
    torch.set_num_threads(threads)
    capsys.readouterr()
    for source in sources(notebook(module), "exercise"):
        exec(source, names)
        assert capsys.readouterr().out.startswith("Not yet: the function returns nothing"), source
    for source in sources(notebook(module), "solution"):
        if "exercises." in source:
            exec(source, names)
            assert "Right" in capsys.readouterr().out


def halved(x):
    """you halved it."""
    return x / 2


def doubled():
    return Exercise(lambda x: 2 * x, lambda: [(torch.ones(2),), (torch.zeros(3),)], [halved])


def test_an_error_in_the_answer_is_reported_and_not_raised(capsys):
    def broken(x):
        raise KeyError("lam")

    assert not doubled().check(broken)
    assert capsys.readouterr().out == "Not yet: case 1 raised KeyError: 'lam'\n"


@pytest.mark.parametrize(
    "answer, said",
    [
        (lambda x: x.sum(), "shape (2,); got ()"),
        (lambda x: "two", "got str"),
        (lambda x: (x, x), "got (2,) and (2,)"),
        (lambda x: 2 * x + float("nan"), "off by up to nan"),
        (lambda x: x / 2, "you halved it."),
        (lambda x: 2 * x if len(x) == 3 else 3 * x, "off by up to 1, in case 1"),
    ],
)
def test_what_is_said_of_wrong_answers(answer, said):
    assert said in doubled().verdict(answer)


def test_right_values_without_a_gradient_are_not_right():
    """Only where a case asks for a gradient."""
    double = Exercise(lambda x: 2 * x, lambda: [(torch.ones(2, requires_grad=True),)])
    assert double.verdict(lambda x: x + x).startswith("Right")
    assert "gradient is not" in double.verdict(lambda x: (2 * x).detach())
    assert "gradient is not" in double.verdict(lambda x: x + x.detach())


def test_single_precision_is_no_mistake():
    assert doubled().verdict(lambda x: (2 * x).double()).startswith("Right")
