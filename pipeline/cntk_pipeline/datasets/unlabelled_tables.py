"""Features of tables without labels, encoded like those of another table."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cntk_pipeline.datasets.columns import encode, holds_numbers, is_picture, listed
from cntk_pipeline.errors import DataError


def picture_column(table: Any, where: str) -> str | None:
    """Find the column of encoded pictures; None where there is none.

    Raises
    ------
    DataError
        If there are several.
    """
    found = [field.name for field in table.schema if is_picture(field.type)]
    if len(found) > 1:
        raise DataError(f"{where}: expected one column of pictures, got {listed(found)}; leave one in the table")
    return found[0] if found else None


def columns_of(names: Sequence[str], columns: Sequence[str], where: str) -> list[str]:
    """Find the columns that features were made of, each once; arguments and errors as in `features_of`.

    Examples
    --------
    >>> columns_of(["size", "colour=blue", "colour=red"], ["note", "colour", "size"], "a table")
    ['size', 'colour']
    """
    found: dict[str, None] = {}
    for name in names:
        column = _column_of(name, columns)
        if column is None:
            raise DataError(
                f"{where}: expected a column for the feature {name!r}, got {listed(columns)}; name the columns as in "
                "the table that the run was trained on"
            )
        found[column] = None
    return list(found)


def features_of(table: Any, names: tuple[str, ...], where: str) -> npt.NDArray[np.float64]:
    """Make features ``(n, features)`` of a table; further columns, such as labels, are not read.

    Parameters
    ----------
    table : pyarrow.Table
    names : tuple of str
        The features: the name of a column of numbers, or "column=value" for a column of text. An empty tuple takes all
        columns of numbers.
    where : str
        Of the table, for messages.

    Raises
    ------
    DataError
        If a feature has no column, or a text is none of the known values.
    """
    if not names:
        names = tuple(field.name for field in table.schema if holds_numbers(field.type))
    values: dict[str, list[str]] = {}
    columns = columns_of(names, table.column_names, where)
    for name in names:
        column = _column_of(name, columns)
        if column is not None and column != name:
            values.setdefault(column, []).append(name.removeprefix(f"{column}="))
    for column, known in values.items():
        for row, cell in enumerate(table.column(column).to_pylist()):
            if str(cell) not in known:
                raise DataError(
                    f"{where}: column {column!r}: expected one of {listed(known)}, as in the table that the run was "
                    f"trained on, got {cell!r} in row {row}; correct it"
                )
    for column in columns:
        if column not in values and not holds_numbers(table.schema.field(column).type):
            raise DataError(
                f"{where}: column {column!r}: expected numbers, got {table.schema.field(column).type}; convert it"
            )
    return encode(table, columns, values, where)


def _column_of(feature: str, columns: Sequence[str]) -> str | None:
    """Find the column that a feature was made of: that of its name, or the longest one before an equals sign."""
    if feature in columns:
        return feature
    return max((name for name in columns if feature.startswith(f"{name}=")), key=len, default=None)
