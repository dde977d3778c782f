"""Draws planes.svg: the offsets of two images, the entries that share one, and the planes that networks need.

Run it from anywhere: ``python docs/figures/planes.py``. It writes the figure beside itself and needs the standard
library only.
"""

from collections.abc import Callable
from pathlib import Path

from drawing import BLUE, GREEN, GROUND, ORANGE, PALE, SOFT, Drawing

SIDE = 5  # pixels of an image, in both directions

TITLE = "Planes: entries of equal offset"
DESCRIPTION = (
    "Four panels. One: the covariances of two rows of six pixels as a table of six by six entries; entries of equal "
    "offset lie on a diagonal; a window mean reads three neighbours on one diagonal. Two: the offsets of two images of "
    "five by five pixels, nine by nine of them, each with its number of entries, from 25 in the middle to 1 in the "
    "corners. Three: the planes that a network needs: Flatten the one in the middle, local average pooling of radius 1 "
    "the five by five around it, global average pooling all. Four: in front of a layer of stride 2, every second one."
)


def draw_row(drawing: Drawing) -> None:
    """Show the entries of two rows of pixels, and what a window mean reads."""
    x, y = drawing.panel(0, 0, "1. Two rows of six pixels")
    side, left, top = 36, x + 30, y + 36
    for row in range(6):
        drawing.text(left - 14, top + row * side + 24, f"{row}", anchor="middle", fill=SOFT)
        drawing.text(left + row * side + 18, top - 8, f"{row}", anchor="middle", fill=SOFT)
        for column in range(6):
            offset = column - row
            read = offset == 1 and 1 <= row <= 3
            fill = ORANGE if read else BLUE if offset == 0 else PALE
            drawing.box(left + column * side, top + row * side, side, side, fill)
            drawing.text(
                left + column * side + side / 2, top + row * side + 24, f"{offset}", anchor="middle", bold=read
            )
    drawing.text(left + 6 * side + 12, top + 24, "rows: pixel p")
    drawing.text(left + 6 * side + 12, top + 48, "columns: q")
    drawing.text(left + 6 * side + 12, top + 84, "number:")
    drawing.text(left + 6 * side + 12, top + 106, "offset q - p")
    drawing.text(x, y + 276, "A window of 3 at (2, 3) reads the orange entries.", size=15)


def draw_sizes(drawing: Drawing) -> None:
    """Show how many entries each plane has."""
    x, y = drawing.panel(1, 0, "2. Images of 5 x 5: 81 planes")
    _draw_offsets(drawing, x + 30, y + 26, lambda dy, dx: BLUE if dy == dx == 0 else PALE, numbers=True)
    drawing.text(x, y + 276, "Plane (dy, dx) has (5 - |dy|)(5 - |dx|) entries.", size=15)


def draw_needs(drawing: Drawing) -> None:
    """Show which planes three read-outs need."""
    x, y = drawing.panel(0, 1, "3. The planes that are needed")

    def fill(dy: int, dx: int) -> str:
        if dy == dx == 0:
            return BLUE
        return GREEN if max(abs(dy), abs(dx)) <= 2 else PALE

    _draw_offsets(drawing, x + 30, y + 10, fill)
    for line, (color, words) in enumerate(((BLUE, "Flatten"), (GREEN, "+ local"), (PALE, "+ global"))):
        drawing.box(x + 272, y + 40 + 34 * line, 16, 16, color)
        drawing.text(x + 294, y + 54 + 34 * line, words, size=15)
    drawing.text(x, y + 264, "Local pooling of radius 1 needs offsets up to 2,", size=15)
    drawing.text(x, y + 286, "global pooling needs all of them.", size=15)


def draw_stride(drawing: Drawing) -> None:
    """Show which planes are needed in front of a stride."""
    x, y = drawing.panel(1, 1, "4. In front of a stride of 2")
    _draw_offsets(drawing, x + 30, y + 10, lambda dy, dx: GROUND if dy % 2 or dx % 2 else PALE)
    drawing.text(x, y + 264, "Every second offset: 25 of 81 planes. Behind it", size=15)
    drawing.text(x, y + 286, "the images have 3 x 3 pixels, and 25 offsets.", size=15)


def _draw_offsets(
    drawing: Drawing, left: float, top: float, fill: Callable[[int, int], str], numbers: bool = False
) -> None:
    side = 25.5
    for row, dy in enumerate(range(1 - SIDE, SIDE)):
        for column, dx in enumerate(range(1 - SIDE, SIDE)):
            drawing.box(left + column * side, top + row * side, side, side, fill(dy, dx))
            if numbers:
                count = (SIDE - abs(dy)) * (SIDE - abs(dx))
                drawing.text(left + (column + 0.5) * side, top + row * side + 17, f"{count}", 12, anchor="middle")


def figure() -> str:
    """Return the figure as SVG."""
    drawing = Drawing(TITLE, DESCRIPTION, rows=2)
    for draw in (draw_row, draw_sizes, draw_needs, draw_stride):
        draw(drawing)
    return drawing.svg()


if __name__ == "__main__":
    Path(__file__).with_suffix(".svg").write_text(figure(), encoding="utf-8")
