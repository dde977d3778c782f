"""The origin of the numbers in a run directory: versions, host, time."""

import contextlib
import datetime
import importlib.metadata
import platform
import socket
from collections.abc import Iterable
from functools import cache
from typing import Any

from cntk_pipeline.resources import core_count

LIBRARIES = ("numpy", "numba", "llvmlite", "zarr", "dask", "distributed")


def library_versions(more: Iterable[str] = ()) -> dict[str, str]:
    """List the versions that numbers and bytes may depend on.

    Bits depend on whether the processor fuses a multiplication and an addition, so this property is listed as well.

    Parameters
    ----------
    more : iterable of str
        Further libraries, those of an engine; the ones that are not installed are left out.
    """
    versions = dict(_versions())
    for name in more:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


@cache
def _versions() -> dict[str, str]:
    """Read the versions once: parsing the metadata of all libraries takes 5 ms, and a run asks three times."""
    import llvmlite.binding as llvm  # only runs that compute need it

    versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
    fused = llvm.get_host_cpu_features().get("fma", not platform.machine().startswith("x86"))
    return {"python": platform.python_version()} | versions | {"fused multiply-add": "yes" if fused else "no"}


def provenance(versions: dict[str, str]) -> dict[str, Any]:
    """Describe this process and the versions of its libraries for people; nothing here takes part in a fingerprint."""
    return {
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "host": socket.gethostname(),
        "cores": core_count(),
        "machine": platform.machine(),
        "versions": versions,
    }
