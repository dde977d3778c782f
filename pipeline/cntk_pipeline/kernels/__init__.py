"""Kernels of networks: the in-memory door, and the engines behind it. ``ENGINES`` names them, as a workflow does."""

from cntk_pipeline.environment import require_usable

require_usable()  # before numba is imported: it answers its variables with a traceback, or worse

from cntk_pipeline.kernels.base import Engine, Evaluator, Question  # noqa: E402
from cntk_pipeline.kernels.cost import measure_pair, quick_part  # noqa: E402
from cntk_pipeline.kernels.cpu import CpuEngine  # noqa: E402
from cntk_pipeline.kernels.engines import ENGINES, find_engine  # noqa: E402
from cntk_pipeline.kernels.evaluator import NUMERICS_VERSION, CpuEvaluator  # noqa: E402
from cntk_pipeline.kernels.lowering import KINDS, lower  # noqa: E402
from cntk_pipeline.kernels.matrix import kernel_diagonal, kernel_matrices, kernel_matrix  # noqa: E402
from cntk_pipeline.kernels.memory import group_size, working_bytes  # noqa: E402
from cntk_pipeline.kernels.program import Program  # noqa: E402
from cntk_pipeline.kernels.summary import Summary, summary  # noqa: E402
from cntk_pipeline.kernels.timing import PairCost  # noqa: E402

__all__ = [
    "ENGINES",
    "KINDS",
    "NUMERICS_VERSION",
    "CpuEngine",
    "CpuEvaluator",
    "Engine",
    "Evaluator",
    "PairCost",
    "Program",
    "Question",
    "Summary",
    "find_engine",
    "group_size",
    "kernel_diagonal",
    "kernel_matrices",
    "kernel_matrix",
    "lower",
    "measure_pair",
    "quick_part",
    "summary",
    "working_bytes",
]
