"""Kernels of networks: the in-memory door, and the engines behind it. ``ENGINES`` names them, as a workflow does."""

from typing import TYPE_CHECKING

from cntk_pipeline.environment import require_usable
from cntk_pipeline.lazy import lazy_names

require_usable()  # before numba is imported: it answers its variables with a traceback, or worse

if TYPE_CHECKING:
    from cntk_pipeline.kernels.base import Engine, Evaluator, Question
    from cntk_pipeline.kernels.cost import measure_pair, quick_part
    from cntk_pipeline.kernels.cpu import CpuEngine
    from cntk_pipeline.kernels.engines import ENGINES, find_engine
    from cntk_pipeline.kernels.evaluator import NUMERICS_VERSION, CpuEvaluator
    from cntk_pipeline.kernels.lowering import KINDS, is_untrained, lower
    from cntk_pipeline.kernels.matrix import kernel_diagonal, kernel_matrices, kernel_matrix
    from cntk_pipeline.kernels.memory import group_size, working_bytes
    from cntk_pipeline.kernels.program import Program
    from cntk_pipeline.kernels.summaries import NodeSummary, Summary, summary
    from cntk_pipeline.kernels.timing import PairCost

__all__ = [
    "ENGINES",
    "KINDS",
    "NUMERICS_VERSION",
    "CpuEngine",
    "CpuEvaluator",
    "Engine",
    "Evaluator",
    "NodeSummary",
    "PairCost",
    "Program",
    "Question",
    "Summary",
    "find_engine",
    "group_size",
    "is_untrained",
    "kernel_diagonal",
    "kernel_matrices",
    "kernel_matrix",
    "lower",
    "measure_pair",
    "quick_part",
    "summary",
    "working_bytes",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "ENGINES": "engines",
        "KINDS": "lowering",
        "NUMERICS_VERSION": "evaluator",
        "CpuEngine": "cpu",
        "CpuEvaluator": "evaluator",
        "Engine": "base",
        "Evaluator": "base",
        "NodeSummary": "summaries",
        "PairCost": "timing",
        "Program": "program",
        "Question": "base",
        "Summary": "summaries",
        "find_engine": "engines",
        "group_size": "memory",
        "is_untrained": "lowering",
        "kernel_diagonal": "matrix",
        "kernel_matrices": "matrix",
        "kernel_matrix": "matrix",
        "lower": "lowering",
        "measure_pair": "cost",
        "quick_part": "cost",
        "summary": "summaries",
        "working_bytes": "memory",
    },
)
