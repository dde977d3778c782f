"""Exact infinite-width network kernels of image data sets, in tiles, on a cluster, into a store that survives."""

from typing import TYPE_CHECKING

from cntk_pipeline.lazy import lazy_names
from cntk_pipeline.missing import explain_missing, moved_module

if TYPE_CHECKING:
    from cntk_pipeline.interactive import run
    from cntk_pipeline.kernels import kernel_diagonal, kernel_matrices, kernel_matrix, summary
    from cntk_pipeline.opened import OpenRun, open_run

__version__ = "0.1.0"

__all__ = [
    "OpenRun",
    "__version__",
    "kernel_diagonal",
    "kernel_matrices",
    "kernel_matrix",
    "open_run",
    "run",
    "summary",
]

_KERNELS = ("kernel_diagonal", "kernel_matrices", "kernel_matrix", "summary")

__getattr__, __dir__ = lazy_names(
    __name__,
    {name: "kernels" for name in _KERNELS} | {"OpenRun": "opened", "open_run": "opened", "run": "interactive"},
)

explain_missing(moved_module)
