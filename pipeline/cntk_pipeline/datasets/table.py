"""A data set in tables: CSV or Parquet, of features or of pictures."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, final

from cntk_pipeline.datasets.base import Dataset, Split, as_split
from cntk_pipeline.datasets.columns import (
    encode,
    feature_names,
    find_values,
    is_picture,
    is_text,
    listed,
    read_labels_of,
)
from cntk_pipeline.datasets.pictures import PictureLoader, read_pictures
from cntk_pipeline.datasets.reading import existing_path, reading
from cntk_pipeline.datasets.table_files import ENDINGS, class_names, read_table, require_names
from cntk_pipeline.datasets.targets import assemble
from cntk_pipeline.errors import DataError
from cntk_pipeline.inputs import as_sequences

USUAL_TARGETS = ("target", "label", "labels", "class", "y")
"""Names of the label column; the first existing one is taken where none is given."""

TRAIN_NAMES, TEST_NAMES = ("train",), ("test", "val", "valid", "validation")
"""Beginnings of the names of files of each part in a folder."""


@final
@dataclass(frozen=True)
class Table(PictureLoader):
    """Load a data set from a table: ``.csv`` or ``.tsv`` with a line of names, also ``.gz``, or ``.parquet``.

    Numbers and truth values are features. Text becomes a feature of 0 and 1 for each of its values, "column=value". A
    missing value is refused with its row and column. A Parquet column of encoded pictures gives images instead.

    Parameters
    ----------
    path : str
        The table; or a folder with tables whose names begin with ``train``, and with ``test``, ``val``, ``valid`` or
        ``validation``. Tables of one part are joined in the order of their names.
    test_path : str, optional
        The table of the test part. It may lack the labels.
    target : str or tuple of str, optional
        The label column; several are columns of numbers. By default the one called target, label, labels, class or y.
    features : tuple of str, optional
        The columns of features; all others by default. The name of a column of pictures is given here too, where a
        table has several.
    layout : {"features", "sequences"}
        What the columns are: features of their own, or the steps of a sequence of one channel, in the order of the
        table. Sequences of T steps become images of one row, (n, 1, T, 1).

    Raises
    ------
    ConfigError
        No path was given, or pyarrow is not installed.
    DataNotFound
        A file does not exist.
    DataError
        A table is damaged, lacks a column, a label or a feature, or has columns that are neither numbers nor text.
    """

    PLACES: ClassVar[tuple[str, ...]] = ("path", "test_path")

    test_path: str | None = None
    target: str | tuple[str, ...] | None = None
    features: tuple[str, ...] | None = None
    layout: Literal["features", "sequences"] = "features"

    def load(self) -> Dataset:
        """Read the tables and make images or features of them."""
        path = existing_path(self.path, "table", "a table, or a folder of tables")
        parts = {"train": [path]} if not path.is_dir() else _parts(path)
        if self.test_path is not None:
            parts["test"] = [existing_path(self.test_path, "table", "a table (data.test_path)")]
        tables = _read(parts)
        targets = self._targets(tables["train"], str(path))
        columns = self._features(tables["train"], targets, str(path))
        for part, table in tables.items():
            _require_columns(table, [*columns, *(targets if part == "train" else [])], str(parts[part][0]))
        labels = {
            part: read_labels_of(table, targets, str(parts[part][0]))
            for part, table in tables.items()
            if set(targets) <= set(table.column_names)
        }
        names = class_names(tables["train"], targets[0]) if len(targets) == 1 else targets
        if len(columns) == 1 and is_picture(tables["train"].schema.field(columns[0]).type):
            splits, notes = self._pictures(tables, columns[0], labels, path)
            features: tuple[str, ...] = ()
        else:
            splits, features, notes = _vectors(tables, columns, labels, str(path))
            if self.layout == "sequences":
                splits = {part: replace(split, images=as_sequences(split.images)) for part, split in splits.items()}
        data = assemble(
            f"table {path}",
            splits["train"],
            splits.get("test"),
            task=self.task,
            names=names,
            notes=notes,
            features=features,
        )
        is_one_target = data.task == "regression" and len(targets) == 1
        return replace(data, classes=tuple(targets)) if is_one_target else data

    def _targets(self, table: Any, where: str) -> list[str]:
        """Find the label columns."""
        if self.target is not None:
            return [self.target] if isinstance(self.target, str) else list(self.target)
        found = [name for name in USUAL_TARGETS if name in table.column_names]
        if not found:
            raise DataError(
                f"{where}: expected to know the label column; set data.target to one of {listed(table.column_names)}"
            )
        return found[:1]

    def _features(self, table: Any, targets: Sequence[str], where: str) -> list[str]:
        """Find the columns of features, or the column of pictures."""
        if self.features is not None:
            return list(self.features)
        pictures = [field.name for field in table.schema if is_picture(field.type)]
        if len(pictures) > 1:
            raise DataError(
                f"{where}: expected one column of pictures, got {listed(pictures)}; set data.features to one"
            )
        others = [name for name in table.column_names if name not in targets]
        if not others:
            raise DataError(f"{where}: expected columns beside {listed(targets)}, got none; add features")
        return pictures or others

    def _pictures(
        self, tables: dict[str, Any], column: str, labels: dict[str, Any], path: Path
    ) -> tuple[dict[str, Split], list[str]]:
        """Decode a column of pictures."""
        splits: dict[str, Split] = {}
        notes: list[str] = []
        for part, table in tables.items():
            cells = table.column(column).to_pylist()
            sources = [_source(cell, f"{path}: {part} row {row}, column {column!r}") for row, cell in enumerate(cells)]
            found = read_pictures([(io.BytesIO(content), name) for content, name in sources], f"{path}: {part}", self)
            known = labels.get(part)
            splits[part] = as_split(found.images, None if known is None else known[found.rows])
            notes += found.notes
        return splits, notes


def _read(parts: dict[str, list[Path]]) -> dict[str, Any]:
    """Read the tables of all parts. A column that is text in the first one is text in all: "1" is one of its values."""
    train, *_ = parts["train"]
    first = read_table(train)
    require_names(train, first)
    text = [field.name for field in first.schema if is_text(field.type)]
    return {
        part: _joined([first if file == train else read_table(file, text) for file in files], files[0])
        for part, files in parts.items()
    }


def _vectors(
    tables: dict[str, Any], columns: list[str], labels: dict[str, Any], where: str
) -> tuple[dict[str, Split], tuple[str, ...], list[str]]:
    """Make features of the columns, the same for both parts; return their names too."""
    values = find_values(list(tables.values()), columns, where)
    splits = {part: as_split(encode(table, columns, values, where), labels.get(part)) for part, table in tables.items()}
    notes = [
        f"{where}: column {column!r} of text is {len(found)} features of 0 and 1: {listed(found)}"
        for column, found in values.items()
    ]
    return splits, feature_names(columns, values), notes


def _parts(folder: Path) -> dict[str, list[Path]]:
    """Find the files of each part in a folder."""
    with reading(folder, "a readable folder"):
        files = sorted(path for path in folder.iterdir() if path.name.lower().endswith(ENDINGS))

    def beginning_with(names: Sequence[str]) -> list[Path]:
        return next((found for name in names if (found := [p for p in files if p.name.startswith(name)])), [])

    train, test = beginning_with(TRAIN_NAMES), beginning_with(TEST_NAMES)
    if not train:
        raise DataError(
            f"{folder}: expected tables named train.csv or train-*.parquet, got "
            f"{listed([path.name for path in files]) or 'no tables'}; set data.path to a table, or rename them"
        )
    return {"train": train} | ({"test": test} if test else {})


def _joined(tables: list[Any], where: Path) -> Any:
    """Join the tables of a part, which must have the same columns."""
    import pyarrow as pa

    with reading(where, "tables of the same columns", pa.ArrowException):
        return pa.concat_tables(tables, promote_options="permissive")


def _require_columns(table: Any, wanted: Sequence[str], where: str) -> None:
    """Raise `DataError` naming the first column that a table lacks."""
    missing = [name for name in wanted if name not in table.column_names]
    if missing:
        raise DataError(
            f"{where}: expected a column {missing[0]!r}, got {listed(table.column_names)}; correct data.target or "
            "data.features"
        )


def _source(cell: Any, where: str) -> tuple[bytes, str]:
    """Take the bytes of one picture, empty where there is none, with its name in messages."""
    content = cell.get("bytes") if isinstance(cell, dict) else cell
    return content or b"", where
