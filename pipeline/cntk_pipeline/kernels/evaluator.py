"""Runs a program on a tile of pairs of images.

Memory is bounded whatever the tile: right images go through in blocks of one lane width, left images in groups that
fit into `memory.GROUP_BYTES`, and what the duals need to know of them is computed on the way.

Kernels in float32 have planes of float32 as far as these are exact enough (`kernels.accuracy`). A pair that is
too near for them is computed in float64. So is every pair of a network whose positions never mix, vectors above all:
there, no average takes the roundings out, and float64 costs a tenth to a third more.
"""

import contextlib
from collections.abc import Iterator
from functools import cached_property

import numpy as np
import numpy.typing as npt

from cntk_pipeline.errors import DataError, LayerError, NotAccurate, NotFinite
from cntk_pipeline.kernels.arithmetic import Arithmetic, Group, Side
from cntk_pipeline.kernels.base import Evaluator, is_all_small, mirror_lower, read_dtype, require_finite, require_scale
from cntk_pipeline.kernels.lanes import LANES
from cntk_pipeline.kernels.machine import EQUAL, ITSELF
from cntk_pipeline.kernels.memory import group_size, planes_dtype
from cntk_pipeline.kernels.nearness import sizes_differ
from cntk_pipeline.kernels.program import Array, Program
from cntk_pipeline.layers import Presence
from cntk_pipeline.layers.absent import NEEDS_MASKED, NEEDS_PADDED
from cntk_pipeline.sequences import has_absent_pixels, has_absent_steps, read_presence

NUMERICS_VERSION = 3
"""Raised by hand whenever the values change in any bit; a run directory of another version is refused."""


