"""The size of a launch: its images, its pairs, and its memory on the host and on the device."""

import numpy as np

from cntk_pipeline.kernels.cuda.layout import Layout
from cntk_pipeline.kernels.lanes import LANES
from cntk_pipeline.kernels.program import Program

LAUNCH_BYTES = 64 * 2**20
"""Memory for the left images of a launch; right ones take four times as much."""

MOST_IMAGES = 1024
"""Left or right images of a launch: a million pairs, a second of CNTK-V."""

BLOCKS_PER_MULTIPROCESSOR = 2
"""Blocks that are launched for each multiprocessor. Each takes pairs until there are none; more would only wait."""

PAIR_BYTES, VALUE_BYTES = 12, 8
"""Of a pair: three integers say which it is, and a value of each read-out comes back in float64."""

MOST_MULTIPROCESSORS, ROUNDS = 148, 16
"""Those of a B200, which has the most; and the pairs one after another that each of its blocks should have, so that at
most a sixteenth of a tile's time passes while the last ones end."""


def launch_size(program: Program, layout: Layout) -> int:
    """Count the left, or right, images of a launch, in whole blocks."""
    image_bytes = (layout.left_size + int(np.prod(program.input_shape))) * layout.dtype.itemsize
    return LANES * max(1, min(LAUNCH_BYTES // image_bytes, MOST_IMAGES) // LANES)


def launch_bytes(program: Program, layout: Layout, multiprocessors: int) -> int:
    """Count the bytes of the largest launch on a device: images, statistics, pairs, values, and tensors of poolings."""
    images, item = launch_size(program, layout), layout.dtype.itemsize
    pixels = int(np.prod(program.input_shape))
    # Rows of right images are there twice, and their statistics in two levels.
    sides = images * (3 * pixels + layout.left_size + 2 * layout.right_size) * item
    pairs = images**2 * (PAIR_BYTES + VALUE_BYTES * program.readout_count)
    blocks = min(BLOCKS_PER_MULTIPROCESSOR * multiprocessors, -(-(images**2) // layout.pairs))
    return sides + pairs + blocks * layout.pairs * layout.tensor_size * item


def feeding_pairs(layout: Layout) -> int:
    """Count the pairs of a tile that keep the blocks of any device at work."""
    return ROUNDS * BLOCKS_PER_MULTIPROCESSOR * MOST_MULTIPROCESSORS * layout.pairs
