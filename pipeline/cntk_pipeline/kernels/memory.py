"""The memory that an evaluator takes, from its program alone."""

import numpy as np

from cntk_pipeline.kernels.graph import Node
from cntk_pipeline.kernels.lanes import LANES
from cntk_pipeline.kernels.machine import plane_count
from cntk_pipeline.kernels.program import Code, Operation, Program
from cntk_pipeline.kernels.tables import lay_out_statistics

MOST_CANCELLED = 50
"""By how much a bias may exceed what is left without it: roundings in float32 are 6e-8, and 1e-5 is promised."""

GROUP_BYTES = 16 * 2**20
"""Memory for what is known of a group of left images; the larger, the fewer times right images are prepared."""


def planes_dtype(program: Program, dtype: np.dtype) -> np.dtype:
    """Return the dtype of planes for kernels of a dtype.

    It is float64 also where no window mixes positions, where a layer is recurrent, since roundings of a state are
    handed on from step to step, and where an NTK is what a large bias leaves of a covariance; see `cancels`.
    """
    operations = [op for stage in program.stages for op in stage.operations]
    is_exact = any(op.code is Code.RECUR or (op.tangent and cancels(op)) for op in operations)
    mixes = any(op.mixes for op in operations)
    return dtype if mixes and not is_exact else np.dtype(np.float64)


def cancels(layer: Node | Operation) -> bool:
    """Tell whether the tangent of weights is the small difference of S' and its bias, in the standard parameterization.

    ``own S' + extra`` is ``own (scale sum S + bias) - own bias + 1``, in which the share of the bias is rounded. The
    covariances before count as 1: activations and standardised images have such.
    """
    return layer.extra != 0 and layer.own * layer.bias > MOST_CANCELLED * max(1.0, layer.own * layer.scale)


def group_size(program: Program, item_bytes: int) -> int:
    """Return the number of left images that are prepared at once: what `GROUP_BYTES` hold, in whole blocks.

    Parameters
    ----------
    item_bytes : int
        Of a number of the result, 4 or 8.
    """
    known = sum(found.count * found.area for found in lay_out_statistics(program))
    image = known * planes_dtype(program, np.dtype(f"f{item_bytes}")).itemsize
    blocks = GROUP_BYTES // max(1, image * LANES)
    return LANES * int(min(max(blocks, 1), 64))


def working_bytes(program: Program, item_bytes: int) -> int:
    """Bytes that an evaluator holds beside the images and results it is given, also where it computes pairs again.

    Parameters
    ----------
    item_bytes : int
        Of a number of the result, 4 or 8.
    """
    images = group_size(program, item_bytes)
    pixels = program.pixel_count
    sizes = {planes_dtype(program, np.dtype(f"f{item_bytes}")).itemsize, 8}
    programs = (program, *(point.program for point in program.points))
    arithmetic = sum(_arithmetic_bytes(each, images, size) for each in programs for size in sizes)
    return 4 * (images + 2 * LANES) * pixels + arithmetic  # directions are of float32


def _arithmetic_bytes(program: Program, images: int, item_bytes: int) -> int:
    """Bytes of an arithmetic: planes, tensors, a group of so many images, its tables."""
    known = sum(found.count * found.right_area for found in lay_out_statistics(program))
    group = (images + 4 * LANES) * (known + program.pixel_count) * item_bytes
    planes = max(map(plane_count, program.stages)) * (2 * item_bytes + 8)
    tensors = 2 * sum(tensor.size for tensor in program.tensors) * LANES * item_bytes
    marks = sum(v.marks.size + 2 * v.offsets.size * 8 for s in program.stages for v in (s.visits, s.self_visits))
    return group + planes + tensors + marks
