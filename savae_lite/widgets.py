"""Sliders: one figure that a reader moves through, alive in a notebook and, without a kernel, on the page.

On the page every picture is drawn beforehand and the sliders choose among them; in a live notebook a move draws its
picture. Nothing here computes a result: what is shown is the chapter's own function.
"""

import base64
import hashlib
import html
import itertools
import json
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from importlib.resources import files
from numbers import Integral, Real

from savae_lite.extras import extra

with extra("widgets"):
    import ipywidgets
    from IPython.display import HTML, display

    from savae_lite.plots import DPI, Figure, Picture, closing_figures

Choice = int | float | str
Draw = Callable[..., tuple[Figure, str]]

MOST_PICTURES = 30
MOST_BYTES = 1_000_000

# In the figure itself, for a notebook has no style sheet of ours; colours are the book theme's where there is one.
STYLE = """
.sliders { container-type: inline-size; margin: 1em auto; padding: 0; color: var(--pst-color-text-base, inherit); }
.sliders img { display: block; width: 100%; height: auto; }
.sliders-controls { display: grid; grid-template-columns: fit-content(45%) minmax(0, 1fr) auto; }
.sliders-controls { grid-auto-flow: dense; align-items: center; column-gap: 0.75em; }
.sliders-controls[hidden] { display: none; }
.sliders-controls label { display: contents; }
.sliders-controls input { width: 100%; height: 44px; margin: 0; color: inherit; }
.sliders-controls input { accent-color: var(--pst-color-primary, auto); }
.sliders-controls input:focus-visible { outline: 2px solid; border-radius: 8px; }
.sliders-controls output { font-variant-numeric: tabular-nums; }
.sliders-text { display: grid; }
.sliders-text > p { grid-area: 1 / 1; margin: 0.25em 0; }
.sliders-text > [aria-hidden] { visibility: hidden; }
@container (max-width: 30em) {
  .sliders-controls { grid-template-columns: 1fr auto; }
  .sliders-controls span { grid-column: 1; }
  .sliders-controls input { grid-column: 1 / -1; }
  .sliders-controls output { grid-column: 2; text-align: end; }
}
@media print { .sliders-controls, .sliders-text > [aria-hidden] { display: none !important; } }
"""


class Sliders:
    """A figure with one slider an axis: ``draw(**choice)`` gives the matplotlib figure and its key number in words.

    draw: takes one choice an axis by name and returns (Figure, str), as in "After 5 steps the gap is 0.31 nats.".
    The whole canvas is shown, so give its figures one size and fixed limits; ``layout="constrained"`` fits labels in.
    axes: one to three names, each with its choices in order, at most 30 pictures in all; labels: what the reader
    sees for a name. Nothing is drawn before it is shown. Raises ValueError for axes or texts that make no figure,
    and when drawn for pictures of several sizes or more than 1 MB; an error of draw is noted with its choice.
    """

    def __init__(
        self, draw: Draw, *, caption: str, labels: Mapping[str, str] | None = None, **axes: Sequence[Choice]
    ) -> None:
        self.draw, self.caption, self.axes = draw, caption, {name: list(axes[name]) for name in axes}
        self.labels = {name: name for name in axes} | dict(labels or {})
        if not caption.strip():
            raise ValueError("caption must say what the figure shows; got an empty text. Write one sentence.")
        if unknown := self.labels.keys() - axes.keys():
            raise ValueError(f"labels must be of axes, {list(axes)}; got {sorted(unknown)}. Correct or remove them.")
        _check_axes(self.axes)

    def picture(self, **choice: Choice) -> Picture:
        """The picture of one choice; its alt text is the chosen values and the key number."""
        chosen = ", ".join(f"{self.labels[name]} = {_shown(choice[name])}" for name in self.axes)
        with closing_figures():
            try:
                figure, number = _checked(self.draw(**choice))
                return Picture(figure, caption=self.caption, alt=f"{chosen}. {number}", crop=False)
            except Exception as error:
                error.add_note(f"The choice was {chosen}.")
                raise

    @cached_property
    def pictures(self) -> list[Picture]:
        """All pictures, drawn once; the last axis runs fastest."""
        grid = itertools.product(*self.axes.values())
        pictures = [self.picture(**dict(zip(self.axes, choices, strict=True))) for choices in grid]
        if len(sizes := {picture.size for picture in pictures}) > 1:
            raise ValueError(
                f"all pictures of a figure must have one size; got {sorted(sizes)} pixels. Give draw one figsize."
            )
        return pictures

    @cached_property
    def page(self) -> str:
        """The figure as HTML that needs nothing else: style, first picture, controls, and one script with the data."""
        data = {
            "labels": list(self.labels.values()),
            "choices": [[_shown(choice) for choice in choices] for choices in self.axes.values()],
            "pictures": [_base64(picture) for picture in self.pictures],
            "lines": [picture.alt for picture in self.pictures],
        }
        data["id"] = hashlib.sha256(json.dumps([self.caption, data]).encode()).hexdigest()[:12]
        page = f"<style>{STYLE}</style>\n{self._figure(data['id'])}\n<script>{_script(data)}</script>"
        if len(page.encode()) > MOST_BYTES:
            raise ValueError(
                f"a figure must take at most {MOST_BYTES / 1e6:g} MB; got {len(page.encode()) / 1e6:.2f} MB in "
                f"{len(self.pictures)} pictures. Draw smaller or simpler ones, or offer fewer choices."
            )
        return page

    def drawn(self) -> "Sliders":
        """Itself with all pictures drawn: an error now stops the cell, when displayed it would be printed only."""
        _ = self.page
        return self

    def live(self) -> ipywidgets.interactive:
        """The same figure for a notebook with a kernel: each move draws the chosen picture."""

        def show(**choice: Choice) -> Picture:
            picture = self.picture(**choice)
            display(picture, HTML(f"<p>{html.escape(picture.alt)}</p>"))
            return picture

        return ipywidgets.interactive(show, **{name: self._live_slider(name) for name in self.axes})

    def _live_slider(self, name: str) -> ipywidgets.SelectionSlider:
        return ipywidgets.SelectionSlider(
            options=[(_shown(choice), choice) for choice in self.axes[name]],
            description=self.labels[name],
            continuous_update=False,
            style={"description_width": "initial"},
            layout={"width": "auto", "max_width": "40em"},
        )

    def _figure(self, identity: str) -> str:
        first = self.pictures[0]
        # A hundred of the page's pixels to the inch: text as large as the page's own, and sharp on dense screens.
        width, height = (round(pixels * 100 / DPI) for pixels in first.size)
        return f"""<figure class="sliders" data-sliders="{identity}" style="max-width: {width}px">
<img src="data:image/png;base64,{_base64(first)}" alt="{html.escape(first.alt)}" width="{width}" height="{height}">
<div class="sliders-controls" hidden>
{"".join(map(self._control, self.axes))}</div>
<div class="sliders-text"><p class="sliders-line" aria-live="polite">{html.escape(first.alt)}</p></div>
<figcaption>{html.escape(self.caption)}</figcaption>
</figure>"""

    def _control(self, name: str) -> str:
        label, shown = html.escape(self.labels[name]), [_shown(choice) for choice in self.axes[name]]
        first, room = html.escape(shown[0]), max(map(len, shown))
        # Without autocomplete="off" a browser brings old positions back, but not their picture.
        return f"""<label><span>{label}</span>
<input type="range" min="0" max="{len(shown) - 1}" value="0" autocomplete="off" aria-valuetext="{label} = {first}">
</label><output aria-live="off" style="min-width: {room}ch">{first}</output>
"""

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict[str, str]:
        first = self.pictures[0]
        return {
            "text/html": self.page,
            "image/png": _base64(first),
            "text/plain": f"{self.caption} [{first.alt}]",
        }


