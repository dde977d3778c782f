"""CSV files of dataclasses: rows are appended as they are computed."""

import csv
import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

R = TypeVar("R")


def read(path: Path, kind: type[R]) -> list[R]:
    """Read rows of a kind; a file that is not there has none."""
    if not path.exists():
        return []
    fields: Any = dataclasses.fields(kind)  # type: ignore[arg-type]
    with path.open(newline="") as file:
        return [kind(**{field.name: field.type(row[field.name]) for field in fields}) for row in csv.DictReader(file)]


def append(path: Path, rows: Iterable[Any]) -> None:
    """Append rows, below the names of the columns where the file is new; numbers have four digits."""
    begins = not path.exists()
    with path.open("a", newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        for row in rows:
            values = dataclasses.asdict(row)
            if begins:
                out.writerow(values)
                begins = False
            out.writerow(f"{value:.4g}" if isinstance(value, float) else value for value in values.values())
