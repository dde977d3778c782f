"""The bars of stages, as `cntk run` and `cntk status --watch` draw them."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cntk_pipeline.cli.console import overflow, printable
from cntk_pipeline.units import bytes_text

WIDEST = 120
"""Columns that the bars take at most."""


@dataclass(frozen=True)
class Bar:
    """A row: a stage, or the phase that it belongs to.

    Attributes
    ----------
    name : str
        Of the stage or phase.
    done, total : int
        Tiles.
    rate, left : str
        In words; "" where they are not known.
    written_bytes : int
        0 is not shown.
    is_sum : bool
        Whether the row is the sum of rows above it.
    """

    name: str
    done: int
    total: int
    rate: str = ""
    left: str = ""
    written_bytes: int = 0
    is_sum: bool = False

    @property
    def is_finished(self) -> bool:
        """Whether all tiles are done."""
        return self.done >= self.total


def draw_bars(bars: Sequence[Bar], width: int) -> Table:
    """Draw bars, one a line, in at most ``width`` columns."""
    table = Table.grid(padding=(0, 2, 0, 0), expand=True)
    table.width = min(width, WIDEST)
    table.add_column(no_wrap=True, overflow=overflow())
    table.add_column(ratio=1)
    for justify in ("right", "right", "left", "right"):
        table.add_column(justify=justify, no_wrap=True, overflow=overflow())  # type: ignore[arg-type]
    for bar in bars:
        style = "bold" if bar.is_sum else ""
        texts = (f"{bar.done}/{bar.total}", bar.rate, bar.left, _written(bar))
        table.add_row(
            Text(printable(bar.name), style),
            ProgressBar(total=max(bar.total, 1), completed=bar.done if bar.total else 1),
            *(Text(printable(text), style) for text in texts),
        )
    return table


def _written(bar: Bar) -> str:
    return bytes_text(bar.written_bytes) if bar.written_bytes else ""
