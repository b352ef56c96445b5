"""Where the built book lies and which pages it must have; shared by the tests that read it."""

import os
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
HTML = ROOT / "_build" / "html"
CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
TOC = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
PAGES = [TOC["root"], *(entry["file"] for part in TOC["parts"] for entry in part["chapters"])]
CHAPTERS = [page for page in PAGES if page.startswith("chapters/")]


def skip_or_fail(reason):
    """Skip on a reader's machine; fail under CI, where nothing may go untested."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def built(page):
    """The file of one built page, e.g. built("chapters/09_text")."""
    if not (HTML / "index.html").exists():
        skip_or_fail("NOT TESTED: there is no built book in _build/html; run make book first.")
    return HTML / f"{page}.html"
