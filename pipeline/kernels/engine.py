"""Runs a program on a tile of pairs of images.

Memory is bounded whatever the tile: right images go through in blocks of one lane width, left images in
groups of `LEFT_GROUP`, and their standard deviations are made on the way.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.errors import LayerError, NotFinite
from pipeline.kernels.interpreter import raise_lanes, run_group, run_stage
from pipeline.kernels.lanes import LANES
from pipeline.kernels.program import Array, Program, Stage
from pipeline.kernels.variances import run_variances

LEFT_GROUP = 64
"""Left images whose standard deviations are kept at once: 10 MB for 20 layers of 32 x 32 in float32."""

NUMERICS_VERSION = 1
"""Raised by hand whenever the values change in any bit; a run directory of another version is refused."""


@dataclass(frozen=True)
class _Machine:
    """A stage with its scratch memory, for one thread."""

    stage: Stage
    codes: Array
    params: Array
    params64: Array
    planes: Array
    planes64: Array
    scratch: Array
    scratch64: Array

    @classmethod
    def of(cls, stage: Stage, dtype: np.dtype) -> "_Machine":
        columns = (stage.width + 2 * stage.halo) * LANES
        planes = (stage.register_count, 2, stage.height + stage.halo, columns)
        scratch = (2, max(2, *(op.window[0] for op in stage.operations)), columns)
        double = np.dtype(np.float64)
        return cls(
            stage,
            stage.codes,
            stage.params.astype(dtype),
            stage.params,
            aligned_zeros(planes, dtype),
            aligned_zeros(planes, double),
            aligned_zeros(scratch, dtype),
            aligned_zeros(scratch, double),
        )


@dataclass(frozen=True)
class _Images:
    """Images with what each stage needs to know of them.

    ``pixels`` is ``(n, C, H, W)`` for left images, ``(C, H, W, lanes)`` for a block of right ones; ``gains`` and
    ``inverses`` hold an array a stage, with activations in the place of channels.
    """

    pixels: Array
    gains: tuple[Array, ...]
    inverses: tuple[Array, ...]


class Engine:
    """A program with the memory to run it: for one thread at a time.

    Parameters
    ----------
    program : what to compute for each pair.
    dtype : "float32" or "float64", of images, planes and results.

    Raises
    ------
    LayerError
        If the dtype is another.
    """

    def __init__(self, program: Program, dtype: npt.DTypeLike = "float32") -> None:
        try:
            self.dtype = np.dtype(dtype)
        except TypeError:
            raise LayerError(f'kernels are computed in "float32" or "float64", got dtype={dtype!r}') from None
        if self.dtype.name not in ("float32", "float64"):
            raise LayerError(f'kernels are computed in "float32" or "float64", got dtype={dtype!r}')
        self.program = program
        self._machines = [_Machine.of(stage, self.dtype) for stage in program.stages]

    def evaluate(self, left: Array, right: Array | None = None) -> Array:
        """Evaluate all read-outs for all pairs.

        Equal images count as the same image, wherever they come from: their correlation is exactly 1. A pair's
        bits do not depend on the other images in the call.

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
        symmetric = right is None
        x = self._planar(left)
        z = x if right is None else self._planar(right)
        values = np.empty((self.program.readout_count, len(x), len(z)), self.dtype)
        x_keys, z_keys = _contents(x), _contents(z)
        for top in range(0, len(x), LEFT_GROUP):
            group = self._prepare(x[top : top + LEFT_GROUP])
            stop = min(top + LEFT_GROUP, len(x)) if symmetric else len(z)
            for start in range(0, stop, LANES):
                block = self._prepare_block(z[start : start + LANES])
                count = min(LANES, len(z) - start)
                same = np.zeros((len(group.pixels), LANES), bool)
                same[:, :count] = x_keys[top : top + LEFT_GROUP, None] == z_keys[start : start + count]
                first = max(0, start - top) if symmetric else 0
                result = self._run_group(group, block, same, first)[:, :, :count]
                values[:, top + first : top + len(group.pixels), start : start + count] = result[first:].transpose(
                    1, 0, 2
                )
        if symmetric:
            upper = np.triu_indices(len(x), 1)
            values[:, upper[0], upper[1]] = values[:, upper[1], upper[0]]
        _require_finite(values)
        return values

    def evaluate_self(self, images: Array) -> Array:
        """Evaluate all read-outs for the pairs of each image with itself, the diagonal of `evaluate`.

        Parameters
        ----------
        images : ``(n, H, W, C)`` or ``(n, features)``.

        Returns
        -------
        (readouts, n) array of the engine's dtype.
        """
        x = self._planar(images)
        values = np.empty((self.program.readout_count, len(x)), self.dtype)
        for start in range(0, len(x), LANES):
            _, readouts = self._run_self(x[start : start + LANES], len(self._machines))
            count = min(LANES, len(x) - start)
            values[:, start : start + count] = readouts[:, :count]
        _require_finite(values)
        return values

    def _planar(self, images: Array) -> Array:
        """Check images and return them as ``(n, C, H, W)`` of the engine's dtype."""
        shape = images.shape[1:] if images.ndim == 4 else (1, 1, *images.shape[1:])
        if shape != self.program.input_shape:
            raise LayerError(
                f"expected images of shape {self.program.input_shape}, got an array of shape {images.shape}"
            )
        return np.ascontiguousarray(images.reshape(len(images), *shape).transpose(0, 3, 1, 2), self.dtype)

    def _variances(self, machine: _Machine, pixels: Array, slots: Array) -> tuple[Array, Array]:
        """Make gains and inverses ``(activations, H, W, lanes)`` from ``(C, H, W, lanes)`` and ``(slots, lanes)``."""
        stage = machine.stage
        shape = (stage.activation_count, stage.height, stage.width, LANES)
        gains, inverses = aligned_zeros(shape, self.dtype), aligned_zeros(shape, self.dtype)
        if stage.activation_count:
            run_variances(
                machine.codes,
                machine.params64,
                stage.halo,
                _flat(pixels if machine is self._machines[0] else pixels[:1, :1, :1]),
                slots,
                machine.planes64,
                machine.scratch64,
                _flat(gains),
                _flat(inverses),
            )
            _require_range(stage, gains)
        return gains, inverses

    def _prepare(self, x: Array) -> _Images:
        """Prepare left images ``(n, C, H, W)``."""
        blocks = [self._prepare_block(x[start : start + LANES]) for start in range(0, len(x), LANES)]

        def images_first(arrays: tuple[Array, ...]) -> Array:
            joined = np.concatenate([np.moveaxis(array, -1, 0) for array in arrays])[: len(x)]
            return np.ascontiguousarray(joined)

        gains = tuple(images_first(arrays) for arrays in zip(*(block.gains for block in blocks), strict=True))
        inverses = tuple(images_first(arrays) for arrays in zip(*(block.inverses for block in blocks), strict=True))
        return _Images(x, gains, inverses)

    def _prepare_block(self, x: Array) -> _Images:
        """Prepare up to a lane width of right images ``(n, C, H, W)``; empty lanes hold zeros."""
        pixels = self._lanes_last(x)
        slots = np.zeros((self.program.slot_count, LANES))
        last = max((k for k, machine in enumerate(self._machines) if machine.stage.activation_count), default=0)
        if last > 0:  # a later stage needs the variances that earlier ones reduce to
            slots = np.ascontiguousarray(self._run_self(x, last)[0][:, 0])
        statistics = [self._variances(machine, pixels, slots) for machine in self._machines]
        return _Images(pixels, tuple(gains for gains, _ in statistics), tuple(inverses for _, inverses in statistics))

    def _lanes_last(self, x: Array) -> Array:
        pixels = aligned_zeros((*x.shape[1:], LANES), self.dtype)
        pixels[..., : len(x)] = np.moveaxis(x, 0, -1)
        return pixels

    def _run_group(self, group: _Images, block: _Images, same: Array, first: int) -> Array:
        """Run all stages; return ``(left images, readouts, lanes)`` float64."""
        slots = np.zeros((len(group.pixels), self.program.slot_count, 2, LANES))
        readouts = np.zeros((len(group.pixels), self.program.readout_count, LANES))
        for k, machine in enumerate(self._machines):
            left, right = (
                (group.pixels, block.pixels) if k == 0 else (group.pixels[:, :1, :1, :1], block.pixels[:1, :1, :1])
            )
            run_group(
                machine.codes,
                machine.params,
                machine.stage.offsets,
                machine.stage.marks,
                machine.stage.halo,
                np.ascontiguousarray(left),
                group.gains[k],
                group.inverses[k],
                _flat(right),
                _flat(block.gains[k]),
                _flat(block.inverses[k]),
                same,
                first,
                aligned_zeros(_flat(block.inverses[k]).shape, self.dtype),
                machine.planes,
                machine.scratch,
                slots,
                readouts,
            )
        return readouts

    def _run_self(self, x: Array, stage_count: int) -> tuple[Array, Array]:
        """Run the first stages for up to a lane width of images, each against itself.

        Returns slots ``(slots, 2, lanes)`` and read-outs ``(readouts, lanes)``, float64.
        """
        slots = np.zeros((self.program.slot_count, 2, LANES))
        readouts = np.zeros((self.program.readout_count, LANES))
        pixels = self._lanes_last(x)
        same = np.ones(LANES, bool)
        for k, machine in enumerate(self._machines[:stage_count]):
            gains, inverses = self._variances(machine, pixels, np.ascontiguousarray(slots[:, 0]))
            raised = aligned_zeros(_flat(inverses).shape, self.dtype)
            raise_lanes(_flat(inverses), same, raised)
            here = pixels if k == 0 else np.ascontiguousarray(pixels[:1, :1, :1])
            run_stage(
                machine.codes,
                machine.params,
                machine.stage.offsets,
                machine.stage.marks,
                machine.stage.halo,
                here,
                gains,
                inverses,
                _flat(here),
                _flat(gains),
                _flat(inverses),
                raised,
                machine.planes,
                machine.scratch,
                slots,
                readouts,
            )
        return slots, readouts


