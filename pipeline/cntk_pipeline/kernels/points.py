"""Where a network first looks at directions of positions alone, and how near two images are to parallel there.

How exact a dtype is for a pair follows from how near both images are to each other (`kernels.accuracy`). Before a
window has mixed positions, each position counts by itself: `LayerNorm` and `Sign` forget its size, and the slope of a
rectifier is infinitely steep where the channels of one image are a multiple of those of the other. The numbers of a
pixel of one channel always are. So the distance u of a pair is measured there once more, position by position. A slope
is as steep as ``(1 - |rho|)^(-1/2)``, and errors are the mean of it over the positions: ``u^(-1/2)`` is that mean, over
the positions that are not empty in either image. A small program computes it, of the operations that lie before.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from cntk_pipeline.kernels.graph import NetworkGraph, Node
from cntk_pipeline.kernels.program import Code
from cntk_pipeline.layers import ClosedForm, LayerNorm, Sign
from cntk_pipeline.layers.elementary import absolute, clip_correlation, inverse_root


@dataclass(frozen=True)
class Steepness(ClosedForm):
    """``(1 - |rho| + floor)^(-1/2)``, and 0 where a variance is 0: no activation, but how steep one may be.

    Parameters
    ----------
    floor : float
        The rounding of a correlation; that of float32 until it is known in which dtype the program runs.
    """

    floor: float = 2.0**-23

    statistic_count: ClassVar[int] = 2

    @property
    def constants(self) -> tuple[float, ...]:
        return (self.floor,)

    @staticmethod
    def statistics(variance: Any, constants: Any) -> tuple[Any, ...]:
        inverse = inverse_root(variance)
        return inverse, variance * (inverse * inverse), 0.0 * variance

    @staticmethod
    def dual(covariance: Any, x: Any, z: Any, constants: Any) -> tuple[Any, Any]:
        rho = clip_correlation(covariance * (x[0] * z[0]))
        return x[1] * z[1] * inverse_root(1.0 - absolute(rho) + constants[0]), 0.0 * covariance


def find_points(graph: NetworkGraph, outputs: Sequence[int]) -> list[tuple[int, tuple[int, ...]]]:
    """Find what the first functions read, and the first that forget sizes, where no windows overlap before.

    Parameters
    ----------
    outputs : sequence of int
        Nodes that are read out.

    Returns
    -------
    list of (int, tuple of int)
        Nodes, each with the numbers of the outputs behind it.
    """
    apart, seen, forgot = ([False] * len(graph.nodes) for _ in range(3))
    behind: list[set[int]] = [set() for _ in graph.nodes]
    found: dict[int, set[int]] = {}
    for k, node in enumerate(graph.nodes):
        apart[k] = all(apart[s] for s in node.sources) and not _overlaps(node)
        seen[k], forgot[k] = (any(flags[s] for s in node.sources) for flags in (seen, forgot))
        behind[k] = {point for s in node.sources for point in behind[s]}
        if node.code is Code.APPLY:
            forgets = isinstance(node.function, LayerNorm | Sign)
            if apart[k] and (not seen[k] or (forgets and not forgot[k])):
                behind[k].add(node.sources[0])
            seen[k], forgot[k] = True, forgot[k] or forgets
    for number, k in enumerate(outputs):
        for point in behind[k]:
            found.setdefault(point, set()).add(number)
    return [(point, tuple(sorted(numbers))) for point, numbers in sorted(found.items())]


def measure(graph: NetworkGraph, point: int) -> tuple[NetworkGraph, int]:
    """Write the sum of the steepness at a point behind a copy of a graph; return its node besides."""
    copied = NetworkGraph(list(graph.nodes), dict(graph.index))
    return copied, copied.trace(copied.gate(copied.apply(point, Steepness()), "present"), 1.0)


def _overlaps(node: Node) -> bool:
    """Tell whether windows of a convolution share positions; those of poolings add no direction to a position's."""
    windows = node.windows if node.code is Code.WEIGH else None
    return windows is not None and any(w.window > w.stride for w in windows)
