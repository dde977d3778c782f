"""Kernels of networks: the in-memory door, and the engine behind it."""

from cntk_pipeline.environment import require_usable

require_usable()  # before numba is imported: it answers its variables with a traceback, or worse

from cntk_pipeline.kernels.cost import PairCost, measure_pair, quick_part  # noqa: E402
from cntk_pipeline.kernels.engine import NUMERICS_VERSION, Engine, group_size, working_bytes  # noqa: E402
from cntk_pipeline.kernels.lowering import KINDS, lower  # noqa: E402
from cntk_pipeline.kernels.matrix import kernel_matrices, kernel_matrix  # noqa: E402
from cntk_pipeline.kernels.program import Program  # noqa: E402
from cntk_pipeline.kernels.summary import Summary, summary  # noqa: E402

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
