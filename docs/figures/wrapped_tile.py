"""Draws wrapped_tile.svg: four planes that fill a square, which row meets which, and what a window reads there.

Run it from anywhere: ``python docs/figures/wrapped_tile.py``. It writes the figure beside itself and needs the standard
library only.
"""

from pathlib import Path

from drawing import BLUE, GREEN, INK, ORANGE, PALE, SOFT, Drawing

SIDE, DOWN, RIGHT = 5, 2, 1  # pixels of an image in both directions, and the offset of the tile

TITLE = "A wrapped tile: four planes in one square"
DESCRIPTION = (
    "Two panels, for images of five by five pixels and the tile of offset (2, 1). One: row r of image x meets row "
    "r + 2 of image z, counted from the start again behind row 4. So rows 0, 1 and 2 have the offset 2, and rows 3 and "
    "4 the offset minus 3; between them lies a seam. Two: columns do the same with the offsets 1 and minus 4, and the "
    "tile of five by five entries holds four whole planes: (2, 1) with 12 entries, (2, -4) with 3, (-3, 1) with 8 and "
    "(-3, -4) with 2. A window of three by three at row 2 and column 1 reads its own row and the row above; the three "
    "entries below lie behind the seam and have the factor 0."
)
BELOW, BESIDE = SIDE - DOWN, SIDE - RIGHT  # the first row and the first column behind the seams
COLORS = {(False, False): PALE, (False, True): GREEN, (True, False): BLUE, (True, True): ORANGE}


def draw_rows(drawing: Drawing) -> None:
    """Show which row of the right image each row of the left one meets."""
    x, y = drawing.panel(0, 0, "1. Rows of offset 2")
    drawing.text(x + 66, y + 22, "row of x", size=15, anchor="middle")
    drawing.text(x + 206, y + 22, "row of z", size=15, anchor="middle")
    for row in range(SIDE):
        top, wraps = y + 36 + 36 * row + 20 * (row >= BELOW), row >= BELOW
        for left, number in ((x + 46, row), (x + 186, (row + DOWN) % SIDE)):
            drawing.box(left, top, 40, 26, BLUE if wraps else PALE, radius=4)
            drawing.text(left + 20, top + 19, f"{number}", anchor="middle")
        drawing.arrow(x + 92, top + 13, x + 180, top + 13)
        drawing.text(x + 246, top + 19, f"offset {DOWN - SIDE * wraps}", size=15)
    seam = y + 36 + 36 * BELOW + 5
    drawing.box(x + 20, seam - 1.5, 320, 3, INK, edge=INK)
    drawing.text(x, y + 264, "Row r meets row (r + 2) mod 5. No window", size=15)
    drawing.text(x, y + 286, "reaches over the seam, the thick line.", size=15)


def draw_tile(drawing: Drawing) -> None:
    """Show the planes of a tile, and a window beside a seam."""
    x, y = drawing.panel(1, 0, "2. The tile of offset (2, 1)")
    side, left, top = 40, x + 6, y + 14
    window = (2, 1)
    for row in range(SIDE):
        for column in range(SIDE):
            fill = COLORS[row >= BELOW, column >= BESIDE]
            drawing.box(left + column * side, top + row * side, side, side, fill)
            if max(abs(row - window[0]), abs(column - window[1])) <= 1:
                factor = int((row >= BELOW) == (window[0] >= BELOW))
                drawing.text(
                    left + (column + 0.5) * side, top + row * side + 26, f"{factor}", anchor="middle", bold=True
                )
    for place, start, length, is_row in ((BELOW, left, SIDE * side, True), (BESIDE, top, SIDE * side, False)):
        if is_row:
            drawing.box(start, top + place * side - 1.5, length, 3, INK, edge=INK)
        else:
            drawing.box(left + place * side - 1.5, start, 3, length, INK, edge=INK)
    for line, ((below, beside), color) in enumerate(COLORS.items()):
        offset = (DOWN - SIDE * below, RIGHT - SIDE * beside)
        count = (SIDE - abs(offset[0])) * (SIDE - abs(offset[1]))
        height = top + 14 + 44 * line
        drawing.box(x + 226, height, 16, 16, color)
        drawing.text(x + 250, height + 14, f"({offset[0]}, {offset[1]})".replace("-", "\N{MINUS SIGN}"), size=15)
        drawing.text(x + 250, height + 33, f"{count} entries", size=13, fill=SOFT)
    drawing.text(x, y + 242, "12 + 3 + 8 + 2 = 25: the square is full.", size=15)
    drawing.text(x, y + 264, "Numbers: the factors of a window of 3 x 3", size=15)
    drawing.text(x, y + 286, "around row 2, column 1.", size=15)


def figure() -> str:
    """Return the figure as SVG."""
    drawing = Drawing(TITLE, DESCRIPTION, rows=1)
    draw_rows(drawing)
    draw_tile(drawing)
    return drawing.svg()


if __name__ == "__main__":
    Path(__file__).with_suffix(".svg").write_text(figure(), encoding="utf-8")
