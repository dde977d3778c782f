"""How all figures look: colours, fonts, and their form in a page, which fits a light and a dark one."""

import io
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from cntk_pipeline.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK = "#1f2328"
"""Colour of text and axes. In a page it becomes the colour of the page's text."""

PAPER = "#ffffff"
"""Background of a figure that is saved by itself."""

DARK_INK, DARK_PAPER = "#e6e8eb", "#15181c"
"""The same on a dark page."""

MUTED = "#7d8590"
"""Colour of what stays in the background: guides, other ridges."""

COLOURS = ("#2f81d6", "#d4700b", "#23956b", "#b25fd0", "#d64545", "#8a7a1f")
"""Colours of series. Each has a contrast of at least 3 to a light and to a dark page."""

MARKERS = ("o", "s", "^", "D", "v", "P")
"""Markers of series, so that nobody needs the colours."""

DENSE = "viridis"
"""The map from numbers to colours of a picture: even in lightness, also for people who see fewer colours."""

_SETTINGS: dict[str, Any] = {
    "axes.edgecolor": INK,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": "medium",
    "figure.facecolor": PAPER,
    "figure.constrained_layout.use": True,
    "font.size": 11.0,
    "grid.alpha": 0.25,
    "grid.color": MUTED,
    "legend.frameon": False,
    "legend.fontsize": "small",
    "lines.linewidth": 1.6,
    "lines.markersize": 5.0,
    "savefig.facecolor": "none",
    "svg.fonttype": "none",
    "svg.hashsalt": "cntk",
    "text.color": INK,
    "text.parse_math": False,  # names of users may hold a dollar sign
    "xtick.color": INK,
    "ytick.color": INK,
}


@contextmanager
def styled() -> Iterator[None]:
    """Apply the settings of all figures, for the time of a block.

    Raises
    ------
    ConfigError
        If matplotlib is not installed.
    """
    try:
        import matplotlib
    except ModuleNotFoundError:
        raise ConfigError("figures need matplotlib: pip install 'cntk-pipeline[report]'") from None
    with matplotlib.rc_context(_SETTINGS):
        yield


def new_figure(width: float, height: float) -> "Figure":
    """Make an empty figure, in inches; to be called within `styled`."""
    from matplotlib.figure import Figure

    if "IPython" in sys.modules:
        _show_in_notebooks(sys.modules["IPython"].get_ipython(), Figure)
    return Figure(figsize=(width, height))


def _show_in_notebooks(shell: Any, kind: "type[Figure]") -> None:
    # pyplot would do so, but only behind the cell that imports it: the first figure would be shown as its name.
    if shell is None:
        return
    formatters = shell.display_formatter.formatters
    if kind not in formatters["image/png"] and kind not in formatters["image/svg+xml"]:
        formatters["image/png"].for_type(kind, _to_png)


def _to_png(figure: "Figure") -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=figure.dpi, facecolor=figure.get_facecolor())
    return buffer.getvalue()


_FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, 'Liberation Sans', sans-serif"

_PAGE = (
    f"<style>svg{{color:{INK}}} text{{font-family:{_FONTS} !important}} "
    f"@media (prefers-color-scheme:dark){{svg{{color:{DARK_INK}}}}} @media print{{svg{{color:{INK}}}}}</style>"
)


def svg_of(figure: "Figure") -> str:
    """Write a figure as SVG for a page: transparent, with the colour of text of a light or a dark page.

    Text stays text. The same figure gives the same bytes.
    """
    content = io.StringIO()
    with styled():
        figure.savefig(content, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = content.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    return re.sub(r"<svg[^>]*>", lambda found: found.group() + _PAGE, text, count=1)
