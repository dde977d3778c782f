"""A check that this process can still allocate the buffers of BLAS.

OpenBLAS, which NumPy and SciPy carry, asks for buffers on its first call. Where a limit of the process refuses them, it
asks again without an end, in code that no signal interrupts, or ends the process.
"""

from cntk_pipeline.resources import require_room

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
