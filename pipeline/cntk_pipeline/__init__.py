"""Exact infinite-width network kernels of image data sets, in tiles, on a cluster, into a store that survives."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cntk_pipeline.interactive import run
    from cntk_pipeline.kernels import kernel_diagonal, kernel_matrices, kernel_matrix
    from cntk_pipeline.kernels.summary import summary
    from cntk_pipeline.opened import OpenRun, open_run

__all__ = ["OpenRun", "kernel_diagonal", "kernel_matrices", "kernel_matrix", "open_run", "run", "summary"]

_ROOMS = {
    "kernel_diagonal": "kernels",
    "kernel_matrices": "kernels",
    "kernel_matrix": "kernels",
    "summary": "kernels",
    "OpenRun": "opened",
    "open_run": "opened",
    "run": "interactive",
}


def __getattr__(name: str) -> Any:
    """Import a room on first use: the import takes seconds, during which a command must handle Ctrl-C."""
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"cntk_pipeline.{_ROOMS[name]}"), name)


def __dir__() -> list[str]:
    return __all__
