"""The engine that computes exact kernels on the cores of this machine: networks lowered to a program."""

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from cntk_pipeline.graphs import is_graph
from cntk_pipeline.kernels.base import Engine, Question, require_independence
from cntk_pipeline.kernels.cost import guess_pair_seconds, measure_pair, quick_part
from cntk_pipeline.kernels.evaluator import NUMERICS_VERSION, CpuEvaluator, require_mirrors
from cntk_pipeline.kernels.lanes import LANES
from cntk_pipeline.kernels.lowering import count_revisions, lower
from cntk_pipeline.kernels.memory import working_bytes
from cntk_pipeline.kernels.node_engine import NodeEngine
from cntk_pipeline.kernels.program import Array
from cntk_pipeline.kernels.summaries import NodeSummary, Summary, summary
from cntk_pipeline.kernels.timing import PairCost

if TYPE_CHECKING:
    from cntk_pipeline.config.section import Section


class CpuEngine(Engine):
    """Lowers the networks once, and runs the program in compiled loops, 16 right images at once.

    Raises
    ------
    LayerError
        If a network does not accept the shape, or flips are asked for and one tells left from right.
    """

    numerics_version: ClassVar[int] = NUMERICS_VERSION
    lane_width = LANES
    takes_graphs = True
    is_exact = True

    @classmethod
    def ask(cls, question: Question, options: "Section | None" = None) -> Engine:
        return NodeEngine(question, options) if is_graph(question.input_shape) else cls(question, options)

    def __init__(self, question: Question, options: "Section | None" = None) -> None:
        super().__init__(question, options)
        self.program = lower(question.readouts, question.input_shape)
        require_mirrors(self.program, question.flips)

    @classmethod
    def version_for(cls, question: Question) -> int:
        return cls.numerics_version + count_revisions(question.readouts, question.input_shape, question.dtype)

    def evaluator(self) -> CpuEvaluator:
        return CpuEvaluator(self.program, self.question.dtype, self.question.flips)

    def working_bytes(self, tile: int) -> int:
        # The same for any tile: left images go through in groups, right ones in blocks.
        return working_bytes(self.program, np.dtype(self.question.dtype).itemsize)

    @property
    def plane_entries(self) -> int:
        return self.program.plane_entries

    @property
    def guessed_pair_seconds(self) -> float:
        return guess_pair_seconds(self.program, self.question.dtype, self.question.flips)

    def measure(self, sample: Array) -> PairCost:
        return measure_pair(self.program, self.question.dtype, self.question.flips, sample)

    def test(self, images: Array) -> None:
        dtype, flips = self.question.dtype, self.question.flips
        part = quick_part(self.program, dtype, flips)  # a pair of large images may take minutes
        require_independence(CpuEvaluator(part, dtype, flips), images)

    def summary(self, number: int) -> Summary | NodeSummary:
        network, kind = self.question.readouts[number]
        return summary(network, self.question.input_shape, kind=kind)
