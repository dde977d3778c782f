"""The slot of a call on a Dask worker, which a call may release before its end."""

import contextlib
import sys


def release_slot() -> None:
    """Let the worker begin its next call while this one only waits for the disk; outside of Dask, do nothing.

    An fsync of a tile takes as long as its checksums and more, and needs no core.
    """
    if "distributed" not in sys.modules:
        return  # a worker of Dask has it
    import distributed

    with contextlib.suppress(ValueError):  # no worker runs this thread
        distributed.secede()
