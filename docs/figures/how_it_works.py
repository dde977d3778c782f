"""Draws how_it_works.svg: from a pair of images to a stored and solved kernel, in four panels.

Run it from anywhere: ``python docs/figures/how_it_works.py``. It writes the figure beside itself and needs the standard
library only.
"""

from pathlib import Path

from drawing import BLUE, GREEN, GROUND, ORANGE, PALE, SOFT, Drawing

TITLE = "From two images to a stored and solved kernel"
DESCRIPTION = (
    "Four panels. One: a pair of images, x and z, with a pixel p in x and a pixel q in z; their offset D is q minus p. "
    "Two: the covariances of a pair, cut into planes, one for each offset; each plane runs through all layers by "
    "itself; Flatten reads the plane of offset zero and gives CNTK-V, global pooling reads all planes and gives "
    "CNTK-GAP. Three: the kernel matrix, cut into tiles; of train against train only the tiles on and below the "
    "diagonal are computed, of test against train all of them; one tile is one task of a worker. Four: the worker "
    "writes the tile as one Zarr chunk for each read-out and returns a receipt to the journal; from the stored tiles "
    "the solve makes the factor L, tile by tile, and from it the predictions."
)


def draw_pair(drawing: Drawing) -> None:
    """Show two images, a pixel of each, and their offset."""
    x, y = drawing.panel(0, 0, "1. A pair of images")
    side = 24
    for left, name, row, column, pixel in ((x + 8, "x", 1, 1, "p"), (x + 216, "z", 2, 3, "q")):
        drawing.cells(left, y + 30, 5, 5, side, PALE)
        drawing.text(left + 60, y + 20, f"image {name}", anchor="middle")
        drawing.box(left + column * side, y + 30 + row * side, side, side, ORANGE)
        drawing.text(left + (column + 0.5) * side, y + 47 + row * side, pixel, anchor="middle", bold=True)
    drawing.arrow(x + 60, y + 66, x + 286, y + 88, ORANGE)
    for line, words in enumerate(
        (
            "An entry is the covariance of pixel p of x",
            "and pixel q of z. Its offset is D = q - p,",
            "here D = (1, 2).",
            "H x W pixels: H x W x H x W entries.",
        )
    ):
        drawing.text(x, y + 188 + 28 * line, words)


def draw_planes(drawing: Drawing) -> None:
    """Show planes of some offsets, the layers that each runs through, and who reads which."""
    x, y = drawing.panel(1, 0, "2. Planes: one for each offset")
    side = 16
    for left, rows, columns, offset, fill in (
        (x + 2, 5, 5, "D = (0, 0)", BLUE),
        (x + 116, 5, 4, "D = (0, 1)", PALE),
        (x + 224, 4, 3, "D = (1, 2)", PALE),
    ):
        drawing.cells(left, y + 30, rows, columns, side, fill)
        drawing.text(left, y + 20, offset)
    drawing.text(x + 306, y + 66, ". . .", bold=True)
    drawing.text(x, y + 146, "Each plane runs through all layers alone:")
    left = x
    for word, width in (("Conv", 60), ("ReLU", 60), ("Conv", 60), (". . .", 46)):
        drawing.box(left, y + 158, width, 30, PALE, radius=4)
        drawing.text(left + width / 2, y + 179, word, anchor="middle")
        if word != ". . .":
            drawing.arrow(left + width + 3, y + 173, left + width + 27, y + 173)
        left += width + 30
    drawing.text(x, y + 222, "Read-outs of the one pass:")
    drawing.box(x, y + 236, 16, 16, BLUE)
    drawing.text(x + 24, y + 250, "Flatten reads D = (0, 0): CNTK-V")
    drawing.box(x, y + 262, 8, 16, BLUE)
    drawing.box(x + 8, y + 262, 8, 16, PALE)
    drawing.text(x + 24, y + 276, "global pooling reads every D: CNTK-GAP")


def draw_tiles(drawing: Drawing) -> None:
    """Show which tiles of the matrices are computed."""
    x, y = drawing.panel(0, 1, "3. Tiles: one for each task")
    side, top = 28, y + 30
    drawing.text(x + 56 + 70, y + 20, "training images", anchor="middle")
    for row in range(5):
        for column in range(5):
            drawing.box(x + 56 + column * side, top + row * side, side, side, PALE if column <= row else GROUND)
    drawing.box(x + 56 + side, top + 3 * side, side, side, ORANGE)
    drawing.cells(x + 56, top + 5 * side + 8, 2, 5, side, PALE)
    drawing.text(x, top + 2.7 * side, "train")
    drawing.text(x, top + 6 * side + 14, "test")
    for line, words in enumerate(
        (
            "A worker reads two",
            "blocks of images",
            "and computes the",
            "tile of all read-outs.",
            "Train x train: only",
            "the lower tiles.",
        )
    ):
        drawing.text(x + 210, top + 14 + 24 * line + (12 if line > 3 else 0), words, size=15)
    drawing.text(x, y + 276, "A lost worker costs its tiles in flight.")


def draw_store(drawing: Drawing) -> None:
    """Show what a task leaves in the store, and what the solve makes of it."""
    x, y = drawing.panel(1, 1, "4. Store and solve")
    drawing.box(x, y + 10, 44, 44, ORANGE)
    drawing.arrow(x + 52, y + 32, x + 84, y + 32)
    drawing.box(x + 92, y + 8, 262, 48, PALE, radius=4)
    drawing.text(x + 102, y + 28, "kernel.zarr/NAME/train/c/3/1")
    drawing.text(x + 102, y + 48, "a chunk for each read-out", size=15, fill=SOFT)
    drawing.arrow(x + 223, y + 60, x + 223, y + 80)
    drawing.box(x + 92, y + 84, 262, 48, PALE, radius=4)
    drawing.text(x + 102, y + 104, "journal/000001.jsonl")
    drawing.text(x + 102, y + 124, "then a receipt with checksums", size=15, fill=SOFT)
    side, top = 20, y + 164
    for row in range(4):
        for column in range(row + 1):
            drawing.box(x + column * side, top + row * side, side, side, GREEN)
    drawing.text(x, top - 10, "factor L of K + ridge I")
    drawing.arrow(x + 96, top + 40, x + 128, top + 40)
    drawing.cells(x + 140, top, 4, 1, side, GREEN)
    drawing.arrow(x + 172, top + 40, x + 204, top + 40)
    drawing.text(x + 214, top + 34, "predictions of")
    drawing.text(x + 214, top + 56, "the test images")
    drawing.text(x + 150, top + 98, "coefficients", size=15, anchor="middle")
    drawing.text(x, y + 286, "The solve goes tile by tile, too.")


def figure() -> str:
    """Return the figure as SVG."""
    drawing = Drawing(TITLE, DESCRIPTION, rows=2)
    for draw in (draw_pair, draw_planes, draw_tiles, draw_store):
        draw(drawing)
    return drawing.svg()


if __name__ == "__main__":
    Path(__file__).with_suffix(".svg").write_text(figure(), encoding="utf-8")
