"""The one way to read records of a run directory: a file of bounded size, checked by a model.

All damage of a record gives the same error, which names the file, the field, and the remedy. JSON is read by pydantic,
which refuses values nested some hundred deep, and numbers of thousands of digits.
"""

import json
import re
import reprlib
from functools import cached_property
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

from cntk_pipeline.errors import StoreError
from cntk_pipeline.models import Json
from cntk_pipeline.storage.base import StorePath

RECORD_BYTES = 16 * 2**20
"""Largest size of a record: the longest one, of conjugate gradients, has this size after 600,000 iterations."""

_NUMBER = re.compile(r"[0-9]{6,15}")

_T = TypeVar("_T")


class Record(Generic[_T]):
    """A kind of record.

    Parameters
    ----------
    model : type
        Of its content: a frozen dataclass or a `TypedDict`, with the configuration `STRICT`.
    remedy : str
        For a damaged record, as a sentence that begins with a small letter.
    limit : int
        Its largest size in bytes.
    """

    def __init__(self, model: Any, remedy: str, limit: int = RECORD_BYTES) -> None:
        self._model = model
        self._remedy = remedy
        self.limit = limit

    @cached_property
    def _adapter(self) -> TypeAdapter[_T]:
        # Made on first use: a command reads a few of thirty kinds.
        return TypeAdapter(self._model)

    def read(self, path: StorePath) -> _T:
        """Read a record.

        Raises
        ------
        FileNotFoundError
            If there is none.
        StoreError
            If it is damaged, or no file lies in its place.
        """
        return self.parse(path.read_bytes(self.limit), path)

    def find(self, path: StorePath) -> _T | None:
        """Read a record; None where there is none."""
        try:
            return self.read(path)
        except FileNotFoundError:
            return None

    def parse(self, content: bytes, where: object) -> _T:
        """Read the content of a record; ``where`` names it in errors."""
        try:
            return self._adapter.validate_json(content)
        except ValidationError as error:
            raise self._error(error, where) from None

    def dump(self, value: _T) -> bytes:
        """Write a record as JSON in one line."""
        return self._adapter.dump_json(value)

    def _error(self, error: ValidationError, where: object) -> StoreError:
        """Make the error that names the first fault of a record."""
        problem = error.errors(include_url=False)[0]
        place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem["loc"]).lstrip(".")
        if problem["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            return StoreError(
                f"{where} has the field {reprlib.repr(place)}, which this cntk does not know: use the version that "
                f"wrote it. Otherwise {self._remedy}"
            )
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] not in ("missing", "json_invalid"):
            message += f", got {reprlib.repr(problem['input'])}"
        return StoreError(f"{where} is damaged ({place}{': ' if place else ''}{message}): {self._remedy}")


def write_json(path: StorePath, record: Json, limit: int = RECORD_BYTES) -> None:
    """Replace a small JSON file; `StoreError` where it has more bytes than a reader takes."""
    path.write_whole(json_bytes(path, record, limit))


def json_bytes(path: StorePath, record: Json, limit: int = RECORD_BYTES) -> bytes:
    """Return the content of a small JSON file; `StoreError` where it has more bytes than a reader takes."""
    content = json.dumps(record, indent=2).encode()
    if len(content) > limit:
        raise StoreError(
            f"{path} would have {len(content):,} bytes, of at most {limit:,}, and nothing could read it: take fewer "
            "features, classes or results"
        )
    return content


def numbers(folder: StorePath, suffix: str) -> list[int]:
    """List the numbers of the files ``000001SUFFIX``, ... in a folder; other names are not this package's.

    `str.isdigit` would accept digits that `int` does not, and `int` accepts numbers that no such name begins with.
    """
    stems = (path.name.removesuffix(suffix) for path in folder.children() if path.name.endswith(suffix))
    return [int(stem) for stem in stems if _NUMBER.fullmatch(stem) and stem == f"{int(stem):06d}"]
