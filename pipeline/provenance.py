"""What a run directory says of where its numbers come from: versions, host, time."""

import datetime
import importlib.metadata
import os
import platform
import socket
from typing import Any

LIBRARIES = ("numpy", "numba", "llvmlite", "zarr", "dask", "distributed")


def library_versions() -> dict[str, str]:
    """List the versions that numbers and bytes may depend on."""
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in LIBRARIES}


def provenance() -> dict[str, Any]:
    """Describe this process for people; nothing here takes part in a fingerprint."""
    return {
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "host": socket.gethostname(),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "versions": library_versions(),
    }
