"""The built book as a reader gets it: every page there, every figure described, nothing broken on the page."""

import os
import re

import pytest
from bs4 import BeautifulSoup
from pages import CHAPTERS, CONFIG, PAGES, built

every_page = pytest.mark.parametrize("page", PAGES)
every_chapter = pytest.mark.parametrize("page", CHAPTERS)

# What Jupyter prints where a widget or a figure should stand.
PLACEHOLDERS = re.compile(
    r"interactive\(children=|\b\w+(Slider|Box|Dropdown)\(|Output\(\)|<Figure size|<Axes: |<matplotlib\.|FigureWidget"
)


def read(page):
    return BeautifulSoup(built(page).read_text(encoding="utf-8"), "html.parser")


def article(page):
    return read(page).select_one("article.bd-article")


def test_index_leads_to_the_first_page():
    assert f"url={PAGES[0]}.html" in built("index").read_text(encoding="utf-8")


@every_page
def test_title(page):
    title = read(page).title.text
    assert title.endswith(CONFIG["title"])
    assert title.split(" — ")[0].strip() not in ("", "<no title>")


@every_page
def test_page_is_light_enough_for_a_telephone(page):
    assert built(page).stat().st_size <= 1_500_000


@every_page
def test_sidebar_lists_every_page_in_order(page):
    here = os.path.dirname(page)
    links = [link["href"] for link in read(page).select("nav.bd-links a.reference.internal")]
    targets = [page if link == "#" else os.path.normpath(os.path.join(here, link)) for link in links]
    assert [target.removesuffix(".html") for target in targets] == PAGES


@every_chapter
def test_chapter_has_figures_and_each_is_described(page):
    images = article(page).select("img")
    assert images, "a chapter shows at least one figure"
    for image in images:
        alt = image.get("alt", "").strip()
        assert alt, f"{image['src']} has no alt text"
        assert not alt.endswith((".png", ".svg")), f"{image['src']} has its file name for alt text"


@every_chapter
def test_chapter_opens_on_colab(page):
    address = CONFIG["repository"]["url"].removeprefix("https://github.com/")
    expected = f"https://colab.research.google.com/github/{address}/blob/main/{page}.ipynb"
    assert expected in [link["href"] for link in read(page).select("a[href]")]


@every_page
def test_no_errors_on_the_page(page):
    content = article(page)
    assert not content.select(".traceback, .output.stderr, .system-message, .problematic, aside.system_message")
    assert "Traceback (most recent call last)" not in content.text


@every_page
def test_every_reference_is_resolved(page):
    """Links inside the book lead to a page that exists and to a place that exists on it."""
    content = article(page)
    assert "???" not in content.text
    assert "undefined" not in [link.text.strip() for link in content.select("a, span")]
    for link in content.select("a.reference.internal[href], a.headerlink[href]"):
        path, _, place = link["href"].partition("#")
        target = os.path.normpath(os.path.join(os.path.dirname(page), path)) if path else f"{page}.html"
        # A download has no places; a page has.
        found = read(target.removesuffix(".html"))
        assert not place or found.find(id=place), f"{page}: {link['href']} leads nowhere"


@every_page
def test_no_widget_is_dead_on_the_page(page):
    soup = read(page)
    assert not soup.select('script[type^="application/vnd.jupyter.widget"], .jupyter-widgets, .widget-subarea')
    outputs = "\n".join(cell.text for cell in soup.select(".cell_output"))
    assert not (found := PLACEHOLDERS.search(outputs)), found


@every_page
def test_page_loads_nothing_from_the_network(page):
    soup = read(page)
    loaded = [tag["src"] for tag in soup.select("[src]")]
    loaded += [tag["href"] for tag in soup.select('link[rel="stylesheet"], link[rel="preload"], link[rel="icon"]')]
    assert not [address for address in loaded if address.startswith(("http:", "https:", "//"))]
