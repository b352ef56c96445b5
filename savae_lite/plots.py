"""Figures: functions that draw on axes, and a picture that carries its caption and alt text to the page.

``plot(…, ax=None) -> ax`` throughout; nothing here shows a figure, sets a style or computes a result.
"""

import base64
import html
import io
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

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

    Closes the figure, so that a notebook does not draw it a second time. Raises ValueError without an alt text.
    """

    def __init__(self, figure: Figure, *, caption: str, alt: str) -> None:
        if not alt.strip():
            raise ValueError("alt must say in words what the figure shows; got an empty text. Name its key number.")
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=150, bbox_inches="tight", metadata={"Software": None})
        plt.close(figure)
        self.png, self.caption, self.alt = buffer.getvalue(), caption, alt

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict[str, str]:
        data = base64.b64encode(self.png).decode()
        image = f'<img src="data:image/png;base64,{data}" alt="{html.escape(self.alt)}">'
        page = f"<figure>{image}<figcaption>{html.escape(self.caption)}</figcaption></figure>"
        return {"text/html": page, "image/png": data, "text/plain": f"{self.caption} [{self.alt}]"}


def plot_curves(curves: Mapping[str, Sequence[float]], *, first: int = 1, ax: Axes | None = None) -> Axes:
    """One line a method over epochs or steps ``first``, first + 1, …; the keys of ``curves`` are those of `STYLES`."""
    ax = ax or plt.subplots()[1]
    for name, values in curves.items():
        colour, marker = STYLES[name]
        ax.plot(range(first, first + len(values)), values, color=colour, marker=marker, markersize=5, label=name)
    ax.set_xlabel("epoch")
    ax.legend(frameon=False)
    return ax


def plot_bound_against_kl(rows: Sequence[Mapping], *, ax: Axes | None = None) -> Axes:
    """One mark a trained model: how much it says through z against how well it bounds −log p(x).

    rows: mappings with ``method`` (a key of `STYLES`), ``kl`` and ``bound`` in nats a sentence. Lower is better,
    further right says more.
    """
    ax = ax or plt.subplots()[1]
    for name, (colour, marker) in STYLES.items():
        mine = [row for row in rows if row["method"] == name]
        if mine:
            x, y = [row["kl"] for row in mine], [row["bound"] for row in mine]
            ax.scatter(x, y, color=colour, marker=marker, s=70, alpha=0.6, label=name)
    ax.set_xlabel("KL from posterior to prior (nats a sentence)")
    ax.set_ylabel("bound on −log p(x) (nats a sentence)")
    ax.legend(frameon=False)
    return ax
