"""Columns of tables: numbers become features, text becomes a feature for each value, labels keep their type."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from cntk_pipeline.datasets.reading import require_memory
from cntk_pipeline.errors import DataError

MOST_VALUES = 1000
"""Largest number of different texts in a column of features."""

SHOWN = 8
"""Largest number of names that a message lists."""


def listed(names: Sequence[str]) -> str:
    """Join names; of many, only the first few."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def find_values(tables: Sequence[Any], columns: Sequence[str], where: str) -> dict[str, list[str]]:
    """List the values of each column of text, sorted, over all tables.

    Parameters
    ----------
    tables : sequence of pyarrow.Table
        The parts of a data set, which must agree in the types of their columns.
    columns : sequence of str
        The features.
    where : str
        Of the data set, for messages.

    Raises
    ------
    DataError
        If a column is neither of numbers nor of text, has a missing value, or more different texts than features are
        good for.
    """
    values: dict[str, list[str]] = {}
    for column in columns:
        parts = [table.column(column) for table in tables]
        for part in parts:
            _require_complete(part, column, where, "fill the column in, drop the rows, or name the features without it")
        if all(is_text(part.type) for part in parts):
            found = sorted({str(value) for part in parts for value in part.unique().to_pylist()})
            if len(found) > MOST_VALUES or (len(found) > SHOWN and len(found) == sum(map(len, parts))):
                raise DataError(
                    f"{where}: column {column!r}: expected a few different texts, got {len(found)}, too many for a "
                    "feature each; name the features without it: data.features = [...]"
                )
            values[column] = found
        elif not all(holds_numbers(part.type) for part in parts):
            raise DataError(
                f"{where}: column {column!r}: expected numbers or text in all parts, got "
                f"{' and '.join(sorted({str(part.type) for part in parts}))}; convert it, or name the features without "
                "it: data.features = [...]"
            )
    return values


def feature_names(columns: Sequence[str], values: dict[str, list[str]]) -> tuple[str, ...]:
    """Name the features of some columns: the column's name, or "column=value" for each value of text.

    Examples
    --------
    >>> feature_names(["size", "colour"], {"colour": ["blue", "red"]})
    ('size', 'colour=blue', 'colour=red')
    """
    return tuple(
        name
        for column in columns
        for name in ([f"{column}={value}" for value in values[column]] if column in values else [column])
    )


def encode(table: Any, columns: Sequence[str], values: dict[str, list[str]], where: str) -> npt.NDArray[np.float64]:
    """Make features ``(n, features)`` of some columns, in the order of `feature_names`.

    Raises
    ------
    DataError
        If they take more memory than there is.
    """
    names = feature_names(columns, values)
    require_memory(table.num_rows * len(names) * 8, where)
    features = np.zeros((table.num_rows, len(names)))
    place = 0
    for column in columns:
        cells = table.column(column)
        if column in values:
            number = {value: k for k, value in enumerate(values[column])}
            rows = [number[str(value)] for value in cells.to_pylist()]
            features[np.arange(len(rows)), place + np.array(rows, np.int64)] = 1.0
            place += len(values[column])
        else:
            features[:, place] = _numbers(cells)
            place += 1
    return features


def read_labels_of(table: Any, columns: Sequence[str], where: str) -> npt.NDArray[Any]:
    """Read the label columns of a table: (n,) of any type, or (n, columns) numbers.

    Raises
    ------
    DataError
        If a label is missing, or several columns are not all of numbers.
    """
    parts = [table.column(column) for column in columns]
    for column, part in zip(columns, parts, strict=True):
        _require_complete(part, column, where, "fill the column in, or drop the rows")
    if len(parts) == 1 and is_text(parts[0].type):
        return np.array([str(value) for value in parts[0].to_pylist()])
    for column, part in zip(columns, parts, strict=True):
        if not holds_numbers(part.type):
            wanted = "numbers" if len(parts) > 1 else "numbers or text"
            raise DataError(f"{where}: column {column!r}: expected {wanted} as labels, got {part.type}; convert it")
    if len(parts) == 1:
        return parts[0].to_numpy() if _is_plain(parts[0].type) else _numbers(parts[0])
    return np.stack([_numbers(part) for part in parts], axis=1)


def _require_complete(cells: Any, column: str, where: str, remedy: str) -> None:
    """Raise `DataError` naming the first missing value; a NaN is one as well."""
    import pyarrow.compute as pc

    missing = cells.is_null(nan_is_null=True)
    row = pc.index(missing, True).as_py()
    if row >= 0:
        if not where.lower().endswith(".parquet"):
            remedy += ". In a table of text an empty cell, NA, N/A, NaN and null are none: write such a value otherwise"
        raise DataError(
            f"{where}: column {column!r}: expected a value in each row, got none in row {row} (and "
            f"{pc.sum(missing).as_py() - 1} more); {remedy}"
        )


def _numbers(cells: Any) -> npt.NDArray[np.float64]:
    import pyarrow as pa

    return cells.cast(pa.float64(), safe=False).to_numpy().astype(np.float64, copy=False)


def is_text(kind: Any) -> bool:
    """Tell whether a column of a type holds texts."""
    import pyarrow as pa

    inner = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(inner) or pa.types.is_large_string(inner)


def _is_plain(kind: Any) -> bool:
    import pyarrow as pa

    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)


def holds_numbers(kind: Any) -> bool:
    """Tell whether a column of a type holds numbers or truth values."""
    import pyarrow as pa

    return _is_plain(kind) or pa.types.is_decimal(kind)


def is_picture(kind: Any) -> bool:
    """Tell whether a column of a type holds encoded pictures: bytes, or a struct with a field ``bytes``."""
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return any(field.name == "bytes" and is_picture(field.type) for field in kind)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
