"""Exact infinite-width network kernels of image data sets, in tiles, on a cluster, into a store that survives."""

from pipeline.kernels import kernel_matrices, kernel_matrix, summary

__all__ = ["kernel_matrices", "kernel_matrix", "summary"]
