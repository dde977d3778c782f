"""Whether this process may still take the memory that BLAS takes by itself.

OpenBLAS, which NumPy and SciPy carry, asks for buffers on its first call. Where a limit of the process refuses them, it
asks again without an end, in code that no signal interrupts, or ends the process.
"""

import mmap
import resource

from pipeline.errors import ConfigError

BUFFER_BYTES = 128 * 2**20
"""Of the libraries of NumPy and SciPy: on two threads each took 32 MiB at first, and 17 more for a large product."""

CALL_BYTES = 64 * 2**20
"""What a later call may take, at most what a first one does: 17 MiB were measured."""

_LIMITS = {resource.RLIMIT_AS: "-v", resource.RLIMIT_DATA: "-d"}
"""Limits on memory that a call of the operating system meets, by the option of ``ulimit`` that sets each."""


def require_room(count_bytes: int) -> None:
    """Refuse to go on where a limit of this process leaves less than so many bytes.

    Raises
    ------
    ConfigError
        With the limit, and what to do.
    """
    limits = {option: resource.getrlimit(limit)[0] for limit, option in _LIMITS.items()}
    set_here = [f"`ulimit {option}` ({limit >> 10} kB)" for option, limit in limits.items() if limit >= 0]
    if not set_here:
        return
    try:
        mmap.mmap(-1, count_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except (OSError, MemoryError):
        raise ConfigError(
            f"the limit on the memory of this process, {' and '.join(set_here)}, leaves less than the "
            f"{count_bytes >> 20} MiB that linear algebra needs: lift it where the run is started, or give fewer "
            "threads to BLAS (OPENBLAS_NUM_THREADS)"
        ) from None
