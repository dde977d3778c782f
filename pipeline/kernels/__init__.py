"""Kernels of networks: the in-memory door, and the engine behind it."""

from pipeline.kernels.cost import PairCost, measure_pair, quick_part
from pipeline.kernels.engine import NUMERICS_VERSION, Engine, group_size, working_bytes
from pipeline.kernels.lowering import KINDS, lower
from pipeline.kernels.matrix import kernel_matrices, kernel_matrix
from pipeline.kernels.program import Program
from pipeline.kernels.summary import Summary, summary

__all__ = [
    "KINDS",
    "NUMERICS_VERSION",
    "Engine",
    "PairCost",
    "Program",
    "Summary",
    "group_size",
    "kernel_matrices",
    "kernel_matrix",
    "lower",
    "measure_pair",
    "quick_part",
    "summary",
    "working_bytes",
]
