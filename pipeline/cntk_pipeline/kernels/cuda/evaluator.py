"""Pairs of images on a device; what they need besides is computed on the CPU, as the CPU's engine does.

The CPU prepares the statistics of each image, and computes the pairs that planes of float32 are not exact enough for.
Such pairs are few, and have the bits that the engine "cpu" gives them. It does both while the device computes: a tile
is cut into launches, of which the next one is prepared and started before the one under way is waited for.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from cntk_pipeline.errors import DeviceLost
from cntk_pipeline.kernels.arithmetic import Group
from cntk_pipeline.kernels.base import mirror_lower
from cntk_pipeline.kernels.cuda.buffers import band_size, kept_images, launch_size
from cntk_pipeline.kernels.cuda.device import errors_of_driver
from cntk_pipeline.kernels.cuda.layout import Layout
from cntk_pipeline.kernels.cuda.packing import Packed, pack_left, pack_right
from cntk_pipeline.kernels.evaluator import CpuEvaluator
from cntk_pipeline.kernels.lanes import LANES
from cntk_pipeline.kernels.machine import EQUAL, ITSELF, Block
from cntk_pipeline.kernels.program import Array, Program


class Launcher(Protocol):
    """Runs the kernel of a program on something, a few launches at once."""

    layout: Layout

    def start(self, left: Packed, right: Packed, pairs: Array, *, wait: bool = True) -> Any:
        """Start a launch of pairs.

        Parameters
        ----------
        left, right : Packed
            Images; not written afterwards, since what was copied once is not copied again.
        pairs : int32 array, (n, 3)
            Left image, right image, how much they are the same; not written either.
        wait : bool
            Whether to wait until there is room for another launch, which other threads may have.

        Returns
        -------
        object
            What `finish` takes; None where there is no room, and no wait is asked for.
        """
        ...

    def finish(self, flight: Any) -> Array:
        """Wait for a launch and return its values, ``(n, readouts)`` float64."""
        ...


@dataclass(frozen=True)
class _Left:
    """Left images as the CPU and as the device reads them."""

    group: Group
    packed: Packed


@dataclass(frozen=True)
class _Right:
    """Right images that several launches have, as the CPU and as the device reads them."""

    images: Array
    blocks: list[Block]
    packed: Packed


@dataclass(frozen=True)
class Launch:
    """A launch, prepared.

    Attributes
    ----------
    rows, cols : slice
        The part of the tile, or of the pairs of a diagonal.
    wanted : bool array, (rows, cols) or None
        The pairs; None for those of a diagonal.
    images : (array, array)
        Left and right ones.
    packed : (Packed, Packed)
        The same for the device.
    pairs : int32 array, (n, 3)
        As of `Launcher.start`.
    near : array
        Numbers of the pairs that are too near for the planes' dtype.
    """

    rows: slice
    cols: slice
    wanted: Array | None
    images: tuple[Array, Array]
    packed: tuple[Packed, Packed]
    pairs: Array
    near: Array


class CudaEvaluator(CpuEvaluator):
    """A program on a device: for one thread at a time.

    Parameters
    ----------
    program, dtype, flips
        As of `CpuEvaluator`.
    launcher : Launcher
        Of the program's kernel.

    Attributes
    ----------
    launcher : Launcher
        Shared with other evaluators.

    Raises
    ------
    DeviceLost
        By its methods, if the device fails: most errors of CUDA leave a process that can do nothing more on it.
    """

    def __init__(self, program: Program, dtype: str, flips: bool, launcher: Launcher) -> None:
        super().__init__(program, dtype, flips)
        self.launcher = launcher
        self._size = launch_size(program, launcher.layout)

    def _evaluate(self, x: Array, z: Array, first: tuple[int, int], symmetric: bool, one_sample: bool) -> Array:
        """Evaluate all pairs of ``(n, C, H, W)``; where the result is ``symmetric``, the lower triangle, mirrored."""
        values = np.empty((self.program.readout_count, len(x), len(z)), self.dtype)
        launches = self.launches(x, z, symmetric=symmetric, one_sample=one_sample)
        for launch, found in self._run(launches, first):
            values[:, launch.rows, launch.cols][:, launch.wanted] = found
        if symmetric:
            mirror_lower(values)
        return values

    def _evaluate_pairs(self, x: Array, z: Array, first: tuple[int, int], one_sample: bool) -> Array:
        values = np.empty((self.program.readout_count, len(x)), self.dtype)
        for launch, found in self._run(self._diagonal(x, z, one_sample), first):
            values[:, launch.rows] = found
        return values

    def launches(self, x: Array, z: Array, *, symmetric: bool = False, one_sample: bool = False) -> Iterator[Launch]:
        """Prepare the launches of a tile, one when it is asked for.

        Parameters
        ----------
        x, z : array, (n, C, H, W)
            Of `planar`.
        symmetric : bool
            Of pairs on and below the diagonal alone.
        one_sample : bool
            Images of one number are one sample.
        """
        x_keys, z_keys = _number_contents(x, z)
        layout, kept = self.launcher.layout, dict[int, _Left]()
        height = band_size(self.program, layout, len(x), len(z))
        most = kept_images(self.program, layout, len(x)) if len(z) > self._size else 0
        for start in range(0, len(z), self._size):
            cols = slice(start, min(start + self._size, len(z)))
            right = self._prepare_right(z[cols])
            for top in range(start if symmetric else 0, len(x), height):
                rows = slice(top, min(top + height, len(x)))
                row_numbers, col_numbers = np.r_[rows][:, None], np.r_[cols]
                same = (EQUAL * (x_keys[rows, None] == z_keys[cols])).astype(np.int8)
                if one_sample:
                    same[row_numbers == col_numbers] = ITSELF
                wanted = row_numbers >= col_numbers if symmetric else np.ones(same.shape, bool)
                left = kept.get(top) or self._prepare_left(x[rows])
                if rows.stop <= most:
                    kept[top] = left
                near = np.zeros(same.shape, bool)
                for k, block in zip(range(0, len(right.images), LANES), right.blocks, strict=True):
                    lanes = slice(k, k + block.count)
                    found = self._find_near(left.group, slice(None), right.images[lanes], block, same[:, lanes])
                    near[:, lanes] = found
                yield self._launch(left, right, same, rows, cols, wanted, near)

    def _diagonal(self, x: Array, z: Array, one_sample: bool) -> Iterator[Launch]:
        """Prepare the launches of pairs of one number, one when it is asked for."""
        for start in range(0, len(x), self._size):
            rows = slice(start, min(start + self._size, len(x)))
            left, right = self._prepare_left(x[rows]), self._prepare_right(z[rows])
            keys = _number_contents(x[rows], z[rows])
            same = np.full(len(right.images), ITSELF, np.int8)
            if not one_sample:
                same = (EQUAL * (keys[0] == keys[1])).astype(np.int8)
            near = np.zeros(len(same), bool)
            for k, block in zip(range(0, len(same), LANES), right.blocks, strict=True):
                lanes = slice(k, k + block.count)
                square = np.diag(same[lanes])
                found = self._find_near(left.group, lanes, right.images[lanes], block, square)
                near[lanes] = np.diagonal(found)
            yield self._launch(left, right, same, rows, rows, None, near)

    def _launch(
        self, left: _Left, right: _Right, same: Array, rows: slice, cols: slice, wanted: Array | None, near: Array
    ) -> Launch:
        places = np.indices(same.shape, np.int32) if wanted is not None else [np.arange(len(same))] * 2
        listed = np.stack([*places, same], axis=-1, dtype=np.int32, casting="unsafe")
        chosen = np.ones(same.shape, bool) if wanted is None else wanted
        return Launch(
            rows,
            cols,
            wanted,
            (left.group.images, right.images),
            (left.packed, right.packed),
            listed.reshape(-1, 3) if chosen.all() else listed[chosen],
            np.flatnonzero(near[chosen]),
        )

    def _prepare_left(self, images: Array) -> _Left:
        group = Group(self.planes, images)
        return _Left(group, pack_left(self.launcher.layout, images, group.statistics(slice(None)).T))

    def _prepare_right(self, images: Array) -> _Right:
        starts = range(0, len(images), LANES)
        blocks = [self.planes.prepare(images[k : k + LANES]) for k in starts]
        statistics = np.concatenate([block.statistics[:, : block.count].T for block in blocks])
        return _Right(images, blocks, pack_right(self.launcher.layout, images, statistics))

    def _find_near(self, group: Group, rows: slice, right: Array, block: Block, same: Array) -> Array:
        """Find the pairs with a block that are too near for the planes' dtype in any read-out: ``(rows, block)``."""
        lanes = np.zeros((len(group.images), LANES), np.int8)
        lanes[rows, : block.count] = same
        near = group.find_near(rows, right, block, lanes)[:, :, : block.count]
        return np.logical_or.reduce(near)

    def _run(self, launches: Iterator[Launch], first: tuple[int, int]) -> Iterator[tuple[Launch, Array]]:
        """Run launches and return their values, ``(readouts, pairs)``; each is started before the last one is read.

        Only a thread that has none under way waits for room, or two threads could wait for each other.
        """
        under_way: tuple[Launch, Any] | None = None
        try:
            for launch in launches:
                if self.planes.machine.memory.stop[0]:  # see `interrupt`
                    return
                flight = self._start(launch, wait=under_way is None)
                if flight is None and under_way is not None:
                    last, under_way = under_way, None
                    yield self._finish(*last, first)
                    flight = self._start(launch, wait=True)
                before, under_way = under_way, (launch, flight)
                if before is not None:
                    yield self._finish(*before, first)
            if under_way is not None:
                last, under_way = under_way, None
                yield self._finish(*last, first)
        finally:
            if under_way is not None:  # its room is another thread's from here on
                with _losing_devices():
                    self.launcher.finish(under_way[1])

    def _start(self, launch: Launch, wait: bool) -> Any:
        with _losing_devices():
            return self.launcher.start(*launch.packed, launch.pairs, wait=wait)

    def _finish(self, launch: Launch, flight: Any, first: tuple[int, int]) -> tuple[Launch, Array]:
        """Wait for a launch; compute the pairs that are too near for its dtype."""
        with _losing_devices():
            found = self.launcher.finish(flight).T
        with np.errstate(over="ignore"):  # what is not finite is refused where it is returned
            values = found.astype(self.dtype)
        x, z = launch.images
        for number in launch.near:
            row, col, same = launch.pairs[number].tolist()
            place = first[0] + launch.rows.start + row, first[1] + launch.cols.start + col
            pair = x[row : row + 1], z[col : col + 1]
            values[:, number] = super()._evaluate_pairs(*pair, place, one_sample=same == ITSELF)[:, 0]
        return launch, values


@contextlib.contextmanager
def _losing_devices() -> Iterator[None]:
    """Turn errors of the driver into the loss of the device."""
    try:
        yield
    except errors_of_driver() as error:
        raise DeviceLost(f"the graphics card of this process failed, and is lost to it: {error}") from error


def _number_contents(x: Array, z: Array) -> tuple[Array, Array]:
    """Number images by what they hold, so that equal ones have equal numbers."""
    known: dict[bytes, int] = {}
    left, right = ([known.setdefault(image.tobytes(), len(known)) for image in images] for images in (x, z))
    return np.array(left, np.int64), np.array(right, np.int64)
