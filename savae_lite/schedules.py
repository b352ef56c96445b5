"""Schedules: functions from a step 0, 1, 2, … to a weight, such as the β of KL annealing.

They hold no state: a schedule asked twice about one step gives one answer, so a resumed run needs nothing from here.
"""

import math
from collections.abc import Callable

Schedule = Callable[[int], float]


def constant(value: float) -> Schedule:
    """The same weight at every step.

    >>> constant(1.0)(7)
    1.0
    """
    _check_finite(value=value)
    return lambda step: value


def linear(start: float, stop: float, steps: int) -> Schedule:
    """A straight ramp from ``start`` at step 0 to ``stop`` at step ``steps``, constant after it (Bowman et al. 2016).

    >>> beta = linear(0.1, 1.0, steps=9)
    >>> [round(beta(step), 2) for step in (0, 1, 9, 100)]
    [0.1, 0.2, 1.0, 1.0]
    """
    _check_finite(start=start, stop=stop)
    _check_at_least("steps", steps, 1)
    return lambda step: stop if _checked(step) >= steps else start + (stop - start) * (step / steps)


def cyclical(period: int, *, ramp: float = 0.5) -> Schedule:
    """Ramps from 0 to 1 that start anew every ``period`` ≥ 2 steps and take the fraction ``ramp`` of it (Fu et al.
    2019).

    ``step`` counts over the whole training: a count that starts again with every epoch or batch never leaves the
    first ramp. With ``ramp`` = 1 the last step of a period stands at 1 − 1/``period``, not at 1.

    >>> beta = cyclical(period=10, ramp=0.5)
    >>> [beta(step) for step in (0, 2, 5, 9, 10, 12)]
    [0.0, 0.4, 1.0, 1.0, 0.0, 0.4]
    """
    _check_at_least("period", period, 2)
    if not 0 < ramp <= 1:
        raise ValueError(f"ramp must lie in (0, 1]; got {ramp}. It is the part of a period spent rising.")
    return lambda step: min((_checked(step) % period) / (ramp * period), 1.0)


def _checked(step: int) -> int:
    if not step >= 0:
        raise ValueError(f"step must be ≥ 0; got {step}. It counts from the start of training.")
    return step


def _check_at_least(name: str, steps: int, least: int) -> None:
    if not least <= steps < math.inf:
        raise ValueError(f"{name} must be at least {least}; got {steps}. For no ramp use constant(value).")


def _check_finite(**weights: float) -> None:
    for name, weight in weights.items():
        if not math.isfinite(weight):
            raise ValueError(f"{name} must be finite; got {weight}. It weighs a term of the loss.")
