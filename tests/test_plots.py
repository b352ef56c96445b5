"""Figures draw what they are given, describe themselves, and never show or leave a figure open."""

import base64
import io

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from savae_lite.plots import DPI, STYLES, Picture, closing_figures, plot_bound_against_kl, plot_curves

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def no_figure_is_left_open():
    yield
    plt.close("all")


def test_curves_count_from_where_they_are_told():
    ax = plot_curves({"LM": [3.0, 2.0]}, first=0)
    assert ax.get_lines()[0].get_xdata().tolist() == [0, 1]


def test_curves_hold_the_values_over_epochs_from_one():
    ax = plot_curves({"VAE": [3.0, 2.0, 1.5], "SA-VAE": [2.5, 2.0, 1.0]})
    assert [line.get_label() for line in ax.get_lines()] == ["VAE", "SA-VAE"]
    assert ax.get_lines()[1].get_xydata().tolist() == [[1, 2.5], [2, 2.0], [3, 1.0]]


def test_scatter_holds_one_mark_a_row():
    rows = [{"method": "VAE", "kl": 0.1, "bound": 31.0}, {"method": "VAE", "kl": 0.2, "bound": 30.0}]
    ax = plot_bound_against_kl([*rows, {"method": "LM", "kl": 0.0, "bound": 32.0}])
    assert sorted(len(marks.get_offsets()) for marks in ax.collections) == [1, 2]


def test_scatter_knows_other_methods_by_their_styles():
    rows = [{"method": "VAE", "kl": 0.1, "bound": 31.0}, {"method": "mine", "kl": 0.2, "bound": 30.0}]
    assert len(plot_bound_against_kl(rows).collections) == 1
    (marks,) = plot_bound_against_kl(rows, styles={"mine": ("#000000", "P")}).collections
    assert marks.get_label() == "mine" and marks.get_offsets().tolist() == [[0.2, 30.0]]


def test_draws_on_the_axes_that_it_gets():
    _, ax = plt.subplots()
    assert plot_curves({"LM": [1.0]}, ax=ax) is ax
    assert plot_bound_against_kl([], ax=ax) is ax


def test_methods_are_told_apart_by_colour_and_by_marker():
    assert (
        len({colour for colour, _ in STYLES.values()}) == len({marker for _, marker in STYLES.values()}) == len(STYLES)
    )


def test_picture_carries_caption_alt_text_and_a_png_and_closes_its_figure():
    figure, _ = plt.subplots()
    picture = Picture(figure, caption="Figure 1. a < b", alt='a "quoted" word')
    bundle = picture._repr_mimebundle_()
    assert not plt.fignum_exists(figure.number)
    assert "a &lt; b</figcaption>" in bundle["text/html"]
    assert 'alt="a &quot;quoted&quot; word"' in bundle["text/html"]
    assert base64.b64decode(bundle["image/png"]).startswith(b"\x89PNG")


def test_picture_is_identical_from_run_to_run():
    def make():
        figure, ax = plt.subplots()
        plot_curves({"LM": [2.0, 1.0]}, ax=ax)
        return Picture(figure, caption="c", alt="a").png

    assert make() == make()


def test_picture_needs_an_alt_text():
    figure, _ = plt.subplots()
    with pytest.raises(ValueError, match="alt must say in words"):
        Picture(figure, caption="c", alt=" ")


def test_picture_holds_the_whole_canvas_unless_cropped():
    sizes = {}
    for crop in (False, True):
        figure = plt.figure(figsize=(4, 3))
        figure.text(0.5, 0.5, "small")
        sizes[crop] = Picture(figure, caption="c", alt="a", crop=crop).size
    assert sizes[False] == (4 * DPI, 3 * DPI)
    assert sizes[True][0] < 2 * DPI and sizes[True][1] < DPI


@pytest.fixture
def painting():
    """A filled contour with lines and text of many colours, 6.4 × 4 inches."""
    figure, ax = plt.subplots(figsize=(6.4, 4), layout="constrained")
    x, y = np.meshgrid(np.linspace(-3, 3, 60), np.linspace(-3, 3, 60))
    ax.contourf(x, y, np.exp(-(x**2) - y**2 / 2 + x * y / 2), levels=20)
    for colour, marker in STYLES.values():
        ax.plot([-2, -1, 0], np.random.default_rng(ord(marker)).normal(size=3), color=colour, marker=marker)
    ax.set_xlabel("mean λ₁")
    return figure


def test_picture_is_small_and_looks_as_drawn(painting):
    drawn = io.BytesIO()
    painting.savefig(drawn, format="png", dpi=DPI)
    picture = Picture(painting, caption="c", alt="a", crop=False)
    shown = Image.open(io.BytesIO(picture.png))
    difference = np.abs(np.asarray(shown.convert("RGB"), int) - np.asarray(Image.open(drawn).convert("RGB"), int))
    assert difference.max() <= 32  # an edge's blend, of 255
    assert (difference.max(-1) > 8).mean() < 0.01
    assert 5_000 < len(picture.png) < 25_000
    assert len(picture.png) < 0.5 * len(drawn.getvalue())
    assert "Software" not in shown.info


def test_picture_closes_a_figure_that_cannot_be_drawn():
    figure, ax = plt.subplots()
    ax.set_xlabel("$\\nothing$")
    with pytest.raises(ValueError, match="nothing"):
        Picture(figure, caption="c", alt="a")
    assert not plt.fignum_exists(figure.number)


def test_figures_opened_inside_are_closed_and_no_other():
    kept = plt.figure()
    with pytest.raises(ZeroDivisionError), closing_figures():
        plt.figure()
        plt.figure(1 / 0)
    assert plt.get_fignums() == [kept.number]
