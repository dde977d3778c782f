"""The documentation is built as a site without a warning; nothing in it is missing, and it needs no network."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from support.browser import look, served

ROOT = Path(__file__).parent.parent

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@dataclass
class Page(HTMLParser):
    """What a page has of others: links, images, scripts and styles; and its own anchors."""

    path: Path
    links: list[str] = field(default_factory=list)
    images: list[tuple[str, str]] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)
    anchors: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.anchors |= {found[name] for name in ("id", "name") if name in found}
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        elif tag == "img":
            self.images.append((found["src"], found.get("alt", "")))
        elif tag == "script" and "src" in found:
            self.loaded.append(found["src"])
        elif tag == "link" and found.get("rel") in ("stylesheet", "icon", "preload"):
            self.loaded.append(found["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    options = ["-W", "--keep-going", "-q", "-j", "2", "-d", str(folder / "doctrees"), "-c", "docs"]
    built = subprocess.run(
        [sys.executable, "-m", "sphinx", *options, ".", str(folder / "html")],
        cwd=ROOT,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},  # other tests use the cores too
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr[-8000:]
    return folder / "html"


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    with served(site) as found:
        yield found


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in site.rglob("*.html")}


def _is_here(target: str) -> bool:
    return not re.match(r"[a-z]+:", target)


def _targets(page: Page) -> Iterator[tuple[Path, str]]:
    """Yield the file and the anchor of each link within the site."""
    for link in filter(_is_here, page.links):
        file, _, anchor = unquote(link).partition("#")
        yield (page.path.parent / file.partition("?")[0]).resolve() if file else page.path, anchor


def test_every_link_leads_to_a_file_and_an_anchor(pages: dict[Path, Page]) -> None:
    missing = []
    for page in pages.values():
        for file, anchor in _targets(page):
            if not file.is_file() or (anchor and file in pages and anchor not in pages[file].anchors):
                missing.append((page.path.name, str(file), anchor))
    assert missing == []
    assert sum(bool(anchor) for page in pages.values() for _, anchor in _targets(page)) > 100


def test_every_image_is_there_and_has_words(pages: dict[Path, Page]) -> None:
    images = [(page.path, source, words) for page in pages.values() for source, words in page.images]
    assert [source for path, source, _ in images if not (path.parent / source).is_file()] == []
    assert [(path.name, source) for path, source, words in images if len(words.split()) < 3] == []


def test_every_page_of_the_gallery_has_a_picture(pages: dict[Path, Page]) -> None:
    gallery = {path.stem: page for path, page in pages.items() if path.parent.name == "gallery"}
    assert len(gallery) == 21
    assert [name for name, page in gallery.items() if not page.images and name != "index"] == []


def test_nothing_is_loaded_from_elsewhere(site: Path, pages: dict[Path, Page]) -> None:
    loaded = [target for page in pages.values() for target in page.loaded]
    assert loaded
    assert [target for target in loaded if not _is_here(target)] == []
    assert [source for page in pages.values() for source, _ in page.images if not _is_here(source)] == []
    styles = "".join(path.read_text(encoding="utf-8") for path in site.rglob("*.css"))
    assert re.findall(r"(?:@import|url\()\s*[\"']?(?:https?:)?//[^)]*", styles) == []


def test_the_search_knows_words_of_pages_and_names_in_python(site: Path) -> None:
    text = (site / "searchindex.js").read_text(encoding="utf-8")
    index = json.loads(text.removeprefix("Search.setIndex(").removesuffix(")"))
    found = index["terms"]["precondition"]  # a word without its ending; several pages, or the number of the only one
    names = [index["docnames"][number] for number in ([found] if isinstance(found, int) else found)]
    assert "docs/solving" in names
    assert any(name == "KernelClassifier" for *_, name in index["objects"]["cntk_pipeline.estimators"])


def test_the_search_works_for_pages_that_are_opened_as_files(site: Path, chromium: Any) -> None:
    page = chromium.new_page()
    page.goto(f"{(site / 'search.html').as_uri()}?q=quarantine")
    page.get_by_role("link", name="Data structures", exact=True).first.wait_for(timeout=30_000)
    page.close()


NARROW, WIDE = (390, "dark"), (1280, "light")
LOOKS = {
    "docs/index": (NARROW, WIDE),
    "docs/tutorial/digits": (NARROW, WIDE),
    "docs/gallery/learning_curve": (NARROW, WIDE),
    "docs/api/estimators": (NARROW, WIDE),
    "docs/mathematics": (NARROW,),
    "docs/how-it-works": (NARROW,),
    "docs/workflow": (NARROW,),
    "examples/uncertainty": (NARROW,),
    "docs/gallery/index": (WIDE,),
    "examples/classify_digits": (WIDE,),
}
"""A page of each kind is looked at in both widths."""


@pytest.mark.parametrize(
    ("name", "width", "scheme"), [(name, *look) for name, looks in LOOKS.items() for look in looks]
)
def test_a_page_is_whole_and_readable(chromium: Any, address: str, name: str, width: int, scheme: str) -> None:
    seen = look(chromium, f"{address}/{name}.html", width, scheme, name.replace("/", "-"))
    assert seen.faults == []
