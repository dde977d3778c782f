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


KEPT_BYTES = 2**30
"""Host memory for left images of a tile that stay prepared while launches against other right images need them."""

SLOTS = 2
"""Launches at once: one computes, and the other one's images are copied. Each has buffers of its own."""

BANDS = 4
"""Launches that a tile is cut into where it has the pairs for it: only the images of the first one are waited for."""


def launch_size(program: Program, layout: Layout) -> int:
    """Count the left, or right, images of the largest launch, in whole blocks."""
    image_bytes = (layout.left_size + int(np.prod(program.input_shape))) * layout.dtype.itemsize
    return LANES * max(1, min(LAUNCH_BYTES // image_bytes, MOST_IMAGES) // LANES)


def band_size(program: Program, layout: Layout, rows: int, cols: int) -> int:
    """Count the left images of a launch of a tile, in whole blocks.

    Launches overlap, so that a short one leaves nobody waiting, unless they share the tensors of poolings: then each
    should have the pairs of a tile that keeps a device at work.

    Parameters
    ----------
    rows, cols : int
        Images of the tile, of which a launch has at most `launch_size` on each side.
    """
    size = launch_size(program, layout)
    least_pairs = feeding_pairs(layout) // (1 if layout.tensor_size else BANDS)
    wanted = max(-(-rows // BANDS), -(-least_pairs // min(cols, size)))
    return min(LANES * -(-wanted // LANES), size)


def kept_images(program: Program, layout: Layout, rows: int) -> int:
    """Count the left images of a tile of so many that stay prepared for all its launches."""
    return min(rows, KEPT_BYTES // _left_bytes(program, layout))


def kept_bytes(program: Program, layout: Layout, rows: int) -> int:
    """Count the bytes of left images that stay prepared."""
    return kept_images(program, layout, rows) * _left_bytes(program, layout)


def _left_bytes(program: Program, layout: Layout) -> int:
    """Count the bytes of a left image that is prepared, for the device and for the CPU, with its directions."""
    pixels = int(np.prod(program.input_shape))
    return 2 * (layout.left_size + pixels) * layout.dtype.itemsize + 4 * pixels


def side_bytes(program: Program, layout: Layout) -> int:
    """Count the bytes of the images and statistics of the largest launch."""
    pixels = int(np.prod(program.input_shape))
    # Rows of right images are there twice, and their statistics in two levels.
    return (
        launch_size(program, layout) * (3 * pixels + layout.left_size + 2 * layout.right_size) * layout.dtype.itemsize
    )


def slot_bytes(program: Program, layout: Layout) -> int:
    """Count the bytes of the largest launch, which are there on the device and, pinned, on the host."""
    pairs = launch_size(program, layout) ** 2
    return side_bytes(program, layout) + pairs * (PAIR_BYTES + VALUE_BYTES * program.readout_count)


def launch_bytes(program: Program, layout: Layout, multiprocessors: int) -> int:
    """Count the bytes of all slots on a device, and of the tensors of poolings that launches share."""
    blocks = BLOCKS_PER_MULTIPROCESSOR * multiprocessors
    return SLOTS * slot_bytes(program, layout) + blocks * layout.pairs * layout.tensor_size * layout.dtype.itemsize


def feeding_pairs(layout: Layout) -> int:
    """Count the pairs of a tile that keep the blocks of any device at work."""
    return ROUNDS * BLOCKS_PER_MULTIPROCESSOR * MOST_MULTIPROCESSORS * layout.pairs
