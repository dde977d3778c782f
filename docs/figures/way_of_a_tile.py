"""Draws way_of_a_tile.svg: what driver, worker and store do for one tile, and what is left where a process ends.

Run it from anywhere: ``python docs/figures/way_of_a_tile.py``. It writes the figure beside itself and needs the
standard library only.
"""

from pathlib import Path

from drawing import BLUE, EDGE, GREEN, ORANGE, PALE, SOFT, Drawing

TITLE = "The way of a tile"
DESCRIPTION = (
    "Two panels. One, in order of time: the driver sends a worker stage, row and column; the worker reads blocks of "
    "images from the store, computes the tile, writes a chunk under another name, which is fsynced and renamed, and "
    "sends a receipt to the driver; the driver appends the receipt to the journal, and then releases the tiles that "
    "waited. Two: a process that ends before the rename leaves nothing that is read, and the tile is computed again; "
    "between rename and receipt it leaves a whole chunk, which is read and kept; after the receipt nothing is left."
)


def draw_time(drawing: Drawing) -> None:
    """Show what is sent, read and written, from top to bottom."""
    x, y = drawing.panel(0, 0, "From the driver to the journal")
    driver, worker, store = x + 36, x + 180, x + 324
    for place, name, fill in ((driver, "driver", ORANGE), (worker, "worker", BLUE), (store, "store", GREEN)):
        drawing.box(place - 36, y + 4, 72, 26, fill, radius=4)
        drawing.text(place, y + 22, name, size=15, anchor="middle", bold=True)
        drawing.box(place - 0.5, y + 30, 1, 256, EDGE)
    for height, start, end, words in (
        (58, driver, worker, "stage, row, col"),
        (94, store, worker, "images"),
        (166, worker, store, "chunk, aside"),
        (238, worker, driver, "receipt"),
    ):
        side = 4 if end > start else -4
        drawing.arrow(start + side, y + height, end - side, y + height)
        drawing.text((start + end) / 2, y + height - 6, words, size=14, anchor="middle")
    for height, place, words in (
        (108, worker, "compute"),
        (180, store, "rename"),
        (252, driver, "journal"),
    ):
        drawing.box(place - 36, y + height, 72, 26, PALE, radius=4)
        drawing.text(place, y + height + 18, words, size=14, anchor="middle")


def draw_crash(drawing: Drawing) -> None:
    """Show what a resume finds, by when a process ended."""
    x, y = drawing.panel(1, 0, "A process ends ...")
    for top, when, left, then in (
        (0, "before the rename", "no chunk", "The tile is computed again."),
        (96, "before the receipt", "a whole chunk", "Its checksum is right: it is kept."),
        (192, "after the receipt", "chunk and receipt", "Nothing is left to do."),
    ):
        drawing.box(x, y + top + 8, 160, 40, PALE, radius=4)
        drawing.text(x + 80, y + top + 33, when, size=15, anchor="middle")
        drawing.arrow(x + 166, y + top + 28, x + 192, y + top + 28)
        drawing.text(x + 202, y + top + 33, left, size=15, bold=True)
        drawing.text(x + 14, y + top + 72, then, size=15, fill=SOFT)


def figure() -> str:
    """Return the figure as SVG."""
    drawing = Drawing(TITLE, DESCRIPTION, rows=1)
    draw_time(drawing)
    draw_crash(drawing)
    return drawing.svg()


if __name__ == "__main__":
    Path(__file__).with_suffix(".svg").write_text(figure(), encoding="utf-8")
