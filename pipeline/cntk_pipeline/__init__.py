"""Exact infinite-width network kernels of image data sets, in tiles, on a cluster, into a store that survives."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cntk_pipeline.kernels import kernel_diagonal, kernel_matrices, kernel_matrix
    from cntk_pipeline.kernels.summary import summary

__all__ = ["kernel_diagonal", "kernel_matrices", "kernel_matrix", "summary"]


def __getattr__(name: str) -> Any:
    """Import the kernels on first use: the import takes seconds, during which a command must handle Ctrl-C."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import cntk_pipeline.kernels as kernels

    table = {
        "kernel_diagonal": kernels.kernel_diagonal,
        "kernel_matrices": kernels.kernel_matrices,
        "kernel_matrix": kernels.kernel_matrix,
        "summary": kernels.summary,
    }
    return table[name]
