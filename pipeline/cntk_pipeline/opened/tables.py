"""Tables of results for people: as text, as HTML in a notebook, as a pandas frame."""

import html
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, overload

from cntk_pipeline.errors import ConfigError
from cntk_pipeline.inference import Shown

_LEFT_OUT = ("name", "inferred")
"""Fields of a `SolveReport` that are no number and no name for people."""

STYLE = (
    "border-collapse:collapse;font-variant-numeric:tabular-nums",
    "text-align:left;padding:2px 12px 2px 0;border-bottom:1px solid;font-weight:600",
    "padding:2px 12px 2px 0;border:0",
)
"""Of a table, its heads and its cells: colours are the notebook's own, so that light and dark pages show it well."""


@dataclass(frozen=True)
class Table(Sequence[Any]):
    """Rows of one kind, each a frozen dataclass; shown as a table.

    Attributes
    ----------
    rows : tuple
        The rows.
    columns : tuple of str
        Names of the fields that are shown.
    """

    rows: tuple[Any, ...]
    columns: tuple[str, ...]

    @classmethod
    def of(cls, rows: Sequence[Any]) -> "Table":
        """Make a table of the fields that have a value in at least one row."""
        names = [field.name for field in fields(rows[0])] if rows else []
        shown = [name for name in names if name not in _LEFT_OUT]
        return cls(tuple(rows), tuple(name for name in shown if any(getattr(row, name) is not None for row in rows)))

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> "Table": ...
    def __getitem__(self, index: int | slice) -> Any:
        """Return a row; of a slice, a table."""
        return Table(self.rows[index], self.columns) if isinstance(index, slice) else self.rows[index]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.rows)

    @property
    def texts(self) -> list[list[str]]:
        """The cells as texts, row by row."""
        return [[_text(getattr(row, name)) for name in self.columns] for row in self.rows]

    def __repr__(self) -> str:
        return as_text(self.columns, self.texts) if self.rows else "no rows"

    def _repr_html_(self) -> str:
        return as_html(self.columns, self.texts)

    def to_pandas(self) -> Any:
        """Return the table as a `pandas.DataFrame`.

        Raises
        ------
        ConfigError
            If pandas is not installed.
        """
        try:
            import pandas
        except ModuleNotFoundError:
            raise ConfigError("to_pandas() needs pandas: pip install 'cntk-pipeline[xarray]'") from None
        return pandas.DataFrame([{name: getattr(row, name) for name in self.columns} for row in self.rows])


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, tuple):
        return ", ".join(map(_text, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def as_text(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out texts in columns: the first one to the left, the others to the right."""
    lines = [list(columns), *map(list, rows)]
    widths = [max(len(line[k]) for line in lines) for k in range(len(columns))]
    laid = (
        "  ".join([line[0].ljust(widths[0]), *(line[k].rjust(widths[k]) for k in range(1, len(widths)))]).rstrip()
        for line in lines
    )
    return "\n".join(laid)


def as_html(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out texts as a table in HTML, in the colours of the page."""
    table, head, cell = STYLE
    heads = "".join(f'<th style="{head}">{html.escape(name)}</th>' for name in columns)
    body = "".join(
        "<tr>" + "".join(f'<td style="{cell}">{html.escape(text)}</td>' for text in row) + "</tr>" for row in rows
    )
    return f'<table style="{table}"><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>'


def shown_text(shown: Shown) -> str:
    """Write the table of a result of inference as text."""
    return f"{shown.title}\n{as_text((shown.first, *shown.columns), shown.rows)}"


def shown_html(shown: Shown) -> str:
    """Write the table of a result of inference in HTML."""
    return f"<div>{html.escape(shown.title)}</div>{as_html((shown.first, *shown.columns), shown.rows)}"
