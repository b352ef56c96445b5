"""Sliders carry every picture with its words, say what they cannot show, and draw on demand in a live notebook."""

import base64
import itertools
import json
import re
import sys
from html import unescape
from html.parser import HTMLParser
from types import ModuleType

import ipywidgets
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure

import savae_lite.widgets
from savae_lite.widgets import Sliders, explore

matplotlib.use("Agg")

AXES = {"k": [0, 2, 10], "rate": [0.01, 0.1]}
HOSTILE = """</script><script>alert("1")</script> <!-- 'a' & b"""


@pytest.fixture(autouse=True)
def no_figure_is_left_open():
    yield
    left = plt.get_fignums()
    plt.close("all")
    assert not left


@pytest.fixture
def draw():
    """A small figure of a choice, which remembers the choices that it was asked for."""

    def draw(**choice):
        draw.calls.append(choice)
        figure = plt.figure(figsize=(2, 1))
        figure.text(0.1, 0.5, " ".join(map(str, choice.values())))
        return figure, f"The gap is {sum(map(len, map(str, choice.values()))) / 7:.2f} nats."

    draw.calls = []
    return draw


@pytest.fixture
def static(monkeypatch):
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    monkeypatch.delitem(sys.modules, "google.colab", raising=False)


def page(sliders):
    return sliders._repr_mimebundle_()["text/html"]


def data(sliders):
    """What the script of a figure is started with."""
    return json.loads(re.search(r"^}\nstartSliders\((.*)\);$", page(sliders), re.MULTILINE)[1])


def elements(html):
    """Each element and the names of its attributes, in order."""
    found, parser = [], HTMLParser()
    parser.handle_starttag = lambda tag, attributes: found.append((tag, [name for name, _ in attributes]))
    parser.feed(html)
    return found


def test_every_picture_goes_with_its_values_and_its_number(draw):
    sliders = Sliders(draw, caption="c", labels={"k": "inner steps k"}, **AXES)
    held, grid = data(sliders), list(itertools.product(*AXES.values()))
    assert held["choices"] == [["0", "2", "10"], ["0.01", "0.1"]]
    assert held["labels"] == ["inner steps k", "rate"]
    assert len(set(held["pictures"])) == len(grid)
    for (k, rate), picture, line in zip(grid, held["pictures"], held["lines"], strict=True):
        figure, number = draw(k=k, rate=rate)
        plt.close(figure)
        assert line == f"inner steps k = {k}, rate = {rate}. {number}"
        assert base64.b64decode(picture) == sliders.picture(k=k, rate=rate).png


def test_first_picture_is_there_without_scripts_and_in_print(draw):
    sliders = Sliders(draw, caption="The caption.", **AXES)
    bundle, held = sliders._repr_mimebundle_(), data(sliders)
    image = re.search(r'<img src="data:image/png;base64,([^"]*)" alt="([^"]*)"', bundle["text/html"])
    assert image[1] == bundle["image/png"] == held["pictures"][0]
    assert image[2] == held["lines"][0]
    assert f">{held['lines'][0]}</p>" in bundle["text/html"]
    assert bundle["text/plain"] == f"The caption. [{held['lines'][0]}]"


def test_each_axis_has_a_labelled_slider_over_its_choices(draw):
    html = page(Sliders(draw, caption="c", labels={"rate": "learning rate"}, **AXES))
    sliders = re.findall(r"<label><span>(.*?)</span>\s*<input (.*?)>\s*</label><output.*?>(.*?)</output>", html)
    assert [(label, first) for label, _, first in sliders] == [("k", "0"), ("learning rate", "0.01")]
    assert ['min="0" max="2"' in sliders[0][1], 'min="0" max="1"' in sliders[1][1]] == [True, True]
    assert 'aria-valuetext="learning rate = 0.01"' in sliders[1][1]


def test_pages_are_identical_from_build_to_build(draw):
    first, second = (page(Sliders(draw, caption="c", **AXES)) for _ in range(2))
    assert first == second


def test_what_a_figure_holds_names_it(draw):
    held = [Sliders(draw, caption="c", **AXES), Sliders(draw, caption="d", **AXES)]
    held += [Sliders(draw, caption="c", labels={"k": "l"}, **AXES), Sliders(draw, caption="c", k=[0, 2])]
    names = [data(sliders)["id"] for sliders in held]
    assert len(set(names)) == 4
    assert all(f'data-sliders="{name}"' in page(sliders) for name, sliders in zip(names, held, strict=True))