def explore(
    draw: Draw, *, caption: str, labels: Mapping[str, str] | None = None, **axes: Sequence[Choice]
) -> Sliders | ipywidgets.interactive:
    """Show `Sliders`, as the last line of a cell: alive in a notebook that a reader has open, else all drawn at once.

    Alive means Colab, or a kernel that a Jupyter server started for a notebook. Elsewhere, as in the book's build,
    the figure comes with all its pictures, which works in notebooks too.
    """
    sliders = Sliders(draw, caption=caption, labels=labels, **axes)
    if "google.colab" in sys.modules or "JPY_SESSION_NAME" in os.environ:
        return sliders.live()
    return sliders.drawn()


def _check_axes(axes: Mapping[str, Sequence[Choice]]) -> None:
    if not 1 <= len(axes) <= 3:
        raise ValueError(f"a figure must have 1 to 3 axes; got {len(axes)}: {list(axes)}. Fix the others in draw.")
    for name, choices in axes.items():
        shown = [_shown(choice) for choice in choices]
        if len(shown) < 2:
            raise ValueError(
                f"axis {name} must have at least 2 choices; got {choices}. A slider needs somewhere to go."
            )
        if repeated := sorted({text for text in shown if shown.count(text) > 1}):
            raise ValueError(
                f"the choices of axis {name} must differ in what the reader sees; got {', '.join(repeated)} more than "
                "once. Remove it, or round less by giving texts."
            )
    if (pictures := math.prod(map(len, axes.values()))) > MOST_PICTURES:
        sizes = " × ".join(f"{name} ({len(choices)})" for name, choices in axes.items())
        raise ValueError(
            f"a figure must have at most {MOST_PICTURES} pictures; got {pictures} from {sizes}. Offer fewer choices."
        )


def _checked(answer: object) -> tuple[Figure, str]:
    """What draw returned, if it is what it must return."""
    match answer:
        case (Figure() as figure, str(number)) if number.strip():
            return figure, number
        case (Figure(), str()):
            raise ValueError("draw must say its key number in words; got an empty text. Write one sentence.")
        case (*parts,):
            got = f"({', '.join(type(part).__name__ for part in parts)})"
        case _:
            got = type(answer).__name__
    raise ValueError(f"draw must return (Figure, str); got {got}. Return the figure and its key number in words.")


def _shown(choice: Choice) -> str:
    """A choice as the reader sees it: numbers without a tail of digits."""
    return f"{choice:g}" if isinstance(choice, Real) and not isinstance(choice, Integral) else str(choice)


def _base64(picture: Picture) -> str:
    return base64.b64encode(picture.png).decode()


def _script(data: Mapping) -> str:
    """sliders.js, closed in on itself, with its data; no text among them can end the script."""
    code = files("savae_lite").joinpath("sliders.js").read_text(encoding="utf-8")
    safe = json.dumps(data).replace("<", "\\u003c")
    return f"(() => {{\n{code}startSliders({safe});\n}})();"
