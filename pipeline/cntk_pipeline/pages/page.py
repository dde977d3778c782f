"""A page with its numbers, and the files that they are written to."""

import json
from dataclasses import dataclass

from cntk_pipeline.errors import ConfigError
from cntk_pipeline.models import Json
from cntk_pipeline.rundir.directory import holds_run
from cntk_pipeline.storage import StorePath

ENDING = ".html"

NAMES = ("report.html", "compare.html")
"""The names that the commands choose: no other file is named like their numbers, in a run directory or elsewhere."""


@dataclass(frozen=True)
class Page:
    """A page for a browser.

    Attributes
    ----------
    html : str
        The whole page; it needs no other file.
    numbers : Json
        Every number that it shows.
    """

    html: str
    numbers: Json


def require_page(path: StorePath) -> StorePath:
    """Refuse a file that a browser does not take for a page, or whose numbers would lie in the place of another file.

    A page of another name than `NAMES` is refused in a run directory, since records of a run are named run.json,
    workflow.json, growth.json and so on, and may be written later. Elsewhere a file of numbers is replaced only where
    its page lies beside it.

    Raises
    ------
    ConfigError
        If its name does not end in ``.html``, or its numbers would replace a file that belongs to no page.
    """
    if not path.name.endswith(ENDING):
        raise ConfigError(f"--out {path}: expected a file that ends in {ENDING}; its numbers go to a .json beside it")
    if path.name in NAMES:
        return path
    if holds_run(path.parent):
        raise ConfigError(
            f"--out {path}: the page's numbers, {_numbers_of(path).name}, could replace a file of the run "
            f"{path.parent}: name the page {' or '.join(NAMES)}, or give another folder"
        )
    if _numbers_of(path).exists() and not path.exists():
        raise ConfigError(
            f"--out {path}: the page's numbers would replace {_numbers_of(path)}, which belongs to no page: move that "
            "file away, or give the page another name"
        )
    return path


def write_page(page: Page, path: StorePath) -> None:
    """Write a page, and its numbers beside it under the same name with ``.json``; an older page is replaced.

    Raises
    ------
    ConfigError
        As of `require_page`; nothing is written.
    """
    require_page(path)
    # The page first: numbers without a page would be taken for another file by the next call.
    path.write_whole(page.html.encode())
    _numbers_of(path).write_whole(json.dumps(page.numbers, allow_nan=False).encode())


def _numbers_of(path: StorePath) -> StorePath:
    return path.parent / f"{path.name.removesuffix(ENDING)}.json"
