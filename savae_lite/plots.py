"""Figures: functions that draw on axes, and a picture that carries its caption and alt text to the page.

``plot(…, ax=None) -> ax`` throughout; nothing here shows a figure, sets a style or computes a result.
"""

import base64
import html
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from savae_lite.extras import extra

with extra("plots"):
    import matplotlib.pyplot as plt
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from PIL import Image

DPI = 150

# Colours of Okabe and Ito, told apart by colour-blind readers too; a marker each for print.
STYLES = {
    "LM": ("#7f7f7f", "s"),
    "VAE": ("#0072b2", "o"),
    "SVI": ("#e69f00", "^"),
    "VAE+SVI": ("#009e73", "D"),
    "VAE+SVI+KL": ("#cc79a7", "v"),
    "SA-VAE": ("#d55e00", "*"),
}


class Picture:
    """A drawn figure as it stands on the page: image, caption and alt text, in HTML and, for print, as PNG.

    ``size`` is that of the image in pixels, `DPI` to the inch of the figure; ``crop`` cuts its empty margins off.
    Closes the figure, so that a notebook does not draw it a second time. Raises ValueError without an alt text.
    """

    def __init__(self, figure: Figure, *, caption: str, alt: str, crop: bool = True) -> None:
        if not alt.strip():
            raise ValueError("alt must say in words what the figure shows; got an empty text. Name its key number.")
        image = _image(figure, crop)
        buffer = io.BytesIO()
        image.save(buffer, format="PNG", optimize=True, dpi=(DPI, DPI))
        self.png, self.size, self.caption, self.alt = buffer.getvalue(), image.size, caption, alt

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict[str, str]:
        data = base64.b64encode(self.png).decode()
        image = f'<img src="data:image/png;base64,{data}" alt="{html.escape(self.alt)}">'
        page = f"<figure>{image}<figcaption>{html.escape(self.caption)}</figcaption></figure>"
        return {"text/html": page, "image/png": data, "text/plain": f"{self.caption} [{self.alt}]"}


@contextmanager
def closing_figures() -> Iterator[None]:
    """Close at the end all figures that were opened inside, also when an error ends it."""
    before = plt.get_fignums()
    try:
        yield
    finally:
        for number in set(plt.get_fignums()).difference(before):
            plt.close(number)


def _image(figure: Figure, crop: bool) -> Image.Image:
    """The figure in 128 colours, a third of the bytes: those furthest apart, so that no line loses its colour."""
    buffer = io.BytesIO()
    try:
        figure.savefig(buffer, format="png", dpi=DPI, bbox_inches="tight" if crop else None)
    finally:
        plt.close(figure)
    image = Image.open(buffer).convert("RGB")
    # Moving each colour to the mean of its pixels keeps large areas as they were drawn.
    return image.quantize(128, method=Image.Quantize.MAXCOVERAGE, kmeans=3, dither=Image.Dither.NONE)


def plot_curves(curves: Mapping[str, Sequence[float]], *, first: int = 1, ax: Axes | None = None) -> Axes:
    """One line a method over epochs or steps ``first``, first + 1, …; the keys of ``curves`` are those of `STYLES`."""
    ax = ax or plt.subplots()[1]
    for name, values in curves.items():
        colour, marker = STYLES[name]
        ax.plot(range(first, first + len(values)), values, color=colour, marker=marker, markersize=5, label=name)
    ax.set_xlabel("epoch")
    ax.legend(frameon=False)
    return ax


def plot_bound_against_kl(
    rows: Sequence[Mapping], *, styles: Mapping[str, tuple[str, str]] = STYLES, ax: Axes | None = None
) -> Axes:
    """One mark a trained model: how much it says through z against how well it bounds −log p(x).

    rows: mappings with ``method`` (a key of ``styles``, which gives its colour and marker; others are left out),
    ``kl`` and ``bound`` in nats a sentence. Lower is better, further right says more.
    """
    ax = ax or plt.subplots()[1]
    for name, (colour, marker) in styles.items():
        mine = [row for row in rows if row["method"] == name]
        if mine:
            x, y = [row["kl"] for row in mine], [row["bound"] for row in mine]
            ax.scatter(x, y, color=colour, marker=marker, s=70, alpha=0.6, label=name)
    ax.set_xlabel("KL from posterior to prior (nats a sentence)")
    ax.set_ylabel("bound on −log p(x) (nats a sentence)")
    ax.legend(frameon=False)
    return ax
