"""Reading of a pickled dictionary of plain values and byte arrays, without running code from the file.

A pickle is a program: an unrestricted load runs any code of its author. Here every name in it is looked up in a table
instead of being imported. The table holds stand-ins, not NumPy's own constructors: these trust a pickle about the
inside of an array, and one wrong byte there ends the process with a segmentation fault.
"""

import io
import pickle
import pickletools
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt

from cntk_pipeline.datasets.reading import open_file, reading
from cntk_pipeline.errors import DataError

# A garbled pickle fails in any instruction, depending on its first wrong byte.
_BROKEN = (
    pickle.UnpicklingError,
    AttributeError,
    EOFError,
    IndexError,
    MemoryError,
    OverflowError,
    RecursionError,
    TypeError,
    ValueError,
)


_MOST_PARTS = 64
"""Largest number of lists, tuples, dictionaries and calls in a batch: published ones have under 20, tests under 40."""

_PARTS = {
    *("LIST", "EMPTY_LIST", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "DICT", "EMPTY_DICT", "EMPTY_SET", "FROZENSET"),
    *("REDUCE", "BUILD", "NEWOBJ", "NEWOBJ_EX", "OBJ", "INST", "DUP", "STACK_GLOBAL", "GLOBAL"),
}
_PUTS = {"PUT", "BINPUT", "LONG_BINPUT"}


@final
class _Dtype:
    """A stand-in for `numpy.dtype` that keeps only the code of the type."""

    def __init__(self, code: str | bytes, *_: object) -> None:
        self.code = code

    def __setstate__(self, _: object) -> None:
        """Ignore the byte order: single bytes have none."""


@final
class _Array:
    """A stand-in for `numpy.ndarray`, empty until its state is set."""

    values: npt.NDArray[np.uint8] = np.empty(0, np.uint8)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, is_fortran, content = state
        self.values = _frombuffer(content, kind, shape, "F" if is_fortran else "C").values


def _reconstruct(*_: object) -> _Array:
    """Stand in for the function by which NumPy starts an array."""
    return _Array()


def _frombuffer(content: bytes, kind: _Dtype, shape: tuple[int, ...], order: Any) -> _Array:
    """Stand in for the function by which NumPy makes an array at protocol 5."""
    if kind.code not in ("u1", b"u1"):
        raise DataError(f"expected arrays of uint8, got one of type {kind.code!r}; fetch the published file")
    array = _Array()
    array.values = np.frombuffer(content, np.uint8).reshape(shape, order=order)
    return array


def _encode(text: str, encoding: str) -> bytes:
    """Stand in for `codecs.encode`, by which protocol 2 spells bytes: always in latin1."""
    if encoding not in ("latin1", b"latin1"):
        raise ValueError(f"bytes spelled in {encoding!r} instead of latin1")
    return text.encode("latin1")


# Both paths of NumPy's functions: they moved from `numpy.core` in version 2.
_STAND_INS: Mapping[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.numeric", "_frombuffer"): _frombuffer,
    ("numpy._core.numeric", "_frombuffer"): _frombuffer,
    ("_codecs", "encode"): _encode,
}


def _require_bounded(content: bytes) -> None:
    """Refuse a pickle that would take more memory than a few times its size, or nest deeply.

    A few bytes may announce gigabytes, name a distant place in the pickle's memo, or nest tuples until code that walks
    them runs out of stack.
    """
    parts = 0
    for count, (instruction, argument, _) in enumerate(pickletools.genops(content)):
        if instruction.name in _PUTS and isinstance(argument, int) and not 0 <= argument <= count:
            raise ValueError(f"a memo of {argument} values after {count} instructions")
        parts += instruction.name in _PARTS
        if parts > _MOST_PARTS:
            raise ValueError(f"more than {_MOST_PARTS} lists, tuples and calls")


class _RestrictedUnpickler(pickle.Unpickler):
    """An unpickler that looks names up in `_STAND_INS` and imports nothing."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _STAND_INS:
            raise DataError(
                f"expected a pickle of plain values and NumPy arrays, got one that loads {module}.{name}; "
                "do not use this file: it may be made to run foreign code. Fetch the published one"
            )
        return _STAND_INS[module, name]


def load_dictionary(path: Path) -> dict[Any, Any]:
    """Load a pickled dictionary of plain values and uint8 arrays; text of Python 2 becomes bytes.

    Parameters
    ----------
    path : Path
        The file, written by any version of Python and NumPy.

    Returns
    -------
    dict
        As pickled. Only arrays that are values of the dictionary itself are found.

    Raises
    ------
    DataError
        If the pickle needs another name, which the message has, is broken, or holds no dictionary.
    """
    with reading(path, "a pickle of NumPy arrays", *_BROKEN), open_file(path) as file:
        pickled = file.read()
        with warnings.catch_warnings():  # about odd escapes in text, which pickletools evaluates
            warnings.simplefilter("ignore", DeprecationWarning)
            _require_bounded(pickled)
        try:
            content = _RestrictedUnpickler(io.BytesIO(pickled), encoding="bytes").load()
        except DataError as error:
            raise DataError(f"{path}: {error}") from None
    if not isinstance(content, dict):
        raise DataError(
            f"{path}: expected a pickled dictionary, got {type(content).__name__}; fetch the published file"
        )
    return {key: value.values if isinstance(value, _Array) else value for key, value in content.items()}
