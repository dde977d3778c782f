"""The four operations of a tiled factorisation, on row-major float64 tiles, in place.

They call the BLAS and LAPACK that SciPy carries by their addresses. Its own wrappers hold Python's lock while they
work, so that no thread could read the next tile meanwhile, and a product followed by a subtraction passes over the
result three times more: at 512 rows 36 instead of 42 GF/s.

A row-major tile is its transpose to these column-major routines: ``C -= A B^T`` is asked for as ``C^T -= B A^T``.

OpenBLAS, which NumPy and SciPy carry, asks for buffers on its first call. Where a limit of the process refuses them, it
asks again without an end, in code that no signal interrupts, or ends the process: `require_buffers` refuses before.
"""

import ctypes
import importlib
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import scipy

from cntk_pipeline.resources import require_room
from cntk_pipeline.storage.tiled_array import Array

BLOCK = 256
"""Number of rows that a triangular solve and a factorisation give to LAPACK at once; all else becomes products."""


BUFFER_BYTES = 128 * 2**20
"""For the libraries of NumPy and SciPy: on two threads each took 32 MiB at first, and 17 more for a large product."""

CALL_BYTES = 64 * 2**20
"""Memory for a later call, which takes no more than a first one: 17 MiB were measured."""


def require_buffers(count_bytes: int) -> None:
    """Refuse to go on where a limit of this process leaves less than so many bytes to BLAS.

    Raises
    ------
    ConfigError
        If it leaves less. The message names the limit and the remedy.
    """
    require_room(count_bytes, "linear algebra needs", "give fewer threads to BLAS (OPENBLAS_NUM_THREADS)")


def reserve_buffers() -> None:
    """Make the BLAS libraries of NumPy and SciPy allocate their buffers in this process.

    Raises
    ------
    ConfigError
        If a limit of the process leaves too little memory for them.
    """
    require_buffers(BUFFER_BYTES)
    some = np.ones((256, 256))
    subtract_product(some, some, some @ some)


def subtract_product(a: Array, b: Array, tile_out: Array) -> None:
    """Compute ``C -= A B^T``.

    Parameters
    ----------
    a : array, (m, k)
        Rows contiguous.
    b : array, (n, k)
        Rows contiguous.
    tile_out : array, (m, n)
        Rows contiguous.
    """
    (m, k), n = a.shape, len(b)
    if m and n and k:
        _call("dgemm", b"T", b"N", n, m, k, -1.0, b, _row(b), a, _row(a), 1.0, tile_out, _row(tile_out))


def subtract_square(a: Array, tile_out: Array) -> None:
    """Compute the lower triangle of ``C -= A A^T``; the part above it stays."""
    n, k = a.shape
    if n and k:
        _call("dsyrk", b"U", b"T", n, k, -1.0, a, _row(a), 1.0, tile_out, _row(tile_out))


def solve_right(lower: Array, tile_out: Array) -> None:
    """Compute ``C L^-T`` in place, a block of columns at a time.

    Parameters
    ----------
    lower : array, (n, n)
        A factor; nothing above its diagonal is read.
    tile_out : array, (m, n)
    """
    m = len(tile_out)
    for begin in range(0, len(lower), BLOCK):
        end = min(begin + BLOCK, len(lower))
        here, corner = tile_out[:, begin:end], lower[begin:end, begin:end]
        subtract_product(tile_out[:, :begin], lower[begin:end, :begin], here)
        if m:
            sides = (b"L", b"U", b"T", b"N")
            _call("dtrsm", *sides, end - begin, m, 1.0, corner, _row(corner), here, _row(here))


def factor_lower(tile_out: Array) -> int:
    """Replace the lower triangle of a symmetric tile by its Cholesky factor, and the part above it by zeros.

    Returns
    -------
    int
        The row of the first pivot that is not positive, -1 if there is none. Rows above it hold the factor. The block
        of `BLOCK` rows around it holds the rest after the elimination of all earlier blocks.
    """
    for begin in range(0, len(tile_out), BLOCK):
        end = min(begin + BLOCK, len(tile_out))
        corner = tile_out[begin:end, begin:end]
        subtract_square(tile_out[begin:end, :begin], corner)
        # dpotrf stops in the middle, so it works on a copy: the caller wants the pivot.
        factor = np.tril(corner)
        info = ctypes.c_int(0)
        _call("dpotrf", b"U", len(factor), factor, _row(factor), ctypes.byref(info), library="cython_lapack")
        if info.value:
            return begin + info.value - 1
        corner[:] = factor
        subtract_product(tile_out[end:, :begin], tile_out[begin:end, :begin], tile_out[end:, begin:end])
        solve_right(factor, tile_out[end:, begin:end])
        tile_out[begin:end, end:] = 0.0
    return -1


def _row(matrix: Array) -> int:
    """Return the number of elements from a row to the next; BLAS wants at least 1 where there is only one row."""
    return max(matrix.strides[0] // matrix.itemsize, matrix.shape[1], 1)


_KINDS: dict[type, Callable[[Any], Any]] = {
    bytes: ctypes.c_char_p,
    int: lambda value: ctypes.byref(ctypes.c_int(value)),
    float: lambda value: ctypes.byref(ctypes.c_double(value)),
    np.ndarray: lambda matrix: ctypes.c_void_p(matrix.ctypes.data),
}


def _call(name: str, *arguments: Any, library: str = "cython_blas") -> None:
    """Call a Fortran routine, every argument by reference; Python's lock is released."""
    require_buffers(CALL_BYTES)
    for matrix in arguments:
        if not isinstance(matrix, np.ndarray):
            continue
        # For a single column, NumPy leaves the stride of columns undefined.
        if matrix.dtype != np.float64 or (matrix.shape[1] > 1 and matrix.strides[1] != matrix.itemsize):
            raise ValueError(f"{name} takes float64 with contiguous rows, got {matrix.dtype}, strides {matrix.strides}")
    _routine(library, name)(*(_KINDS.get(type(value), lambda value: value)(value) for value in arguments))


@cache
def _routine(library: str, name: str) -> Any:
    """Find the address of a routine that SciPy exports to Cython."""
    capsule = importlib.import_module(f"scipy.linalg.{library}").__pyx_capi__[name]
    get_name, get_pointer = ctypes.pythonapi.PyCapsule_GetName, ctypes.pythonapi.PyCapsule_GetPointer
    get_name.restype, get_name.argtypes = ctypes.c_char_p, [ctypes.py_object]
    get_pointer.restype, get_pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    signature = get_name(capsule)
    assert b", int *" in signature, f"{name} of SciPy {scipy.__version__} takes other integers: {signature!r}"
    return ctypes.CFUNCTYPE(None)(get_pointer(capsule, signature))
