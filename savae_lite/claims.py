"""Claims: what a chapter says, the value that it rests on, and the range in which that value must lie.

A reader sees them as a folded list below the section that makes them. One that does not hold here is marked there and
stops nothing, unless the environment variable ``SAVAE_LITE_CLAIMS`` is ``raise``, as it is in the tests. Whoever builds
the book reads them from the cell's output, as JSON. Nothing here knows what a claim is about.
"""

import html
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

MIME = "application/vnd.savae-lite.claims+json"
STYLE = """
.claims li { margin: 0.25em 0; }
.claims .fails { color: var(--pst-color-danger, #b3261e); font-weight: bold; }
"""


class ClaimError(AssertionError):
    """A claim does not hold here."""


@dataclass(frozen=True)
class Claim:
    """One sentence with its value here, as text and from ``least`` to ``most``, and what was expected of it."""

    sentence: str
    here: str
    expected: str
    run: str  # "live", "live, this draw" or "recorded"
    holds: bool
    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None

    def __str__(self) -> str:
        return f"«{self.sentence}» expected {self.expected}, got {self.here} ({self.run})"


def claim(
    sentence: str,
    value: Any,
    *,
    above: float | None = None,
    below: float | None = None,
    equal: Any = None,
    recorded: bool = False,
    this_draw: bool = False,
) -> Claim:
    """A claim: every number in ``value`` lies strictly between ``above`` and ``below``, or ``value == equal``.

    value: a number, or tensors, arrays, tables and lists of them; nan lies in no range. recorded: the value comes from
    a recorded run; else it was computed here. this_draw: the sentence speaks of the example that was drawn, and another
    seed draws another. Raises ValueError for an empty sentence or value, and without a range.
    """
    ranged = above is not None or below is not None
    if ranged == (equal is not None) or (above is not None and below is not None and not above < below):
        raise ValueError(
            f"a claim must have above < below, one of them, or equal; got above={above}, below={below}, equal={equal}. "
            "Say what the value must be for the sentence to be true."
        )
    if not sentence.strip():
        raise ValueError("a claim must be a sentence; got an empty text. Write what the reader may believe.")
    run = "recorded" if recorded else "live, this draw" if this_draw else "live"
    if not ranged:
        return Claim(sentence, _said(value), _said(equal), run, holds=bool(np.all(_plain(value) == _plain(equal))))
    numbers = _numbers(value)
    least, most = numbers.min().item(), numbers.max().item()  # nan where there is one
    holds = (above is None or least > above) and (below is None or most < below)
    return Claim(sentence, _between(least, most), _range(above, below), run, holds, least, most, above, below)


def claims(*stated: Claim) -> "Claims":
    """The claims of a section as a folded list, for the last line of its cell.

    Raises ClaimError, naming all that do not hold, where ``SAVAE_LITE_CLAIMS`` is ``raise``.
    """
    if not stated or not all(isinstance(one, Claim) for one in stated):
        raise ValueError(f"claims takes one or more of claim(…); got {stated!r}.")
    failed = [str(one) for one in stated if not one.holds]
    if failed and os.environ.get("SAVAE_LITE_CLAIMS") == "raise":
        raise ClaimError("\n".join(failed))
    return Claims(stated)


@dataclass(frozen=True)
class Claims:
    """What `claims` shows."""

    stated: Sequence[Claim]

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict[str, Any]:
        failed = sum(not one.holds for one in self.stated)
        title = _title(len(self.stated), failed)
        items = "".join(map(_item, self.stated))
        page = f'<style>{STYLE}</style><details class="claims"{" open" * bool(failed)}>'
        return {
            "text/html": f"{page}<summary>{title}</summary><ul>{items}</ul></details>",
            "text/plain": "\n".join([title, *map(_line, self.stated)]),
            MIME: [_json(one) for one in self.stated],
        }


def _title(stated: int, failed: int) -> str:
    if failed:
        return f"Does not hold on this machine: {failed} of {stated} claims"
    return f"{stated} claim{'s' * (stated > 1)} checked"


def _json(one: Claim) -> dict[str, Any]:
    """JSON knows no nan and no infinity."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in asdict(one).items()
    }


def _line(one: Claim) -> str:
    return f"{'' if one.holds else 'DOES NOT HOLD: '}{one.sentence}: {one.here} · expected {one.expected} · {one.run}"


def _item(one: Claim) -> str:
    mark = "" if one.holds else '<span class="fails">does not hold here:</span> '
    here, expected = html.escape(one.here), html.escape(one.expected)
    return f"<li>{mark}{html.escape(one.sentence)}<br><small>here {here} · expected {expected} · {one.run}</small></li>"


def _numbers(value: Any) -> np.ndarray:
    numbers = np.asarray(_plain(value), dtype=float).ravel()
    if not numbers.size:
        raise ValueError("a claim must rest on at least one number; got none. Look at how they were chosen.")
    return numbers


def _plain(value: Any) -> Any:
    """Tensors as arrays, also inside lists; whatever else as it is."""
    if isinstance(value, torch.Tensor):
        return value.detach().cpu().numpy()
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value


def _range(above: float | None, below: float | None) -> str:
    if above is None:
        return f"below {below:g}"
    return f"above {above:g}" if below is None else f"between {above:g} and {below:g}"


def _between(least: float, most: float) -> str:
    low, high = f"{least:.4g}", f"{most:.4g}"
    return low if low == high else f"{low} to {high}"


def _said(value: Any) -> str:
    return ", ".join(map(_said, value)) if isinstance(value, list | tuple) else str(_plain(value))
