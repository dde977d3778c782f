"""A page with its numbers, and the files that they are written to."""

import json
from dataclasses import dataclass

from cntk_pipeline.errors import ConfigError
from cntk_pipeline.models import Json
from cntk_pipeline.storage import StorePath

ENDING = ".html"


@dataclass(frozen=True)
class Page:
    """A page for a browser.

    Attributes
    ----------
    html : the whole page; it needs no other file.
    numbers : every number that it shows.
    """

    html: str
    numbers: Json


def require_page(path: StorePath) -> StorePath:
    """Refuse a file that a browser does not take for a page.

    Raises
    ------
    ConfigError
        If its name does not end in ``.html``.
    """
    if not path.name.endswith(ENDING):
        raise ConfigError(f"--out {path}: expected a file that ends in {ENDING}; its numbers go to a .json beside it")
    return path


def write_page(page: Page, path: StorePath) -> None:
    """Write a page, and its numbers beside it under the same name with ``.json``; files there are replaced."""
    numbers = path.parent / f"{path.name.removesuffix(ENDING)}.json"
    numbers.write_whole(json.dumps(page.numbers, allow_nan=False).encode())
    path.write_whole(page.html.encode())
