"""Files of tables: CSV and Parquet, bounded in memory before they are read."""

import gzip
import json
import zlib
from pathlib import Path
from typing import Any

from cntk_pipeline.datasets.reading import open_file, optional_import, reading, require_memory
from cntk_pipeline.errors import DataError

TEXT = {".csv": ",", ".tsv": "\t"}
"""Endings of tables of text, with their separators; ``.gz`` may follow."""

ENDINGS = (*TEXT, *(f"{ending}.gz" for ending in TEXT), ".parquet")

BLOCK = 2**20

VALUE_BYTES = 16
"""Bytes that a value of a table of text takes: as it is read, and as a feature."""


def read_table(path: Path) -> Any:
    """Read a table.

    Parameters
    ----------
    path : Path
        Its ending tells the format: ``.csv`` and ``.tsv`` with a line of names, also ``.gz``, or ``.parquet``.

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
        table = _read_parquet(path) if path.suffix == ".parquet" else _read_text(path)
        names = table.column_names
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
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


def _read_text(path: Path) -> Any:
    import pyarrow.csv as pc

    ending = next((ending for ending in TEXT if path.name.lower().removesuffix(".gz").endswith(ending)), None)
    if ending is None:
        raise DataError(f"{path}: expected a table, named like one of {', '.join(ENDINGS)}; rename or convert it")
    separator = TEXT[ending]
    with open_file(path) as file:
        unpacked = gzip.GzipFile(fileobj=file) if path.suffix == ".gz" else file
        values = total = 0
        while block := unpacked.read(BLOCK):
            total += len(block)
            values += block.count(separator.encode()) + block.count(b"\n")
            require_memory(total + values * VALUE_BYTES, path)
    with open_file(path) as file:
        unpacked = gzip.GzipFile(fileobj=file) if path.suffix == ".gz" else file
        return pc.read_csv(
            unpacked,
            parse_options=pc.ParseOptions(delimiter=separator, newlines_in_values=True),
            convert_options=pc.ConvertOptions(strings_can_be_null=True),
        )


def class_names(table: Any, column: str) -> list[str] | None:
    """Read the names of the classes of a column of class numbers, as the Hugging Face hub keeps them in a table."""
    try:
        features = json.loads((table.schema.metadata or {})[b"huggingface"])["info"]["features"]
        names = features[column]["names"]
    except (KeyError, TypeError, ValueError):
        return None
    is_list = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return names if is_list and len(set(names)) == len(names) else None
