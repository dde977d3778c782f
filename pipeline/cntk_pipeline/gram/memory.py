"""The memory of a task on a tile of kernels."""

import numpy as np

from cntk_pipeline.graphs import NodeCounts
from cntk_pipeline.kernels import Engine


def kernel_task_bytes(engine: Engine, tile: int, nodes: NodeCounts | None = None) -> int:
    """Bytes a kernel task holds: both sides' images in two layouts, the engine's own, each read-out's tile thrice.

    Of graphs ``nodes`` tells those of the largest task; without them they are as many as their rows could hold.
    """
    question = engine.question
    item = np.dtype(question.dtype).itemsize
    images = 4 * tile * int(np.prod(question.input_shape)) * item
    own = engine.working_bytes(tile) if nodes is None else engine.bytes_of_graphs(tile, nodes)
    return images + own + 3 * len(question.readouts) * tile * tile * item
