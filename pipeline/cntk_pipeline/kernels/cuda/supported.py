"""Which programs the kernel of a device runs, and by which layer of a network another one is refused."""

from collections.abc import Sequence

from cntk_pipeline.errors import LayerError
from cntk_pipeline.kernels.cuda.operations import WRITERS
from cntk_pipeline.kernels.graph import NetworkGraph
from cntk_pipeline.kernels.lowering import append_network
from cntk_pipeline.kernels.program import Code, Operation, Program
from cntk_pipeline.kernels.summaries import describe
from cntk_pipeline.layers import ClosedForm, Layer
from cntk_pipeline.layers.recurrent import compares_last_states

LARGEST_SIZE = 64
"""Rows and columns of an image: a lane has at most two columns of up to so many rows; larger ones are not tested."""

LARGEST_WINDOW = 5
"""Rows and columns of a window: further ones are not tested."""

UNWRITTEN = {
    Code.ATTEND: "attention mixes all positions",
    Code.MULTIPLY: "branches are multiplied",
    Code.EMBED: "positions have vectors of their own",
    Code.RECUR: "a step waits for the one before it",
    Code.GATE: "each input has its own positions that are there",
}
"""Why operations are refused that have no text."""


def require_supported(program: Program, readouts: Sequence[tuple[Layer, str]], input_shape: tuple[int, ...]) -> None:
    """Refuse a program that holds what the kernel cannot do.

    Parameters
    ----------
    readouts, input_shape
        What the program was lowered from, to name the layer.

    Raises
    ------
    LayerError
        With the layer and the reason, or the size of the images.
    """
    height, width, _ = program.input_shape
    if max(height, width) > LARGEST_SIZE:
        raise LayerError(
            f'the engine "cuda" cannot compute images of {height} x {width}: it takes at most {LARGEST_SIZE} x '
            f'{LARGEST_SIZE}. Take engine = "cpu", or smaller images'
        )
    for stage in program.stages:
        for op in stage.operations:
            reason = why_not(op)
            if reason:
                where = find_layer(op, readouts, input_shape)
                raise LayerError(
                    f'the engine "cuda" cannot compute {where}: {reason}. Take engine = "cpu", or another layer'
                )


def why_not(op: Operation) -> str | None:
    """Say why the kernel cannot carry out an operation; None where it can."""
    if op.code not in WRITERS:
        return UNWRITTEN.get(op.code, f"{op.code.name} has no text for cards")
    if op.function is not None and not isinstance(op.function, ClosedForm):
        return f"{type(op.function).__name__} is a series, not a closed form"
    for axis in op.windows or ():
        if axis.window > LARGEST_WINDOW:
            return f"a window of {axis.window}, and it takes at most {LARGEST_WINDOW}"
        if axis.count * axis.stride != axis.size:
            return (
                f"windows that make {axis.count} positions of {axis.size} by strides of {axis.stride}, "
                f"and it takes those that make {axis.size}/{axis.stride} of them, without a remainder"
            )
    return None


def find_layer(op: Operation, readouts: Sequence[tuple[Layer, str]], input_shape: tuple[int, ...]) -> str:
    """Name the layer of an operation: its number, as `cntk network` shows it, and what it is.

    An operation may be two layers, weights and what follows them; then a function without a closed form is named.
    """
    graph, at_end = NetworkGraph(), compares_last_states(network for network, _ in readouts)
    named = op.function if not isinstance(op.function, ClosedForm) else None
    for network, kind in readouts:
        for number, lowered in enumerate(append_network(graph, network, kind, input_shape, at_end), -1):
            is_it = op.node in lowered.made if named is None else lowered.layer == named
            if is_it:
                return "the images" if lowered.layer is None else f"layer {number}, {describe(lowered.layer)}"
    return "a layer of a branch" if named else "these images"
