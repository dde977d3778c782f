"""Reading of a pickle that may hold dictionaries, lists, numbers, text and NumPy arrays, and can run nothing.

A pickle is a program: an unrestricted load runs whatever its author wrote. Here every name that it asks for is
looked up in a table of array constructors instead of being imported.
"""

import pickle
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.datasets.reading import reading
from pipeline.errors import DataError

# A garbled pickle fails in whatever instruction the first wrong byte happens to name.
_BROKEN = (
    pickle.UnpicklingError,
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    TypeError,
    ValueError,
    struct.error,
)


def _encode(text: str, encoding: str) -> bytes:
    """Stand in for `codecs.encode`, by which protocol 2 spells bytes: always in latin1."""
    if encoding not in ("latin1", b"latin1"):
        raise ValueError(f"bytes spelled in {encoding!r} instead of latin1")
    return text.encode("latin1")


# The running NumPy is asked for its own two functions: they moved between versions 1 and 2, and importing them by
# the old path warns.
_reconstruct = np.empty(0).__reduce__()[0]
_frombuffer = np.empty(1).__reduce_ex__(5)[0]

ALLOWED: Mapping[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.numeric", "_frombuffer"): _frombuffer,
    ("numpy._core.numeric", "_frombuffer"): _frombuffer,
    ("_codecs", "encode"): _encode,
}


class _ArrayUnpickler(pickle.Unpickler):
    """Look names up in `ALLOWED` and import nothing."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise DataError(
                f"expected a pickle of plain values and NumPy arrays, got one that loads {module}.{name}; "
                "do not use this file: it may be made to run foreign code. Fetch the published one"
            )
        return ALLOWED[module, name]


def load_arrays(path: Path) -> Any:
    """Load a pickle of plain values and NumPy arrays; text of Python 2 becomes bytes.

    Parameters
    ----------
    path : Path
        The file, written by any version of Python and NumPy.

    Raises
    ------
    DataError
        The pickle asks for anything else, which is named, or is broken.
    """
    with reading(path, "a pickle of NumPy arrays", *_BROKEN), path.open("rb") as file:
        try:
            return _ArrayUnpickler(file, encoding="bytes").load()
        except DataError as error:
            raise DataError(f"{path}: {error}") from None
