"""Figures draw what they are given, describe themselves, and never show or leave a figure open."""

import base64

import matplotlib
import matplotlib.pyplot as plt
import pytest

from savae_lite.plots import STYLES, Picture, plot_bound_against_kl, plot_curves

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