def aligned_zeros(shape: tuple[int, ...], dtype: np.dtype) -> Array:
    """Allocate zeros at a multiple of 64 bytes, a cache line: lanes that straddle two lines load half as fast."""
    size_bytes = int(np.prod(shape)) * dtype.itemsize
    memory = np.zeros(size_bytes + 64, np.uint8)
    skip = -memory.ctypes.data % 64
    return memory[skip : skip + size_bytes].view(dtype).reshape(shape)


def _flat(values: Array) -> Array:
    """Join the last two axes, columns and lanes."""
    return np.ascontiguousarray(values).reshape(*values.shape[:-2], values.shape[-2] * values.shape[-1])


def _contents(x: Array) -> Array:
    """Give equal images equal keys: their bytes, as objects."""
    keys = np.empty(len(x), object)
    keys[:] = [image.tobytes() for image in x]
    return keys


def _require_range(stage: Stage, gains: Array) -> None:
    """Refuse standard deviations whose inverses' product overflows: the correlation would be wrong, not infinite."""
    smallest = np.finfo(gains.dtype).tiny ** 0.5
    if np.any((gains > 0) & (gains < smallest)):
        raise NotFinite(
            f"an image has a standard deviation below {smallest:.0e} in a layer of {stage.height} x {stage.width}, "
            f"too small for {gains.dtype}: scale the images or raise w_std, or use float64"
        )


def _require_finite(values: Array) -> None:
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        place = ", ".join(map(str, bad[0][1:]))
        raise NotFinite(
            f"read-out {bad[0][0]} is {values[tuple(bad[0])]} for pair ({place}) of this tile: "
            "the images or the network's w_std, b_std are out of range"
        )
