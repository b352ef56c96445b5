"""Exercises that check themselves: an oracle, cases to try it on, and a hint for every wrong answer that is known.

A known wrong answer is a function whose docstring is the hint, so that tests can hand it in and see what is said. The
exercises of a chapter lie in a module of their own, out of the reader's sight. Nothing here raises on a wrong answer: a
notebook with open exercises runs to its end.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.testing import assert_close


@dataclass(frozen=True)
class Exercise:
    """What a function should return on some cases, and what its known wrong versions have got wrong.

    oracle: the right function; cases() ↦ tuples of arguments for it; wrong: functions whose docstrings are hints.
    """

    oracle: Callable
    cases: Callable[[], Sequence[tuple]]
    wrong: Sequence[Callable] = ()
    tolerance: float = 1e-5

    def check(self, mine: Callable) -> bool:
        """Print the verdict, and return whether ``mine`` agrees with the oracle on every case."""
        verdict = self.verdict(mine)
        print(verdict)
        return verdict.startswith("Right")

    def verdict(self, mine: Callable) -> str:
        """One line: «Right: …», or «Not yet: …» with a hint where the answer is a known wrong one."""
        cases = list(self.cases())
        answers = []
        for number, case in enumerate(cases, start=1):
            try:
                answers.append(mine(*case))
            except Exception as error:  # whatever a reader's code raises, the notebook goes on
                return f"Not yet: case {number} raised {type(error).__name__}: {error}"
        if any(answer is None for answer in answers):
            return "Not yet: the function returns nothing. Write its body, and end it with return."
        wanted = [self.oracle(*case) for case in cases]
        if self._agree(answers, wanted):
            if not self._agree(*(_gradients(values, cases) for values in (answers, wanted))):
                return "Not yet: the values are right, their gradient is not. Do not detach, and do not leave torch."
            return f"Right: it agrees with the oracle on {len(cases)} case{'s' * (len(cases) > 1)}."
        for wrong in self.wrong:
            if self._agree(answers, [wrong(*case) for case in cases]):
                return f"Not yet: {wrong.__doc__}"
        return f"Not yet: {_difference(answers, wanted)}"

    def _agree(self, answers: Sequence, wanted: Sequence) -> bool:
        return all(
            _shapes(a) == _shapes(w) and all(map(self._close, _tensors(a), _tensors(w)))
            for a, w in zip(answers, wanted, strict=True)
        )

    def _close(self, a: torch.Tensor, b: torch.Tensor) -> bool:
        try:
            assert_close(a, b, rtol=self.tolerance, atol=self.tolerance, check_dtype=False, equal_nan=True)
        except AssertionError:
            return False
        return True


def _tensors(answer: Any) -> list[torch.Tensor]:
    parts = answer if isinstance(answer, tuple | list) else (answer,)
    return [torch.as_tensor(part) for part in parts]


def _gradients(values: Sequence, cases: Sequence[tuple]) -> list[list[torch.Tensor]]:
    """For every case the gradient of its answer in each argument that asks for one."""
    return [
        [_gradient(answer, argument) for argument in case if getattr(argument, "requires_grad", False)]
        for answer, case in zip(values, cases, strict=True)
    ]


def _gradient(answer: Any, argument: torch.Tensor) -> torch.Tensor:
    total = sum(part.sum() for part in _tensors(answer))
    if not total.requires_grad:
        return torch.zeros_like(argument)
    return torch.autograd.grad(total, argument, retain_graph=True, materialize_grads=True)[0]


def _shapes(answer: Any) -> list[tuple[int, ...]] | str:
    try:
        return [tuple(part.shape) for part in _tensors(answer)]
    except (TypeError, ValueError, RuntimeError):
        return type(answer).__name__


def _difference(answers: Sequence, wanted: Sequence) -> str:
    """How the first answer that is wrong differs: in shape, or by how much."""
    for number, (a, w) in enumerate(zip(answers, wanted, strict=True), start=1):
        if _shapes(a) != _shapes(w):
            return f"case {number} should return shape {_said(_shapes(w))}; got {_said(_shapes(a))}."
    apart = [max((x - y).detach().abs().max().item() for x, y in zip(_tensors(a), _tensors(w), strict=True))
             for a, w in zip(answers, wanted, strict=True)]  # fmt: skip
    worst = apart.index(max(apart, key=lambda value: (value != value, value)))
    return f"the shape is right, the values are not: off by up to {apart[worst]:.3g}, in case {worst + 1}."


def _said(shapes: list[tuple[int, ...]] | str) -> str:
    return shapes if isinstance(shapes, str) else " and ".join(map(str, shapes))