class CpuEvaluator(Evaluator):
    """A program with the memory to run it: for one thread at a time.

    Parameters
    ----------
    program : Program
        What to compute for each pair.
    dtype : DTypeLike
        "float32" or "float64", of images and results, and of planes as far as that is exact enough.
    flips : bool
        Average each value with that of the right image flipped left to right: ``(K(x, z) + K(x, flip z)) / 2``, the
        kernel that training on all flips as well amounts to (Li et al. 2019, section 4).

    Raises
    ------
    LayerError
        If the dtype is another, or flips are asked for and the network tells left from right.
    """

    def __init__(self, program: Program, dtype: npt.DTypeLike = "float32", flips: bool = False) -> None:
        self.dtype = read_dtype(dtype)
        require_mirrors(program, flips)
        self.program = program
        self.flips = flips
        self.planes = Arithmetic(program, planes_dtype(program, self.dtype))

    @cached_property
    def exact(self) -> Arithmetic:
        """The arithmetic of pairs that are too near for `planes`: that of float64."""
        return self.planes if self.planes.dtype == np.float64 else Arithmetic(self.program, np.dtype(np.float64))

    def interrupt(self) -> None:
        """Make an `evaluate` of another thread return in a moment, with numbers that mean nothing; for good."""
        for arithmetic in (self.planes, self.__dict__.get("exact", self.planes)):
            arithmetic.machine.memory.stop[0] = 1

    @property
    def is_masked(self) -> bool:
        return self.program.is_masked

    @property
    def group_size(self) -> int:
        """The number of left images that are prepared at once."""
        return group_size(self.program, self.dtype.itemsize)

    def evaluate(self, left: Array, right: Array | None = None, *, first: tuple[int, int] = (0, 0)) -> Array:
        """Evaluate all read-outs for all pairs.

        Equal images count as the same image, wherever they come from: their correlation is exactly 1. A pair's
        bits do not depend on the other images in the call. Only without ``right`` are there pairs of one sample
        with itself, for which `Dropout` uses one mask.

        Parameters
        ----------
        left, right : array, (n, H, W, C) or (n, features)
            Without ``right``, ``left`` against itself.
        first : (int, int)
            What errors call the first left and the first right image: their places in what the caller has.

        Returns
        -------
        array, (readouts, n_left, n_right)
            Of the evaluator's dtype.

        Raises
        ------
        LayerError
            If the images are not of the program's shape.
        NotAccurate
            If a value would be further than 1e-5 from the truth in float64 as well, or images or values are too small.
        NotFinite
            If a value is not finite, with the pair, or a variance of an image is too large.
        """
        x = self.planar(left, first[0])
        z = x if right is None else self.planar(right, first[1])
        symmetric = right is None
        with self._naming_images(x, z, first):
            values = self._evaluate(x, z, first, symmetric, one_sample=symmetric)
            if self.flips:
                flipped = self._evaluate(x, np.ascontiguousarray(z[..., ::-1]), first, symmetric, one_sample=False)
                values = (values + flipped) * values.dtype.type(0.5)
        require_finite(values, first)
        self._require_scale(values, x, z)
        return values

    @contextlib.contextmanager
    def _naming_images(self, x: Array, z: Array, first: tuple[int, int]) -> Iterator[None]:
        """Say which image's preparation failed: the first one that fails by itself."""
        try:
            yield
        except (NotFinite, NotAccurate):
            for images, begin in ((x, first[0]), (z, first[1])):
                for k, image in enumerate(images):
                    try:
                        self.planes.prepare(image[None])
                    except (NotFinite, NotAccurate) as error:
                        raise type(error)(str(error).replace("an image", f"image {begin + k}", 1)) from None
            raise

    def _require_scale(self, values: Array, x: Array, z: Array) -> None:
        """Refuse kernels that are below the range of the dtype, from images with themselves in float64.

        What is small beside these, as between orthogonal images, is right, and so is a kernel that is 0 by its network.
        """
        small = is_all_small(values)
        if not small.any() or self.planes.machine.memory.stop[0]:
            return
        left = self._largest(x)
        right = left if z is x else self._largest(z)
        for a, b in zip(left[small], right[small], strict=True):
            require_scale(float(np.sqrt(a) * np.sqrt(b)), self.dtype)

    def _largest(self, images: Array) -> Array:
        """Evaluate the largest value of images with themselves in float64, (readouts,)."""
        found = np.zeros(self.program.readout_count)
        for start in range(0, len(images), LANES):
            block = self.exact.prepare(images[start : start + LANES])
            own = self.exact.machine.run_lanes(block, block, np.full(LANES, ITSELF, np.int8))
            found = np.maximum(found, own[:, : block.count].max(1))
        return found

    def _evaluate(self, x: Array, z: Array, first: tuple[int, int], symmetric: bool, one_sample: bool) -> Array:
        """Evaluate all pairs of ``(n, C, H, W)``; where the result is ``symmetric``, the lower triangle, mirrored."""
        values = np.empty((self.program.readout_count, len(x), len(z)), self.dtype)
        x_keys, z_keys = contents(x), contents(z)
        size = self.group_size
        for top in range(0, len(x), size):
            left = _Left(self, x[top : top + size])
            stop = min(top + size, len(x)) if symmetric else len(z)
            for start in range(0, stop, LANES):
                right = z[start : start + LANES]
                same = np.zeros((len(left.images), LANES), np.int8)
                same[:, : len(right)] = EQUAL * (x_keys[top : top + size, None] == z_keys[start : start + LANES])
                if one_sample:
                    numbers = np.arange(top, top + len(left.images))[:, None]
                    same[numbers == np.arange(start, start + LANES)] = ITSELF
                skipped = max(0, start - top) if symmetric else 0
                corner = first[0] + top, first[1] + start
                found = left.run(right, same, skipped, corner)[:, :, : len(right)].transpose(1, 0, 2)
                with np.errstate(over="ignore"):  # refused below
                    values[:, top + skipped : top + len(left.images), start : start + len(right)] = found
        if symmetric:
            mirror_lower(values)
        return values

    def evaluate_pairs(self, left: Array, right: Array | None = None, *, first: tuple[int, int] = (0, 0)) -> Array:
        """Evaluate all read-outs for the pairs of each left image with the right one of the same number.

        Parameters
        ----------
        left, right : array, (n, H, W, C) or (n, features)
            Without ``right``, each image with itself: the diagonal of `evaluate`.
        first : (int, int)
            What errors call the first left and the first right image.

        Returns
        -------
        array, (readouts, n)
            Of the evaluator's dtype.
        """
        x = self.planar(left, first[0])
        z = x if right is None else self.planar(right, first[1])
        if len(x) != len(z):
            raise LayerError(f"pairs need as many left images as right ones, got {len(x)} and {len(z)}")
        with self._naming_images(x, z, first):
            values = self._evaluate_pairs(x, z, first, right is None)
            if self.flips:
                flipped = self._evaluate_pairs(x, np.ascontiguousarray(z[..., ::-1]), first, False)
                values = (values + flipped) * values.dtype.type(0.5)
        require_finite(values, first)
        self._require_scale(values, x, z)
        return values

    def _evaluate_pairs(self, x: Array, z: Array, first: tuple[int, int], one_sample: bool) -> Array:
        values = np.empty((self.program.readout_count, len(x)), self.dtype)
        for start in range(0, len(x), LANES):
            a, b = x[start : start + LANES], None if one_sample else z[start : start + LANES]
            same = np.full(LANES, ITSELF if b is None else 0, np.int8)
            if b is not None:
                same[: len(a)] = EQUAL * (contents(a) == contents(b))
            corner = first[0] + start, first[1] + start
            readouts, near = _run_lanes(self.planes, a, b, same, corner)
            if near.any():
                readouts = np.where(near, _run_lanes(self.exact, a, b, same, corner)[0], readouts)
            values[:, start : start + len(a)] = readouts[:, : len(a)]
        return values

    def planar(self, images: Array, first: int = 0) -> Array:
        """Check images and return them as ``(n, C, H, W)`` of the evaluator's dtype.

        Of a program that takes absent pixels, these are 0, and a last channel is 1 at the pixels that are there.
        """
        shape = images.shape[1:] if images.ndim == 4 else (1, 1, *images.shape[1:])
        if shape != self.program.input_shape:
            raise LayerError(
                f"expected images of shape {self.program.input_shape}, got an array of shape {images.shape}"
            )
        _require_size(images, self.dtype, first)
        if self.program.is_padded:
            images = self._with_presence(images, first)
            shape = (*shape[:2], shape[2] + 1)
        return np.ascontiguousarray(images.reshape(len(images), *shape).transpose(0, 3, 1, 2), self.dtype)

    def _with_presence(self, images: Array, first: int) -> Array:
        """Put 0 at absent pixels, and append a channel that is 1 at the others."""
        present = np.ones(images.shape[:3], bool)
        if has_absent_pixels(images):
            if not self.program.takes_padding:
                raise LayerError(NEEDS_PADDED if has_absent_steps(images) else NEEDS_MASKED)
            present = read_presence("images", images, self.program.takes_gaps, first)
            images = np.where(present[..., None], images, 0)
            if self.program.lies_at_end:
                images, present = _move_to_end(images, present)
        for presence, size in self.program.presences:
            _require_present(presence, presence.select(present, size), first)
        return np.concatenate([images, present[..., None].astype(images.dtype)], axis=-1)


