"""Runs a program on a tile of pairs of images.

Memory is bounded whatever the tile: right images go through in blocks of one lane width, left images in groups that
fit into `GROUP_BYTES`, and what the duals need to know of them is computed on the way.
"""

import numpy as np
import numpy.typing as npt

from pipeline.errors import LayerError, NotFinite
from pipeline.kernels.lanes import LANES
from pipeline.kernels.machine import EQUAL, ITSELF, Machine, plane_count
from pipeline.kernels.preparation import Preparation
from pipeline.kernels.program import Array, Program
from pipeline.kernels.tables import lay_out_statistics

GROUP_BYTES = 16 * 2**20
"""Memory for what is known of a group of left images; the larger, the fewer times right images are prepared."""

NUMERICS_VERSION = 2
"""Raised by hand whenever the values change in any bit; a run directory of another version is refused."""


class Engine:
    """A program with the memory to run it: for one thread at a time.

    Parameters
    ----------
    program : what to compute for each pair.
    dtype : "float32" or "float64", of images, planes and results.
    flips : average each value with that of the right image flipped left to right: ``(K(x, z) + K(x, flip z)) / 2``,
        the kernel that training on all flips as well amounts to (Li et al. 2019, section 4).

    Raises
    ------
    LayerError
        If the dtype is another, or flips are asked for and the network tells left from right.
    """

    def __init__(self, program: Program, dtype: npt.DTypeLike = "float32", flips: bool = False) -> None:
        try:
            self.dtype = np.dtype(dtype)
        except TypeError:
            raise LayerError(f'kernels are computed in "float32" or "float64", got dtype={dtype!r}') from None
        if self.dtype.name not in ("float32", "float64"):
            raise LayerError(f'kernels are computed in "float32" or "float64", got dtype={dtype!r}')
        if flips and not program.mirrors:
            raise LayerError(
                "averaging over flips needs a network that does not tell left from right: use odd windows, and strides "
                "and poolings whose windows lie the same seen from either side"
            )
        self.program = program
        self.flips = flips
        self._machine = Machine(program, self.dtype)
        self._preparation = Preparation(self._machine)

    @property
    def group_size(self) -> int:
        """The number of left images that are prepared at once."""
        return group_size(self.program, self.dtype.itemsize)

    def evaluate(self, left: Array, right: Array | None = None) -> Array:
        """Evaluate all read-outs for all pairs.

        Equal images count as the same image, wherever they come from: their correlation is exactly 1. A pair's
        bits do not depend on the other images in the call. Only without ``right`` are there pairs of one sample
        with itself, for which `Dropout` uses one mask.

        Parameters
        ----------
        left, right : ``(n, H, W, C)`` or ``(n, features)``; without ``right``, ``left`` against itself.

        Returns
        -------
        (readouts, n_left, n_right) array of the engine's dtype.

        Raises
        ------
        LayerError
            If the images are not of the program's shape.
        NotFinite
            If a value is not finite, with the pair.
        """
        x = self._planar(left)
        z = x if right is None else self._planar(right)
        values = self._evaluate(x, z, symmetric=right is None, one_sample=right is None)
        if self.flips:
            flipped = self._evaluate(x, np.ascontiguousarray(z[..., ::-1]), symmetric=right is None, one_sample=False)
            values = (values + flipped) * values.dtype.type(0.5)
        _require_finite(values)
        return values

    def _evaluate(self, x: Array, z: Array, symmetric: bool, one_sample: bool) -> Array:
        """Evaluate all pairs of ``(n, C, H, W)``; where the result is ``symmetric``, the lower triangle, mirrored."""
        values = np.empty((self.program.readout_count, len(x), len(z)), self.dtype)
        x_keys, z_keys = _contents(x), _contents(z)
        size = self.group_size
        for top in range(0, len(x), size):
            group = x[top : top + size]
            statistics = self._preparation.group_statistics(group)
            pixels = np.ascontiguousarray(group.reshape(len(group), -1))
            stop = min(top + size, len(x)) if symmetric else len(z)
            for start in range(0, stop, LANES):
                block = self._preparation.prepare(z[start : start + LANES])
                count = min(LANES, len(z) - start)
                same = np.zeros((len(group), LANES), np.int8)
                same[:, :count] = EQUAL * (x_keys[top : top + size, None] == z_keys[start : start + count])
                if one_sample:
                    same[np.arange(top, top + len(group))[:, None] == np.arange(start, start + LANES)] = ITSELF
                first = max(0, start - top) if symmetric else 0
                readouts = self._machine.run(pixels, statistics, block, same, first)
                found = readouts[first:, :, :count].transpose(1, 0, 2)
                values[:, top + first : top + len(group), start : start + count] = found
        if symmetric:
            upper = np.triu_indices(len(x), 1)
            values[:, upper[0], upper[1]] = values[:, upper[1], upper[0]]
        return values

    def evaluate_pairs(self, left: Array, right: Array | None = None) -> Array:
        """Evaluate all read-outs for the pairs of each left image with the right one of the same number.

        Parameters
        ----------
        left, right : ``(n, H, W, C)`` or ``(n, features)``; without ``right``, each image with itself: the diagonal
            of `evaluate`.

        Returns
        -------
        (readouts, n) array of the engine's dtype.
        """
        x = self._planar(left)
        z = x if right is None else self._planar(right)
        if len(x) != len(z):
            raise LayerError(f"pairs need as many left images as right ones, got {len(x)} and {len(z)}")
        values = self._evaluate_pairs(x, z, right is None)
        if self.flips:
            flipped = self._evaluate_pairs(x, np.ascontiguousarray(z[..., ::-1]), False)
            values = (values + flipped) * values.dtype.type(0.5)
        _require_finite(values)
        return values

    def _evaluate_pairs(self, x: Array, z: Array, one_sample: bool) -> Array:
        values = np.empty((self.program.readout_count, len(x)), self.dtype)
        for start in range(0, len(x), LANES):
            a, b = x[start : start + LANES], z[start : start + LANES]
            block = self._preparation.prepare(a)
            same = np.full(LANES, ITSELF, np.int8)
            if not one_sample:
                same[:] = 0
                same[: len(a)] = EQUAL * (_contents(a) == _contents(b))
            readouts = self._machine.run_lanes(block, block if one_sample else self._preparation.prepare(b), same)
            values[:, start : start + len(a)] = readouts[:, : len(a)]
        return values

    def _planar(self, images: Array) -> Array:
        """Check images and return them as ``(n, C, H, W)`` of the engine's dtype."""
        shape = images.shape[1:] if images.ndim == 4 else (1, 1, *images.shape[1:])
        if shape != self.program.input_shape:
            raise LayerError(
                f"expected images of shape {self.program.input_shape}, got an array of shape {images.shape}"
            )
        return np.ascontiguousarray(images.reshape(len(images), *shape).transpose(0, 3, 1, 2), self.dtype)


