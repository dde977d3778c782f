"""The one place that decides how functions are compiled.

``nogil``: threads of one process run tiles side by side. ``error_model="numpy"``: no branch for a division by
zero in a vector loop. Fast-math is limited to ``nsz`` (signed zeros), which changes no other value. Reassociation is
off, since a sum that the compiler may reorder can change with the length of a loop, and a pair must have the same bits
in every tiling; the approximate reciprocal and square root are off for the same reason; and products and sums are
fused where `lanes.multiply_add` says so alone. Only the first process on a machine
compiles; see `code_cache.py`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numba as nb
from numba.core import sigutils
from numba.core.ccallback import CFunc
from numba.extending import overload

from cntk_pipeline.kernels.code_cache import CodeCache, code_folder


def _prefer_wide_vectors() -> bool:
    """Let LLVM use 512-bit vectors where the processor has them: 0.38 against 0.52 ns per ReLU, measured.

    By default LLVM stays at 256 bits on such processors, for the sake of code that is only partly vectors. A
    user's own NUMBA_CPU_FEATURES is left alone; bits do not depend on the width, since nothing is reassociated.
    """
    if nb.config.CPU_FEATURES is None and llvm.get_host_cpu_features().get("avx512f", False):
        nb.config.CPU_FEATURES = llvm.get_host_cpu_features().flatten() + ",-prefer-256-bit"
    return "+avx512f" in (nb.config.CPU_FEATURES or "")


HAS_WIDE_VECTORS = _prefer_wide_vectors()
"""Whether code is compiled for AVX-512, with 32 registers of 512 bits; otherwise there are 16 of 256."""

_HERE = Path(__file__).parent
FOLDER = code_folder([*_HERE.glob("*.py"), *(_HERE.parent / "layers").glob("*.py")])
"""Where machine code is kept; None for nowhere."""

OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"nsz"}}


def jit(function: Callable[..., Any]) -> Any:
    """Compile a function that Python calls; its machine code is kept on disk."""
    compiled: Any = nb.njit(**OPTIONS)(function)
    if FOLDER is not None:
        compiled._cache = CodeCache(FOLDER, function)
    return compiled


def jit_inner(function: Callable[..., Any]) -> Any:
    """Compile a function that only jitted code calls, which saves the time of its wrappers."""
    return nb.njit(no_cpython_wrapper=True, no_cfunc_wrapper=True, **OPTIONS)(function)


def jit_inline(function: Callable[..., Any]) -> Any:
    """Compile a leaf that is pasted into its callers, for scalars inside a vector loop."""
    return nb.njit(inline="always", **OPTIONS)(function)


def pasted(function: Callable[..., Any]) -> Any:
    """Let jitted code call a plain function, which stays one: it is pasted into its callers."""

    @overload(function, inline="always", strict=False, jit_options={"fastmath": OPTIONS["fastmath"]})
    def typed(*args: Any) -> Any:
        return function

    return function


def jit_pointers(signature: Any, function: Callable[..., Any]) -> Any:
    """Compile a function of pointers that jitted code calls by its address; its machine code is kept on disk.

    What a program does not use is thus never compiled.
    """
    compiled: Any = CFunc(function, sigutils.normalize_signature(signature), {}, OPTIONS)
    if FOLDER is not None:
        compiled._cache = CodeCache(FOLDER, function)
    compiled.compile()
    return compiled