def _move_to_end(images: Array, present: Array) -> tuple[Array, Array]:
    """Lay sequences (n, 1, T, C) with their last steps below each other, and what says which steps are there."""
    steps = images.shape[2]
    places = (np.arange(steps) + present.sum(2)) % steps
    return np.take_along_axis(images, places[:, None, :, None], 2), np.take_along_axis(present, places[:, None], 2)


def _require_present(presence: Presence, present: Array, first: int) -> None:
    """Refuse images of which nothing is there behind strides; ``present`` is (n, H, W) bool."""
    empty = np.flatnonzero(~present.any((1, 2)))
    if len(empty):
        height, width = present.shape[1:]
        pixels = " or ".join(
            f"rows {each.first[0]}, every {each.step[0]}, columns {each.first[1]}, every {each.step[1]}"
            for each in presence.lattices
        )
        raise DataError(
            f"image {first + int(empty[0])}: no position is there where the network has {height} x {width} of them, "
            f"which are in the middle of windows at {pixels} of the input, and all of these pixels are absent: take "
            "smaller strides, or leave the image out"
        )


class _Left:
    """Left images in the arithmetic of the planes and, for pairs that are too near for it, in float64."""

    def __init__(self, evaluator: CpuEvaluator, images: Array) -> None:
        self.images = images
        self._evaluator = evaluator
        self._group = Group(evaluator.planes, images)

    @cached_property
    def _exact(self) -> Group:
        return Group(self._evaluator.exact, self.images)

    def run(self, right: Array, same: Array, first: int, corner: tuple[int, int]) -> Array:
        """Run the images from the ``first`` on against up to 16 right ones: ``(rows, readouts, lanes)`` float64.

        ``corner`` is the first pair's place, for errors.
        """
        planes, rows = self._evaluator.planes, slice(first, None)
        block = planes.prepare(right)
        near = self._group.find_near(rows, right, block, same)
        if not near.any():
            return self._group.run(rows, block, same)
        again = first + np.flatnonzero(near.any((0, 2)))
        near = near[:, again - first].transpose(1, 0, 2)
        of_any = np.any(near, axis=1)
        if planes.dtype == np.float64:
            self._refuse(self._group, again, of_any, right, corner)
            return self._group.run(rows, block, same)
        values = self._run_exactly(again, of_any, right, same, corner)
        if first + len(again) == len(self.images) and near[:, :, : len(right)].all():
            return values
        readouts = self._group.run(rows, block, same)
        readouts[again - first] = np.where(near, values, readouts[again - first])
        return readouts

    def _run_exactly(self, rows: Array, near: Array, right: Array, same: Array, corner: tuple[int, int]) -> Array:
        block = self._evaluator.exact.prepare(right)
        near = near & self._exact.find_near(rows, right, block, same).any(0)
        self._refuse(self._exact, rows, near, right, corner)
        return self._exact.run(rows, block, same)

    def _refuse(self, group: Group, rows: Array, near: Array, right: Array, corner: tuple[int, int]) -> None:
        """Raise where one of these pairs is too near for float64 as well."""
        for row, lane in np.argwhere(near):
            _require_apart(
                group.arithmetic,
                (self.images[rows[row]], right[lane]),
                group.statistics(rows[row : row + 1])[:, 0],
                (corner[0] + int(rows[row]), corner[1] + int(lane)),
            )


