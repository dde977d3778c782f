"""SVG elements for the figures of the documentation, with the standard library only.

Each panel has a light ground of its own, so that its text reads on a light and on a dark page.
"""

from dataclasses import dataclass, field
from html import escape

GAP, PANEL_WIDTH, PANEL_HEIGHT = 8, 392, 344

INK, SOFT, GROUND, EDGE = "#1c2128", "#4a5361", "#f7f8fa", "#8b95a3"
PALE, BLUE, ORANGE, GREEN = "#dfe5ec", "#4a86c5", "#e08a2e", "#3f9a62"


@dataclass(frozen=True)
class Drawing:
    """SVG elements, in the order in which they are drawn.

    Parameters
    ----------
    title : str
        What a reader of the screen says first.
    description : str
        What the figure shows, in words.
    rows : int
        Of panels; two lie side by side in each.
    """

    title: str
    description: str
    rows: int
    elements: list[str] = field(default_factory=list)

    def box(
        self, x: float, y: float, width: float, height: float, fill: str, edge: str = EDGE, radius: int = 0
    ) -> None:
        """Draw a rectangle."""
        self.elements.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{radius}" fill="{fill}" '
            f'stroke="{edge}"/>'
        )

    def cells(self, x: float, y: float, rows: int, columns: int, side: float, fill: str) -> None:
        """Draw a grid of squares."""
        for row in range(rows):
            for column in range(columns):
                self.box(x + column * side, y + row * side, side, side, fill)

    def text(
        self, x: float, y: float, words: str, size: int = 16, fill: str = INK, anchor: str = "start", bold: bool = False
    ) -> None:
        """Write a line."""
        weight = ' font-weight="bold"' if bold else ""
        self.elements.append(
            f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{fill}" text-anchor="{anchor}"{weight}>'
            f"{escape(words)}</text>"
        )

    def arrow(self, x: float, y: float, to_x: float, to_y: float, color: str = INK) -> None:
        """Draw a line with a head at its end, which points right or left, or down where x stays the same."""
        back = to_x - 8 if to_x > x else to_x + 8
        head = f"M{back:g} {to_y - 5:g}L{to_x:g} {to_y:g}L{back:g} {to_y + 5:g}"
        if x == to_x:
            head = f"M{to_x - 5:g} {to_y - 8:g}L{to_x:g} {to_y:g}L{to_x + 5:g} {to_y - 8:g}"
        self.elements.append(
            f'<path d="M{x:g} {y:g}L{to_x:g} {to_y:g}{head}" fill="none" stroke="{color}" stroke-width="2"/>'
        )

    def panel(self, column: int, row: int, title: str) -> tuple[float, float]:
        """Draw a panel with its title; return where what it shows begins."""
        x, y = GAP / 2 + column * (PANEL_WIDTH + GAP), GAP / 2 + row * (PANEL_HEIGHT + GAP)
        self.box(x, y, PANEL_WIDTH, PANEL_HEIGHT, GROUND, radius=8)
        self.text(x + 16, y + 32, title, size=20, bold=True)
        return x + 16, y + 48

    def svg(self) -> str:
        """Return the whole figure."""
        width, height = 2 * (PANEL_WIDTH + GAP), self.rows * (PANEL_HEIGHT + GAP)
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
                f'height="{height}" font-family="DejaVu Sans, Verdana, Arial, sans-serif" role="img" '
                'aria-labelledby="title description">',
                f'<title id="title">{escape(self.title)}</title>',
                f'<desc id="description">{escape(self.description)}</desc>',
                *self.elements,
                "</svg>\n",
            ]
        )
