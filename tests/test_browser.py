"""The built book in a real browser, opened from files with the network shut."""

import shutil

import pytest
from pages import PAGES, built, skip_or_fail
from playwright.sync_api import sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
# Without these Chromium looks up its maker's hosts at every start.
QUIET = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
QUIET += ["--disable-component-update", "--disable-sync"]

every_page = pytest.mark.parametrize("name", PAGES)


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

    def __init__(self, browser, name, width):
        self.complaints, self.requests = [], []
        self.page = browser.new_page(viewport={"width": width, "height": 900})
        self.page.route("**/*", self.refuse_network)
        self.page.on("console", self.hear)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("requestfailed", lambda request: self.complaints.append(f"not loaded: {request.url}"))
        self.page.goto(built(name).as_uri(), wait_until="load")
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

    def open_page(name, width=1280):
        visits.append(Visit(browser, name, width))
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