def test_no_text_ends_the_script_or_an_attribute():
    def hostile(which):
        return Figure(figsize=(2, 1)), f"{HOSTILE} {which}"

    sliders = Sliders(hostile, caption=HOSTILE, labels={"which": HOSTILE}, which=[HOSTILE, "b"])
    harmless = Sliders(lambda which: (Figure(figsize=(2, 1)), "a"), caption="c", which=["a", "b"])
    assert elements(page(sliders)) == elements(page(harmless))
    assert "<!--" not in page(sliders)
    assert data(sliders)["lines"][1] == f"{HOSTILE} = b. {HOSTILE} b"
    assert unescape(re.search(r"<figcaption>(.*)</figcaption>", page(sliders))[1]) == HOSTILE


def test_draws_when_shown_and_once(draw):
    sliders = Sliders(draw, caption="c", **AXES)
    assert draw.calls == []
    assert sliders._repr_mimebundle_() == sliders._repr_mimebundle_()
    assert len(draw.calls) == 6


def test_choices_may_be_texts_and_numpy_numbers(draw):
    sliders = Sliders(draw, caption="c", way=["up", "down"], rate=np.linspace(0, 0.3, 4), k=np.arange(2))
    assert data(sliders)["choices"] == [["up", "down"], ["0", "0.1", "0.2", "0.3"], ["0", "1"]]


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({}, r"1 to 3 axes; got 0: \[\]\."),
        ({name: [1, 2] for name in "abcd"}, r"1 to 3 axes; got 4: \['a', 'b', 'c', 'd'\]\."),
        ({"k": [1, 2], "rate": []}, r"axis rate must have at least 2 choices; got \[\]\."),
        ({"k": [1, 2], "rate": [5]}, r"axis rate must have at least 2 choices; got \[5\]\."),
        ({"k": [1, 2], "rate": [0.1, 0.2, 0.1]}, r"choices of axis rate must differ .*; got 0\.1 more than once\."),
        ({"k": [1, 1.0]}, r"choices of axis k must differ .*; got 1 more than once\."),
        ({"k": range(6), "rate": range(7)}, r"at most 30 pictures; got 42 from k \(6\) × rate \(7\)\."),
    ],
)
def test_axes_that_make_no_figure_are_refused(draw, axes, message):
    with pytest.raises(ValueError, match=message):
        Sliders(draw, caption="c", **axes)
    assert draw.calls == []


def test_thirty_pictures_are_a_figure(draw):
    assert len(Sliders(draw, caption="c", k=range(6), rate=range(5)).pictures) == 30


def test_a_caption_is_needed(draw):
    with pytest.raises(ValueError, match="caption must say what the figure shows; got an empty text"):
        Sliders(draw, caption=" ", **AXES)


def test_labels_are_of_axes(draw):
    with pytest.raises(ValueError, match=r"labels must be of axes, \['k', 'rate'\]; got \['r'\]"):
        Sliders(draw, caption="c", labels={"r": "rate"}, **AXES)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda: plt.figure(), r"\(Figure, str\); got Figure\."),
        (lambda: (plt.figure(), 0.5), r"\(Figure, str\); got \(Figure, float\)\."),
        (lambda: plt.subplots(), r"\(Figure, str\); got \(Figure, Axes\)\."),
        (lambda: None, r"\(Figure, str\); got NoneType\."),
        (lambda: (plt.figure(), " "), "key number in words; got an empty text"),
        (lambda: (plt.figure(), 1 / 0), "division by zero"),
    ],
)
def test_what_draw_does_wrong_is_told_with_its_choice(answer, message):
    def draw(k, rate):
        return (plt.figure(figsize=(2, 1)), "Good.") if k < 10 else answer()

    with pytest.raises((ValueError, ZeroDivisionError), match=message) as error:
        Sliders(draw, caption="c", labels={"k": "inner steps"}, **AXES).drawn()
    assert error.value.__notes__ == ["The choice was inner steps = 10, rate = 0.01."]


