"""The built book, and sliders on a page of their own, in a real browser: opened from files with the network shut."""

import itertools
import json
import re
import shutil

import pytest
from matplotlib.figure import Figure
from pages import CHAPTERS, PAGES, ROOT, built, skip_or_fail
from playwright.sync_api import sync_playwright

from savae_lite.widgets import Sliders

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
# Without these Chromium looks up its maker's hosts at every start.
QUIET = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
QUIET += ["--disable-component-update", "--disable-sync"]


def explored(chapter):
    """How many figures with sliders a chapter shows."""
    cells = json.loads((ROOT / f"{chapter}.ipynb").read_text(encoding="utf-8"))["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    return len(re.findall(r"\bexplore\(", code))


every_page = pytest.mark.parametrize("name", PAGES)
every_page_with_sliders = pytest.mark.parametrize("name", list(filter(explored, CHAPTERS)))


@pytest.fixture(scope="module")
def browser():
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        skip_or_fail("NOT TESTED: no Chromium was found; install it (Debian: apt-get install chromium).")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=QUIET)
        yield browser
        browser.close()


class Visit:
    """One page opened from its file, with what it complained about and what it asked the network for."""

    def __init__(self, browser, path, *, width=1280, theme=None, scripts=True):
        self.complaints, self.requests = [], []
        self.page = browser.new_page(viewport={"width": width, "height": 900}, java_script_enabled=scripts)
        if theme:  # as the page's own button leaves it
            self.page.add_init_script(f"localStorage.mode = localStorage.theme = '{theme}'")
        self.page.route("**/*", self.refuse_network)
        self.page.on("console", self.hear)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("requestfailed", lambda request: self.complaints.append(f"not loaded: {request.url}"))
        self.page.goto(path.as_uri(), wait_until="load")
        if scripts:
            self.page.wait_for_function("window.MathJax?.startup?.promise !== undefined || !window.MathJax")
            self.page.evaluate("window.MathJax?.startup?.promise")

    def refuse_network(self, route):
        if route.request.url.startswith(("file:", "data:", "blob:")):
            route.continue_()
        else:
            self.requests.append(route.request.url)
            route.abort()

    def hear(self, message):
        if message.type == "error":
            self.complaints.append(message.text)


@pytest.fixture
def visit(browser):
    visits = []

    def open_page(page, **how):
        visits.append(Visit(browser, built(page) if isinstance(page, str) else page, **how))
        return visits[-1]

    yield open_page
    for visited in visits:
        visited.page.close()


@every_page
def test_page_opens_without_complaint_or_network(visit, name):
    visited = visit(name)
    assert visited.complaints == []
    assert visited.requests == []


@every_page
def test_equations_are_typeset(visit, name):
    page = visit(name).page
    written = page.locator("article .math").count()
    assert page.locator("article mjx-container").count() >= written
    assert page.locator('mjx-merror, [data-mml-node="merror"]').count() == 0


@every_page
def test_figures_load(visit, name):
    page = visit(name).page
    page.evaluate("document.querySelectorAll('article img').forEach(img => img.loading = 'eager')")
    widths = page.eval_on_selector_all(
        "article img", "imgs => Promise.all(imgs.map(img => img.decode().then(() => img.naturalWidth)))"
    )
    assert all(width > 0 for width in widths)


@every_page
def test_narrow_window_does_not_scroll_sideways(visit, name):
    page = visit(name, width=400).page
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    assert page.evaluate("document.body.scrollWidth") <= 400
    wide = page.eval_on_selector_all(
        "article > section, article > section > *",
        "all => all.filter(e => e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))",
    )
    assert wide == []


class Moved:
    """A figure with sliders, moved by its keyboard alone."""

    def __init__(self, figure):
        self.figure, self.sliders = figure, figure.get_by_role("slider").all()
        self.sizes = [int(slider.get_attribute("max")) + 1 for slider in self.sliders]

    def seen(self):
        """What a reader sees or hears now: picture, alt text, line of text, values beside and of the sliders."""
        image = self.figure.locator("img")
        return {
            "picture": image.get_attribute("src"),
            "alt": image.get_attribute("alt"),
            "line": self.figure.locator(".sliders-line").inner_text(),
            "values": self.figure.locator("output").all_inner_texts(),
            "spoken": [slider.get_attribute("aria-valuetext") for slider in self.sliders],
        }

    def grid(self):
        """What is seen at each choice, walking over all of them and leaving every slider at its start."""
        seen = {}
        for place in itertools.product(*map(range, self.sizes)):
            for slider, steps in zip(self.sliders, place, strict=True):
                slider.press("Home")
                for _ in range(steps):
                    slider.press("ArrowRight")
            seen[place] = self.seen()
        for slider in self.sliders:
            slider.press("Home")
        return seen


def check_grid(seen):
    """Every move is told in words, and every slider changes the picture somewhere."""
    assert len({look["alt"] for look in seen.values()}) == len(seen)
    assert all(look["line"] == look["alt"] for look in seen.values())
    for look in seen.values():
        assert all(value and value in look["line"] for value in look["values"])
        assert all(spoken in look["line"] for spoken in look["spoken"])
    for axis in range(len(next(iter(seen)))):
        rows = {}
        for place, look in seen.items():
            rows.setdefault((*place[:axis], *place[axis + 1 :]), set()).add(look["picture"])
        assert any(len(pictures) > 1 for pictures in rows.values()), f"slider {axis + 1} never changes the picture"


@every_page_with_sliders
def test_sliders_of_the_book_move_picture_and_words(visit, name):
    visited = visit(name)
    figures = visited.page.locator("figure.sliders").all()
    assert len(figures) == explored(name)
    for figure in figures:
        check_grid(Moved(figure).grid())
    assert visited.complaints == visited.requests == []


# The contrast of WCAG between each text of a figure and what lies behind it.
CONTRASTS = """figure => {
  const rgba = colour => {
    const parts = colour.match(/[\\d.]+/g).map(Number);
    return parts.length < 4 ? [...parts, 1] : parts;
  };
  const behind = element => {
    for (let at = element; at; at = at.parentElement) {
      const colour = rgba(getComputedStyle(at).backgroundColor);
      if (colour[3] === 1) return colour;
      if (colour[3] > 0) throw new Error(`half-transparent background on ${at.outerHTML.slice(0, 80)}`);
    }
    return [255, 255, 255, 1];
  };
  const light = colour => {
    const [r, g, b] = colour.map(c => c / 255).map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  return [...figure.querySelectorAll(".sliders-line, label span, output, figcaption")].map(text => {
    const [dark, bright] = [getComputedStyle(text).color, behind(text)].map(
      colour => light(typeof colour === "string" ? rgba(colour) : colour)).sort((a, b) => a - b);
    return (bright + 0.05) / (dark + 0.05);
  });
}"""


@every_page_with_sliders
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_of_sliders_is_readable(visit, name, theme):
    page = visit(name, theme=theme).page
    assert page.evaluate("document.documentElement.dataset.theme") == theme
    for figure in page.locator("figure.sliders").all():
        contrasts = figure.evaluate(CONTRASTS)
        assert len(contrasts) >= 4
        assert min(contrasts) >= 4.5


def parts_outside(figure):
    return figure.evaluate(
        """figure => [...figure.querySelectorAll("*")].filter(part => {
          const box = part.getBoundingClientRect();
          return box.width && (box.left < 0 || box.right > innerWidth);
        }).map(part => part.outerHTML.slice(0, 80))"""
    )


@every_page_with_sliders
@pytest.mark.parametrize("width", [320, 400])
def test_sliders_fit_a_narrow_window(visit, name, width):
    for figure in visit(name, width=width, theme="dark").page.locator("figure.sliders").all():
        assert figure.get_by_role("slider").count() >= 1
        assert parts_outside(figure) == []


HOSTILE = """</script><script>window.broken = 1</script> <!-- "a" & 'b'"""


def sketch(k, rate):
    figure = Figure(figsize=(6, 1))
    figure.text(0.1, 0.5, f"{k} {rate}")
    return figure, "The gap is small. " + "A number that needs more words than others do. " * (k == 10) + HOSTILE


def tell(way):
    figure = Figure(figsize=(6, 1))
    figure.text(0.1, 0.5, way)
    return figure, f"It goes {way}."


@pytest.fixture(scope="module")
def two():
    """A figure with two sliders and one with one."""
    labels = {"k": "inner steps k", "rate": "learning rate α"}
    first = Sliders(sketch, caption=HOSTILE, labels=labels, k=[0, 2, 10], rate=[0.01, 0.1, 1])
    return first, Sliders(tell, caption="The other.", way=["up", "down", "constant & slow"])


def write_page(path, *parts):
    head = '<!doctype html><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>t</title>'
    path.write_text(f"{head}<body>{''.join(parts)}</body>", encoding="utf-8")
    return path


@pytest.fixture
def alone(tmp_path, two):
    """A page of nothing but the two figures, the first of them shown twice."""
    first, second = (sliders.page for sliders in two)
    return write_page(tmp_path / "sliders.html", first, second, first)


def test_sliders_move_picture_and_words(visit, alone, two):
    visited = visit(alone)
    figures = visited.page.locator("figure.sliders").all()
    for figure, sliders in zip(figures, [*two, two[0]], strict=True):
        seen = Moved(figure).grid()
        check_grid(seen)
        assert [look["line"] for look in seen.values()] == [picture.alt for picture in sliders.pictures]
        assert len({look["picture"] for look in seen.values()}) == len(sliders.pictures)
    assert visited.complaints == visited.requests == []
    assert visited.page.evaluate("window.broken") is None


def test_scripts_find_their_figures_wherever_they_run(visit, tmp_path, two):
    """Colab runs scripts apart from the elements that they came with."""
    parts = [sliders.page.partition("<script>") for sliders in two]
    elements, scripts = [part[0] for part in parts], ["".join(part[1:]) for part in parts]
    page = visit(write_page(tmp_path / "apart.html", *elements, *reversed(scripts))).page
    for figure, sliders in zip(page.locator("figure.sliders").all(), two, strict=True):
        figure.get_by_role("slider").first.press("ArrowRight")
        assert Moved(figure).seen()["line"] in [picture.alt for picture in sliders.pictures[1:]]


def test_sliders_are_found_by_their_labels_and_stop_at_their_ends(visit, alone):
    figure = visit(alone).page.locator("figure.sliders").first
    slider = figure.get_by_role("slider", name="inner steps k", exact=True)
    for keys, value in (["ArrowLeft"], "0"), (["End"], "10"), (["ArrowRight"] * 2, "10"), (["ArrowLeft"], "2"):
        for key in keys:
            slider.press(key)
        assert figure.locator("output").first.inner_text() == value
    assert slider.get_attribute("aria-valuetext") == "inner steps k = 2"
    assert figure.get_by_role("slider", name="learning rate α", exact=True).is_visible()


def test_one_figure_shown_twice_moves_apart(visit, alone):
    first, _, second = map(Moved, visit(alone).page.locator("figure.sliders").all())
    assert [moved.figure.locator("p").count() for moved in (first, second)] == [10, 10]  # nine lines and the shown one
    before = second.seen()
    first.sliders[0].press("End")
    assert second.seen() == before
    second.sliders[1].press("End")
    assert first.seen()["values"] == ["10", "0.01"]
    assert second.seen()["values"] == ["0", "1"]


def test_without_scripts_there_is_the_first_picture_and_no_slider(visit, alone, two):
    page = visit(alone, scripts=False).page
    figure = page.locator("figure.sliders").first
    assert page.locator("input:visible, output:visible").count() == 0
    assert figure.locator("img").is_visible()
    assert figure.locator("img").get_attribute("alt") == two[0].pictures[0].alt
    assert figure.locator(".sliders-line").inner_text() == two[0].pictures[0].alt
    assert figure.locator("figcaption").inner_text() == HOSTILE


def test_print_shows_the_chosen_picture_and_no_slider(visit, alone, two):
    page = visit(alone).page
    figure = page.locator("figure.sliders").first
    assert page.locator("input:visible").count() == 5
    figure.get_by_role("slider").first.press("End")
    page.emulate_media(media="print")
    assert page.locator("input:visible, output:visible, label span:visible").count() == 0
    assert figure.locator("img").is_visible()
    assert figure.locator(".sliders-line").inner_text() == two[0].picture(k=10, rate=0.01).alt


def test_label_slider_and_value_stand_in_line(visit, alone):
    figure = visit(alone).page.locator("figure.sliders").first
    columns = [[part.bounding_box() for part in figure.locator(kind).all()] for kind in ("span", "input", "output")]
    for column in columns:
        assert len({box["x"] for box in column}) == 1
    for row in zip(*columns, strict=True):
        middles = [box["y"] + box["height"] / 2 for box in row]
        assert max(middles) - min(middles) < 2
        assert row[0]["x"] + row[0]["width"] < row[1]["x"] < row[1]["x"] + row[1]["width"] < row[2]["x"]


def test_nothing_jumps_when_the_words_change(visit, alone):
    for width, number in itertools.product((320, 1280), (0, 1)):
        figure = visit(alone, width=width).page.locator("figure.sliders").nth(number)
        boxes = []
        for key in ("Home", "End"):
            figure.get_by_role("slider").first.press(key)
            boxes.append([part.bounding_box() for part in [figure, *figure.locator("input, output, img").all()]])
        assert boxes[0] == boxes[1]


def test_sliders_are_large_enough_for_a_finger_and_show_their_focus(visit, alone):
    slider = visit(alone, width=320).page.get_by_role("slider").first
    assert slider.bounding_box()["height"] >= 44
    outline = "slider => getComputedStyle(slider).outlineStyle"
    assert slider.evaluate(outline) == "none"
    slider.press("End")
    assert slider.evaluate(outline) == "solid"


def test_sliders_alone_fit_a_narrow_window(visit, alone):
    page = visit(alone, width=320).page
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    for figure in page.locator("figure.sliders").all():
        assert parts_outside(figure) == []


def test_keys_stay_with_the_slider(visit, alone):
    """JupyterLab would take the arrow keys to walk from cell to cell."""
    page = visit(alone).page
    page.evaluate("window.keys = 0; document.addEventListener('keydown', () => window.keys++)")
    slider = page.get_by_role("slider").first
    slider.press("ArrowRight")
    assert page.evaluate("window.keys") == 0
    slider.blur()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("window.keys") == 1
