"""Runs a program on a tile of pairs of images.

The interpreter is one compiled loop over offsets, operations and rows. Dispatch costs nothing beside a
plane's arithmetic, nothing is generated at run time, and so numba's disk cache always hits.

Memory is bounded whatever the tile: right images go through in blocks of one lane width, left images in
groups of `LEFT_GROUP`, and their standard deviations are made on the way.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.errors import LayerError, NotFinite
from pipeline.kernels.jit import jit
from pipeline.kernels.lanes import LANES, address, left_address
from pipeline.kernels.planes import (
    add_plane_sum,
    clear_rims,
    convolved_plane,
    convolved_plane_with_tangent,
    convolved_relu_plane,
    convolved_relu_plane_with_tangent,
    input_plane,
    linear_plane,
    linear_plane_with_tangent,
    relu_plane,
    relu_plane_with_tangent,
    sum_windows,
)
from pipeline.kernels.program import Array, Code, Program, Stage
from pipeline.kernels.variances import run_variances

LEFT_GROUP = 64
"""Left images whose standard deviations are kept at once: 10 MB for 20 layers of 32 x 32 in float32."""

NUMERICS_VERSION = 1
"""Raised by hand whenever the values change in any bit; a run directory of another version is refused."""

_INPUT, _LOAD, _LINEAR, _REDUCE, _OUTPUT = (
    int(code) for code in (Code.INPUT, Code.LOAD, Code.LINEAR, Code.REDUCE, Code.OUTPUT)
)


@jit
def run_stage(
    codes: Array,
    params: Array,
    offsets: Array,
    marks: Array,
    halo: int,
    left: Array,
    left_gains: Array,
    left_inverses: Array,
    right: Array,
    right_gains: Array,
    right_inverses: Array,
    right_inverses_at_zero: Array,
    planes: Array,
    scratch: Array,
    slots: Array,
    readouts_out: Array,
) -> None:
    """Run one stage for one left image against one block of right images.

    Parameters
    ----------
    codes, params, offsets, marks, halo : of the `Stage`; params in the dtype of the planes.
    left : ``(C, H, W)``, and gains and inverses ``(activations, H, W)``; each with a last axis of lanes for pairs
        of an image with itself.
    right, right_gains, right_inverses : ``(C or activations, H, W * lanes)``.
    right_inverses_at_zero : the same for offset (0, 0), as `raise_lanes` left them.
    planes : ``(registers, 2, H + halo, (W + 2 halo) * lanes)``, scratch; S is 0, T is 1.
    scratch : ``(2, largest window height, at least 2, (W + 2 halo) * lanes)``.
    slots : ``(slots, 2, lanes)`` float64; REDUCE adds to them, LOAD reads them.
    readouts_out : ``(readouts, lanes)`` float64.
    """
    stride, width = planes.shape[3], left.shape[2]
    area = left.shape[1] * width
    plane_size = planes.shape[2] * stride
    ring = address(scratch, 0)
    steps = (stride, plane_size, scratch.shape[1] * stride)
    for o in range(offsets.shape[0]):
        dy, dx = offsets[o, 0], offsets[o, 1]
        shape = (left.shape[1] - abs(dy), width - abs(dx))
        inverses = right_inverses_at_zero if dy == 0 and dx == 0 else right_inverses
        x, z = max(0, -dy) * width + max(0, -dx), max(0, dy) * width + max(0, dx)
        if halo > 0:
            clear_rims(planes, shape, halo)
        for p in range(codes.shape[0]):
            if not marks[p, o]:
                continue
            code, slot, tangent = codes[p, 0], codes[p, 6], codes[p, 7] != 0
            source = address(planes, 2 * codes[p, 1] * plane_size + halo * LANES)
            target = address(planes, 2 * codes[p, 2] * plane_size + halo * LANES)
            window, factors = (codes[p, 4], codes[p, 5]), (params[p, 0], params[p, 1], params[p, 2])
            if code == _INPUT:
                first_x, first_z = left_address(left, x), address(right, z * LANES)
                image = (left.shape[0], area, width)
                input_plane(first_x, first_z, target, steps[:2], shape, image, factors[0])
            elif code == _LOAD:
                for lane in range(LANES):
                    planes[codes[p, 2], 0, 0, halo * LANES + lane] = slots[slot, 0, lane]
                    planes[codes[p, 2], 1, 0, halo * LANES + lane] = slots[slot, 1, lane]
            elif code == _REDUCE:
                add_plane_sum(source, stride, shape, factors[0], address(slots, 2 * slot * LANES))
                if tangent:
                    add_plane_sum(
                        address(source, plane_size), stride, shape, factors[0], address(slots, (2 * slot + 1) * LANES)
                    )
            elif code == _OUTPUT:
                for lane in range(LANES):
                    readouts_out[slot, lane] = planes[codes[p, 1], codes[p, 7], 0, halo * LANES + lane]
            else:
                first = codes[p, 3] * area
                left_gain, left_inverse = left_address(left_gains, first + x), left_address(left_inverses, first + x)
                right_gain = address(right_gains, (first + z) * LANES)
                right_inverse = address(inverses, (first + z) * LANES)
                convolve = window == (3, 3)
                if not convolve and window != (1, 1):
                    sum_windows(source, target, ring, stride, shape, window)
                    if tangent:
                        sum_windows(
                            address(source, plane_size), address(target, plane_size), ring, stride, shape, window
                        )
                    source = target
                args = (source, target, ring, steps, shape, factors)
                statistics = (left_gain, left_inverse, right_gain, right_inverse, width)
                if code == _LINEAR:
                    if convolve and tangent:
                        convolved_plane_with_tangent(*args, *statistics)
                    elif convolve:
                        convolved_plane(*args, *statistics)
                    elif tangent:
                        linear_plane_with_tangent(*args, *statistics)
                    else:
                        linear_plane(*args, *statistics)
                elif convolve and tangent:
                    convolved_relu_plane_with_tangent(*args, *statistics)
                elif convolve:
                    convolved_relu_plane(*args, *statistics)
                elif tangent:
                    relu_plane_with_tangent(*args, *statistics)
                else:
                    relu_plane(*args, *statistics)


@jit
def raise_lanes(inverses: Array, same: Array, inverses_out: Array) -> None:
    """Copy right inverses, raised by 1 / 128 in the lanes of ``same``.

    At offset (0, 0) a pair of equal images then has a correlation above 1, which the dual activation clips to
    exactly 1. Computed, it would be 1 - 6e-8 in float32, and its arc cosine would lower the diagonal of the NTK
    by up to 4e-4: a negative ridge.

    Parameters
    ----------
    inverses, inverses_out : ``(activations, H, W * lanes)``.
    same : ``(lanes,)`` bool.
    """
    factor = inverses.dtype.type(1.0 + 1.0 / 128)
    for a in range(inverses.shape[0]):
        for i in range(inverses.shape[1]):
            for j in range(inverses.shape[2] // LANES):
                for lane in range(LANES):
                    value = inverses[a, i, j * LANES + lane]
                    inverses_out[a, i, j * LANES + lane] = value * factor if same[lane] else value


@jit
def run_group(
    codes: Array,
    params: Array,
    offsets: Array,
    marks: Array,
    halo: int,
    left: Array,
    left_gains: Array,
    left_inverses: Array,
    right: Array,
    right_gains: Array,
    right_inverses: Array,
    same: Array,
    first: int,
    raised: Array,
    planes: Array,
    scratch: Array,
    slots: Array,
    readouts_out: Array,
) -> None:
    """Run one stage for a group of left images against one block of right images.

    Parameters are those of `run_stage`, with a first axis of left images for ``left``, ``left_gains``,
    ``left_inverses``, ``slots`` and ``readouts_out``; and

    same : ``(left images, lanes)`` bool, pairs of equal images.
    first : left images before this one are skipped.
    raised : as ``right_inverses``, scratch.
    """
    for n in range(first, left.shape[0]):
        at_zero = right_inverses
        if np.any(same[n]):
            raise_lanes(right_inverses, same[n], raised)
            at_zero = raised
        run_stage(
            codes,
            params,
            offsets,
            marks,
            halo,
            left[n],
            left_gains[n],
            left_inverses[n],
            right,
            right_gains,
            right_inverses,
            at_zero,
            planes,
            scratch,
            slots[n],
            readouts_out[n],
        )


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

    @classmethod
    def of(cls, stage: Stage, dtype: np.dtype) -> "_Machine":
        halo = stage.halo
        columns = (stage.width + 2 * halo) * LANES
        return cls(
            stage,
            stage.codes,
            stage.params.astype(dtype),
            stage.params,
            aligned_zeros((stage.register_count, 2, stage.height + halo, columns), dtype),
            np.zeros((stage.register_count + 1, stage.height + 2 * halo, stage.width + 2 * halo)),
            aligned_zeros((2, max(2, *(op.window[0] for op in stage.operations)), columns), dtype),
        )


@dataclass(frozen=True)
class _Images:
    """Images with what each stage needs to know of them.

    ``pixels`` is ``(n, C, H, W)``, or ``(C, H, W, lanes)`` for a block of lanes; ``gains`` and ``inverses`` hold an
    array a stage, with activations in the place of channels.
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

    def _variances(self, machine: _Machine, x: Array, slots: Array, gains_out: Array, inverses_out: Array) -> None:
        """Fill ``(n, activations, H, W)`` views from images ``(n, C, H, W)`` and their slots ``(n, slots)``."""
        if machine.stage.activation_count == 0:
            return
        for n in range(len(x)):
            run_variances(
                machine.codes,
                machine.params64,
                machine.stage.halo,
                x[n] if machine is self._machines[0] else x[n, :1, :1, :1],
                slots[n],
                machine.planes64,
                gains_out[n],
                inverses_out[n],
            )
        _require_range(machine.stage, gains_out)

    def _statistics_shape(self, stage: Stage) -> tuple[int, int, int]:
        return (stage.activation_count, stage.height, stage.width)

    def _self_slots(self, x: Array) -> list[Array]:
        """Evaluate the slots of each image with itself, ``(n, slots)`` a stage, where a later stage needs them."""
        last = max((k for k, m in enumerate(self._machines) if m.stage.activation_count), default=0)
        slots = np.zeros((len(x), self.program.slot_count))
        if last > 0:
            for start in range(0, len(x), LANES):
                sums, _ = self._run_self(x[start : start + LANES], last)
                count = min(LANES, len(x) - start)
                slots[start : start + count] = sums[:, 0, :count].T
        return [slots] * len(self._machines)

    def _prepare(self, x: Array) -> _Images:
        slots = self._self_slots(x)
        gains, inverses = [], []
        for machine, sums in zip(self._machines, slots, strict=True):
            shape = (len(x), *self._statistics_shape(machine.stage))
            gains.append(np.empty(shape, self.dtype))
            inverses.append(np.empty(shape, self.dtype))
            self._variances(machine, x, sums, gains[-1], inverses[-1])
        return _Images(x, tuple(gains), tuple(inverses))

    def _prepare_block(self, x: Array) -> _Images:
        """Prepare up to a lane width of images as a block; empty lanes hold zeros."""
        slots = self._self_slots(x)
        gains, inverses = [], []
        for machine, sums in zip(self._machines, slots, strict=True):
            shape = (*self._statistics_shape(machine.stage), LANES)
            gains.append(aligned_zeros(shape, self.dtype))
            inverses.append(aligned_zeros(shape, self.dtype))
            views = (np.moveaxis(a[-1], -1, 0) for a in (gains, inverses))
            self._variances(machine, x, sums, *views)
        return _Images(self._lanes_last(x), tuple(gains), tuple(inverses))

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
            shape = (*self._statistics_shape(machine.stage), LANES)
            gains, inverses = aligned_zeros(shape, self.dtype), aligned_zeros(shape, self.dtype)
            self._variances(
                machine, x, slots[:, 0, : len(x)].T.copy(), np.moveaxis(gains, -1, 0), np.moveaxis(inverses, -1, 0)
            )
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