def group_size(program: Program, item_bytes: int) -> int:
    """Return the number of left images that are prepared at once: what `GROUP_BYTES` hold, in whole blocks."""
    image = sum(found.count * found.area for found in lay_out_statistics(program)) * item_bytes
    blocks = GROUP_BYTES // max(1, image * LANES)
    return LANES * int(min(max(blocks, 1), 64))


def working_bytes(program: Program, item_bytes: int) -> int:
    """Bytes that an engine holds beside the images and results it is given: planes, tensors, a group, its tables."""
    image = sum(found.count * found.right_area for found in lay_out_statistics(program)) * item_bytes
    images = (group_size(program, item_bytes) + 4 * LANES) * image
    planes = max(map(plane_count, program.stages)) * (2 * item_bytes + 8)
    tensors = 2 * sum(tensor.size for tensor in program.tensors) * LANES * item_bytes
    marks = sum(v.marks.size + 2 * v.offsets.size * 8 for s in program.stages for v in (s.visits, s.self_visits))
    return images + planes + tensors + marks


def _contents(x: Array) -> Array:
    """Give equal images equal keys: their bytes, as objects."""
    keys = np.empty(len(x), object)
    keys[:] = [image.tobytes() for image in x]
    return keys


def _require_finite(values: Array) -> None:
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        place = ", ".join(map(str, bad[0][1:]))
        raise NotFinite(
            f"read-out {bad[0][0]} is {values[tuple(bad[0])]} for pair ({place}) of this tile: "
            "the images or the network's w_std, b_std are out of range"
        )
