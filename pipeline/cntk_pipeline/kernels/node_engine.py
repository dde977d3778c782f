"""The part of the engine "cpu" that answers questions about graphs."""

import time
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from cntk_pipeline.errors import LayerError
from cntk_pipeline.graphs import NodeCounts, count_nodes
from cntk_pipeline.kernels.base import Engine, Question
from cntk_pipeline.kernels.evaluator import NUMERICS_VERSION
from cntk_pipeline.kernels.lanes import LANES
from cntk_pipeline.kernels.node_evaluator import CACHE_BYTES, NodeEvaluator
from cntk_pipeline.kernels.node_program import lower_nodes
from cntk_pipeline.kernels.program import Array
from cntk_pipeline.kernels.summaries import NodeSummary, Summary, summary
from cntk_pipeline.kernels.timing import SAMPLE_SECONDS, PairCost, time_call

if TYPE_CHECKING:
    from cntk_pipeline.config.section import Section

SAMPLE_GRAPHS = 16
"""Of a measurement, by their sizes as many small ones as large ones: they meet each other."""

USUAL_SHARE = 0.6
"""Of the nodes of the largest graph that a graph has."""

ENTRY_SECONDS = 3e-9
"""About what an operation on a pair of nodes costs a core; see `benchmarks/molecules.py`."""


class NodeEngine(Engine):
    """Lowers networks on graphs once, and runs all pairs of nodes of two graphs in compiled loops.

    Raises
    ------
    LayerError
        If a network does not accept graphs of the shape, or flips are asked for.
    """

    numerics_version: ClassVar[int] = NUMERICS_VERSION
    lane_width = LANES
    takes_graphs = True
    is_exact = True

    def __init__(self, question: Question, options: "Section | None" = None) -> None:
        super().__init__(question, options)
        if question.flips:
            raise LayerError("graphs have no left and right: leave flips out")
        self.program = lower_nodes(question.readouts, question.input_shape)

    def evaluator(self) -> NodeEvaluator:
        return NodeEvaluator(self.program, self.question.dtype)

    def working_bytes(self, tile: int) -> int:
        # A graph of so many rows has fewer nodes, since its edges take room too.
        *_, rows, _ = self.question.input_shape
        return self._bytes(rows, tile * rows)

    def bytes_of_graphs(self, tile: int, nodes: NodeCounts) -> int:
        return self._bytes(nodes.largest, nodes.heaviest(tile))

    def _bytes(self, largest: int, in_all: int) -> int:
        """Bytes for graphs of so many nodes: those of the largest one, and of all on a side of the tile."""
        matrices = self.program.register_count * 2 + 1
        known = 2 * in_all * (self.program.statistic_count + self.question.input_shape[-1] + 4)
        return 8 * (matrices * (largest * (largest + LANES)) + known) + CACHE_BYTES

    @property
    def guessed_pair_seconds(self) -> float:
        # The largest graph fills its rows with features and, in most data sets, about as many edges as nodes.
        *_, rows, features = self.question.input_shape
        nodes = USUAL_SHARE * rows * features / (features + 2)
        return nodes**2 * len(self.program.codes) * ENTRY_SECONDS

    def summary(self, number: int) -> NodeSummary | Summary:
        network, kind = self.question.readouts[number]
        return summary(network, self.question.input_shape, kind=kind)

    def measure(self, sample: Array) -> PairCost:
        nodes = count_nodes(sample)
        ranks = (np.arange(min(len(sample), SAMPLE_GRAPHS)) + 0.5) / min(len(sample), SAMPLE_GRAPHS) * len(sample)
        chosen = np.argsort(nodes, kind="stable")[ranks.astype(int)]
        graphs = sample[chosen]
        evaluator = self.evaluator()
        evaluator.evaluate(graphs[:1], graphs[:1])  # compiles
        began, best = time.perf_counter(), float("inf")
        while best == float("inf") or time.perf_counter() - began < SAMPLE_SECONDS:
            best = min(best, time_call(lambda: evaluator.evaluate(graphs, graphs)))
        return PairCost(best * float(nodes.mean() / nodes[chosen].sum()) ** 2, 1.0)