def _require_apart(
    arithmetic: Arithmetic, pair: tuple[Array, Array], statistics: Array, place: tuple[int, int]
) -> None:
    """Refuse two images that a network drives apart from a distance below the rounding of float64.

    Images of different size are apart where it does so, even if one is a multiple of the other: a network that is
    linear does not, and another tells sizes, unless a layer forgets them.
    """
    x, z = (arithmetic.numbers(image[None]) for image in pair)
    if arithmetic.forgets_sizes or not sizes_differ(x, z):
        raise NotAccurate(
            f"the images of pair {place} are so nearly the same, as wholes or position by position up to factors, "
            "that float64 does not tell them apart as this network does, above all "
            f"{arithmetic.explain(statistics)}: the kernel would be further than 1e-5 from the truth. Scale the images "
            "down, take smaller w_std or fewer layers, or leave one of them out"
        )


def _run_lanes(
    arithmetic: Arithmetic, left: Array, right: Array | None, same: Array, corner: tuple[int, int]
) -> tuple[Array, Array]:
    """Run up to 16 pairs of images; tell besides which are too near for the arithmetic, (readouts, lanes) bool."""
    block = arithmetic.prepare(left)
    other = block if right is None else arithmetic.prepare(right)
    limits, other_limits = (arithmetic.limits(side.statistics[:, : len(left)]) for side in (block, other))
    near = np.zeros((len(limits), LANES), bool)
    if np.any(np.maximum(limits, other_limits) > 0):
        a, z = left, left if right is None else right
        sides = Side(a, arithmetic.directions(a), limits), Side(z, arithmetic.directions(z), other_limits)
        found = arithmetic.find_near(*sides, np.tile(same[: len(a), None], LANES), arithmetic.measure(a))
        near[:, : len(left)] = np.diagonal(found, axis1=1, axis2=2)
    if arithmetic.dtype == np.float64:
        for lane in np.flatnonzero(near.any(0)):
            pair = left[lane], (left if right is None else right)[lane]
            _require_apart(arithmetic, pair, block.statistics[:, lane], (corner[0] + int(lane), corner[1] + int(lane)))
    return arithmetic.machine.run_lanes(block, other, same), near


def require_mirrors(program: Program, flips: bool) -> None:
    """Refuse flips of a network that tells left from right.

    Raises
    ------
    LayerError
        With what does not.
    """
    if flips and not program.mirrors:
        raise LayerError(
            "averaging over flips needs a network that does not tell left from right: use odd windows, strides and "
            "poolings whose windows lie the same seen from either side, and no recurrent layer, Padded() or Masked()"
        )


def contents(x: Array) -> Array:
    """Give equal images equal keys: their bytes, as objects."""
    keys = np.empty(len(x), object)
    keys[:] = [image.tobytes() for image in x]
    return keys


def _require_size(images: Array, dtype: np.dtype, first: int) -> None:
    """Refuse images that the dtype does not hold, or not their squares: their kernel would be 0, as if they were empty.

    Of absent pixels, which are NaN, nothing is asked.
    """
    numbers = np.finfo(dtype)
    smallest = float(numbers.tiny) ** 0.5
    largest = np.fmax.reduce(np.abs(images), axis=tuple(range(1, images.ndim)), initial=0).astype(np.float64)
    bad = np.flatnonzero((largest > 0) & (largest < smallest))
    if len(bad):
        raise NotAccurate(
            f"image {first + int(bad[0])} holds no number beyond {float(largest[bad[0]]):.1g}, whose square is 0 in "
            f"{dtype}: scale the images to at least {smallest:.0e}, or use float64"
        )
    bad = np.flatnonzero(largest > numbers.max)
    if len(bad):
        raise NotFinite(
            f"image {first + int(bad[0])} holds a number of size {float(largest[bad[0]]):.1g}, above "
            f"{numbers.max:.0e}, the largest of {dtype}: scale the images down, or use float64"
        )
