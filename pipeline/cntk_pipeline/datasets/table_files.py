"""Files of tables: CSV and Parquet, bounded in memory before they are read."""

import codecs
import gzip
import itertools
import json
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

from cntk_pipeline.datasets.reading import open_file, optional_import, reading, require_memory
from cntk_pipeline.errors import DataError

TEXT = {".csv": ",", ".tsv": "\t"}
"""Endings of tables of text, with their separators; ``.gz`` may follow."""

ENDINGS = (*TEXT, *(f"{ending}.gz" for ending in TEXT), ".parquet")

SEPARATORS = (",", ";", "\t", "|")
"""Separators that tables of text have; the ending of the file tells which one is read."""

_SPELT = {",": "commas", "\t": "tabs"}

BLOCK = 2**20

VALUE_BYTES = 16
"""Bytes that a value of a table of text takes: as it is read, and as a feature."""


def read_table(path: Path, text: Collection[str] = ()) -> Any:
    """Read a table.

    Parameters
    ----------
    path : Path
        Its ending tells the format: ``.csv`` and ``.tsv`` with a line of names, also ``.gz``, or ``.parquet``.
    text : collection of str
        Columns that are text in a ``.csv`` or ``.tsv``, even if each of their values is a number.

    Raises
    ------
    DataError
        If it has another ending, is damaged, has no rows, two columns of one name, or is larger than the memory.
    ConfigError
        If pyarrow is not installed.
    """
    with optional_import(path):
        import pyarrow as pa
    broken = (pa.ArrowException, ValueError, EOFError, zlib.error, UnicodeDecodeError, OverflowError, KeyError)
    with reading(path, "a table (.csv, .tsv or .parquet)", *broken):
        table = _read_parquet(path) if path.suffix.lower() == ".parquet" else _read_text(path, text)
        names = table.column_names
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        require_names(path, table)
        raise DataError(f"{path}: expected columns of different names, got {twice[0]!r} twice; rename one")
    if not table.num_rows:
        raise DataError(f"{path}: expected at least one row, got none; make the table again")
    return table


def _read_parquet(path: Path) -> Any:
    import pyarrow.parquet as pq

    with open_file(path) as file:
        found = pq.ParquetFile(file)
        groups = (found.metadata.row_group(number) for number in range(found.metadata.num_row_groups))
        require_memory(sum(max(group.total_byte_size, 0) for group in groups), path)
        table = found.read()
        table.validate(full=True)  # a damaged text would be found later, and not as such
        return table


def require_names(path: Path, table: Any) -> None:
    """Refuse a table of text whose first line is a row of numbers: it would be taken for the names of the columns.

    Whole numbers that ascend are names all the same, as pandas writes them for columns without names.

    Raises
    ------
    DataError
        With the line.
    """
    names = table.column_names
    if path.suffix.lower() == ".parquet" or not all(map(_reads_as_number, names)):
        return
    values = [float(name) for name in names]
    if all(name.isdecimal() for name in names) and all(a < b for a, b in itertools.pairwise(values)):
        return
    raise DataError(
        f"{path}: expected the names of the columns in the first line, got numbers ({', '.join(names[:4])}, ...); put "
        "a line of names above them"
    )


def _reads_as_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text  # "0_1" is a number in Python, but hardly in a table


def _require_text(path: Path, begin: bytes, separator: str) -> None:
    """Refuse a table of text by its beginning: in another encoding than UTF-8, or with another separator.

    Raises
    ------
    DataError
        With what to save it as.
    """
    if begin.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DataError(f"{path}: expected text in UTF-8, got UTF-16; save the table in UTF-8")
    line = begin.splitlines()[0] if begin else b""
    try:
        names = line.decode()
    except UnicodeDecodeError:
        if len(line) == len(begin):  # the block may end within a character
            return
        raise DataError(f"{path}: expected names of columns in UTF-8, got {line!r}; save the table in UTF-8") from None
    other = next((each for each in SEPARATORS if each != separator and each in names), None)
    if other is not None and separator not in names and '"' not in names:
        raise DataError(
            f"{path}: expected columns separated by {_SPELT[separator]}, got {_SPELT.get(other, repr(other))} in the "
            f"line of names {names!r}; save the table with {_SPELT[separator]}, or where this is the name of one "
            "column, put it in quotes"
        )


def _read_text(path: Path, text: Collection[str]) -> Any:
    import pyarrow as pa
    import pyarrow.csv as pc

    ending = next((ending for ending in TEXT if path.name.lower().removesuffix(".gz").endswith(ending)), None)
    if ending is None:
        raise DataError(f"{path}: expected a table, named like one of {', '.join(ENDINGS)}; rename or convert it")
    separator = TEXT[ending]
    with open_file(path) as file:
        unpacked = gzip.GzipFile(fileobj=file) if path.suffix.lower() == ".gz" else file
        values = total = 0
        while block := unpacked.read(BLOCK):
            if not total:
                _require_text(path, block, separator)
            total += len(block)
            values += block.count(separator.encode()) + block.count(b"\n")
            require_memory(total + values * VALUE_BYTES, path)
    with open_file(path) as file:
        unpacked = gzip.GzipFile(fileobj=file) if path.suffix.lower() == ".gz" else file
        types = dict.fromkeys(text, pa.string())
        try:
            table = pc.read_csv(
                unpacked,
                parse_options=pc.ParseOptions(delimiter=separator, newlines_in_values=True),
                convert_options=pc.ConvertOptions(strings_can_be_null=True, column_types=types),
            )
        except pa.ArrowInvalid as error:
            if "invalid UTF8" not in str(error):
                raise
            raise DataError(  # of a column that is known to be text
                f"{path}: expected text in UTF-8, got other bytes ({error}); save the table in UTF-8"
            ) from error
    garbled = [field.name for field in table.schema if pa.types.is_binary(field.type)]
    if garbled:  # pyarrow takes text in another encoding for bytes, and bytes would be pictures
        raise DataError(
            f"{path}: column {garbled[0]!r}: expected text in UTF-8, got other bytes; save the table in UTF-8"
        )
    return table


def class_names(table: Any, column: str) -> list[str] | None:
    """Read the names of the classes of a column of class numbers, as the Hugging Face hub keeps them in a table."""
    try:
        features = json.loads((table.schema.metadata or {})[b"huggingface"])["info"]["features"]
        names = features[column]["names"]
    except (KeyError, TypeError, ValueError):
        return None
    is_list = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return names if is_list and len(set(names)) == len(names) else None
