"""Whether this process may still take the memory that BLAS takes by itself.

OpenBLAS, which NumPy and SciPy carry, asks for buffers on its first call. Where a limit of the process refuses them, it
asks again without an end, in code that no signal interrupts, or ends the process.
"""

from cntk_pipeline.resources import require_room

BUFFER_BYTES = 128 * 2**20
"""Of the libraries of NumPy and SciPy: on two threads each took 32 MiB at first, and 17 more for a large product."""

CALL_BYTES = 64 * 2**20
"""What a later call may take, at most what a first one does: 17 MiB were measured."""


def require_buffers(count_bytes: int) -> None:
    """Refuse to go on where a limit of this process leaves less than so many bytes to BLAS.

    Raises
    ------
    ConfigError
        With the limit, and what to do.
    """
    require_room(count_bytes, "linear algebra needs", "give fewer threads to BLAS (OPENBLAS_NUM_THREADS)")