def test_pictures_of_several_sizes_are_refused():
    def draw(k):
        return Figure(figsize=(2, k)), "One."

    with pytest.raises(ValueError, match=r"one size; got \[\(300, 150\), \(300, 300\)\] pixels"):
        Sliders(draw, caption="c", k=[1, 2]).drawn()


def test_a_figure_is_at_most_a_megabyte(monkeypatch, draw):
    sliders = Sliders(draw, caption="c", **AXES)
    size = len(page(sliders).encode())
    monkeypatch.setattr(savae_lite.widgets, "MOST_BYTES", size)
    assert Sliders(draw, caption="c", **AXES).drawn()
    monkeypatch.setattr(savae_lite.widgets, "MOST_BYTES", size - 1)
    with pytest.raises(ValueError, match=r"at most .* MB; got 0\.\d\d MB in 6 pictures"):
        Sliders(draw, caption="c", **AXES).drawn()


def test_a_live_move_draws_one_picture_and_shows_it(monkeypatch, draw):
    shown = []
    monkeypatch.setattr(savae_lite.widgets, "display", lambda *things: shown.extend(things))
    box = Sliders(draw, caption="The caption.", labels={"k": "inner steps"}, **AXES).live()
    k, rate = box.children[:2]
    assert [k.description, rate.description] == ["inner steps", "rate"]
    assert [label for label, _ in k.options] == ["0", "2", "10"]
    assert not k.continuous_update and not rate.continuous_update
    assert len(draw.calls) <= 1  # ipywidgets 8 draws the first at once, 7 when displayed
    draw.calls.clear()
    shown.clear()
    k.value, expected = 10, "inner steps = 10, rate = 0.01. The gap is 0.86 nats."
    assert draw.calls == [{"k": 10, "rate": 0.01}]
    picture, line = shown
    assert (picture.alt, picture.caption, line.data) == (expected, "The caption.", f"<p>{expected}</p>")
    rate.value = 0.1
    assert draw.calls[1:] == [{"k": 10, "rate": 0.1}]
    assert box.result.alt.startswith("inner steps = 10, rate = 0.1.")


def test_explore_draws_all_at_once_where_no_reader_has_a_kernel(static, draw):
    shown = explore(draw, caption="c", labels={"k": "l"}, **AXES)
    assert isinstance(shown, Sliders)
    assert len(draw.calls) == 6
    assert data(shown)["labels"] == ["l", "rate"]


def test_explore_is_alive_in_a_notebook_of_a_jupyter_server(monkeypatch, static, draw):
    monkeypatch.setenv("JPY_SESSION_NAME", "n.ipynb")
    assert isinstance(explore(draw, caption="c", **AXES), ipywidgets.VBox)
    assert len(draw.calls) <= 1


def test_explore_is_alive_on_colab(monkeypatch, static, draw):
    monkeypatch.setitem(sys.modules, "google.colab", ModuleType("google.colab"))
    assert isinstance(explore(draw, caption="c", **AXES), ipywidgets.VBox)


def test_a_jupyter_server_tells_its_kernels_that_they_are_in_a_notebook():
    manager = pytest.importorskip("jupyter_server.services.sessions.sessionmanager").SessionManager
    assert "JPY_SESSION_NAME" in manager.get_kernel_env(None, "n.ipynb")


CELL = """
import matplotlib.pyplot as plt
from savae_lite.widgets import explore

def draw(k):
    return plt.figure(figsize=(2, 1)), f"The inverse is {1 / k:.2f}."

explore(draw, caption="c", k=CHOICES)
"""


def run_as_the_book_does(choices):
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL.replace("CHOICES", choices))])
    nbclient.NotebookClient(notebook, kernel_name="python3", timeout=120).execute()
    return notebook.cells[0].outputs


def test_the_book_gets_the_static_figure_and_nothing_else(static):
    (output,) = run_as_the_book_does("[1, 2]")
    assert set(output.data) == {"text/html", "image/png", "text/plain"}
    assert '<figure class="sliders"' in output.data["text/html"]


def test_an_error_of_draw_fails_the_book(static):
    with pytest.raises(Exception, match=r"(?s)ZeroDivisionError.*The choice was k = 0") as error:
        run_as_the_book_does("[1, 0]")
    assert type(error.value).__name__ == "CellExecutionError"
