"""Exact infinite-width network kernels of image data sets, in tiles, on a cluster, into a store that survives."""

from typing import TYPE_CHECKING

from cntk_pipeline.lazy import lazy_names

if TYPE_CHECKING:
    from cntk_pipeline.kernels import kernel_diagonal, kernel_matrices, kernel_matrix, summary

__version__ = "0.1.0"

__all__ = ["__version__", "kernel_diagonal", "kernel_matrices", "kernel_matrix", "summary"]

__getattr__ = lazy_names(
    __name__, {name: "kernels" for name in ("kernel_diagonal", "kernel_matrices", "kernel_matrix", "summary")}
)
