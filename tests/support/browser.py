"""Pages in a real browser: what it complains about, what does not fit, and what people could not read."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

WIDTHS = (390, 1280)
SCHEMES = ("light", "dark")

SCREENSHOTS = os.environ.get("CNTK_SCREENSHOTS")
"""A folder for a picture of each page; without it none are kept."""

_UNFIT = Path(__file__).with_name("unfit.js").read_text()


@dataclass
class Seen:
    """What was wrong with a page.

    Attributes
    ----------
    console : list of str
        Errors of scripts and of loading.
    unfit : list of str
        Text that is cut, images that are missing, a page that is wider than the screen.
    barriers : list of str
        Violations of axe-core's rules, by rule, with an element each.
    """

    console: list[str] = field(default_factory=list)
    unfit: list[str] = field(default_factory=list)
    barriers: list[str] = field(default_factory=list)

    @property
    def faults(self) -> list[str]:
        return [*self.console, *self.unfit, *self.barriers]


@contextmanager
def browser() -> Iterator[Any]:
    """Start Debian's Chromium without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        # As root, Chromium runs without its sandbox only; all pages are our own.
        yield play.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder to this machine, and yield its address; scripts may not read style sheets of files."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def look(chromium: Any, address: str, width: int, scheme: str, name: str) -> Seen:
    """Open a page and look at it; a picture of it bears the name."""
    from axe_playwright_python.sync_playwright import Axe

    seen = Seen()
    page = chromium.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme, bypass_csp=True)
    page.on("console", lambda said: seen.console.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: seen.console.append(str(error)))
    page.on("requestfailed", lambda request: seen.console.append(f"not loaded: {request.url[:100]}"))
    page.goto(address, wait_until="load")
    for image in page.locator("img").all():
        image.scroll_into_view_if_needed()  # images further down are loaded when they are near
    seen.unfit = page.evaluate(_UNFIT)
    found = Axe().run(page).response
    seen.barriers = [f"{each['id']}: {each['nodes'][0]['html'][:150]}" for each in found["violations"]]
    if SCREENSHOTS:
        Path(SCREENSHOTS).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=Path(SCREENSHOTS) / f"{name}-{width}-{scheme}.png", full_page=True)
    page.close()
    return seen
