"""Measures how fast a tile is computed, against what the arithmetic alone would take.

Run: ``python benchmarks/tile.py --depth 11 --size 32``

The unit is nanoseconds per plane entry, layer and core: a plane entry is one pair of positions of one pair of
images, a layer one convolution with its ReLU, covariance and tangent. What one entry of one layer costs:

* arithmetic: 8 additions for the two window sums (columns of three, then rows of three, twice); about 35 operations
  for the activation (two polynomials of degree 6 in float32, 16 in float64, and the scalings); one square root.
* bytes: S and T are read once and written once, 4 times 4 bytes in float32, at L2 speed, since a plane of 32 x 32
  positions with 16 lanes is 64 KiB; the rows above and below and the column sums come from L1. The right images'
  gains and inverses add 8 bytes; the left image's are one scalar for 16 lanes.

The floor is the activation with its tangent alone, in the same process, on rows that stay in L1. The ratio of the
two is what loads, stores, window sums and dispatch cost on top. Everything runs in one thread; best of several
repeats, since others may use the machine.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np

from pipeline.kernels import Engine, lower
from pipeline.kernels.duals import relu_duals
from pipeline.kernels.jit import jit
from pipeline.kernels.lanes import LANES
from pipeline.layers import presets

TILES = {"V": ("flatten", 128, 128), "GAP": ("gap", 2, 16)}
FLOOR_PASSES = 20_000


@jit
def activate_rows(s, t, left_gain, left_inverse, right_gain, right_inverse, lanes, s_out, t_out):
    """Apply a ReLU with its tangent to one row again and again, once for each left row; writes ``s_out, t_out``.

    Parameters
    ----------
    s, t, right_gain, right_inverse, s_out, t_out : ``(W * lanes,)``.
    left_gain, left_inverse : ``(passes, W)``.
    lanes : a tuple as long as there are lanes: its length is part of its type, a constant to the compiler.
    """
    scale = s.dtype.type(2.0 / 9.0)
    half = s.dtype.type(0.5)
    for i in range(left_gain.shape[0]):
        for j in range(left_gain.shape[1]):
            x_gain, x_inverse = left_gain[i, j], left_inverse[i, j]
            for lane in range(len(lanes)):
                m = j * len(lanes) + lane
                covariance = scale * s[m]
                tangent = half * scale * t[m] + half * covariance
                k0, k1 = relu_duals(covariance * (x_inverse * right_inverse[m]))
                s_out[m] = k1 * (x_gain * right_gain[m])
                t_out[m] = tangent * k0


def best_seconds(action: Callable[[], object], repeat: int) -> float:
    """Time an action several times, after once to compile and warm up; return the shortest."""
    action()
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return min(times)


def measure_floor(size: int, dtype: str, repeat: int) -> float:
    """Return nanoseconds per entry of the activation alone."""
    lanes, random = LANES, np.random.default_rng(0)
    s, t, right_gain, right_inverse = random.uniform(0.5, 1.5, (4, size * lanes)).astype(dtype)
    left_gain, left_inverse = random.uniform(0.5, 1.5, (2, FLOOR_PASSES, size)).astype(dtype)
    s_out, t_out = np.empty_like(s), np.empty_like(t)
    tuple_of_lanes = (1,) * lanes
    seconds = best_seconds(
        lambda: activate_rows(s, t, left_gain, left_inverse, right_gain, right_inverse, tuple_of_lanes, s_out, t_out),
        repeat,
    )
    return 1e9 * seconds / (FLOOR_PASSES * size * lanes)


def measure_tile(name: str, depth: int, size: int, dtype: str, repeat: int) -> tuple[float, float]:
    """Return nanoseconds per plane entry and layer, and seconds per kernel entry."""
    pooling, left_count, right_count = TILES[name]
    program = lower([(presets.cntk(depth, pooling), "ntk")], (size, size, 3))
    engine, random = Engine(program, dtype), np.random.default_rng(1)
    left, right = (random.standard_normal((n, size, size, 3)).astype(dtype) for n in (left_count, right_count))
    seconds = best_seconds(lambda: engine.evaluate(left, right), repeat) / (left_count * right_count)
    return 1e9 * seconds / program.plane_entries, seconds


def main() -> None:
    """Print one line for each network and dtype, then what float64 costs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--depth", type=int, default=11, help="convolutions plus one (default 11)")
    parser.add_argument("--size", type=int, default=32, help="height and width of the images (default 32)")
    parser.add_argument("--dtype", choices=("float32", "float64", "both"), default="both")
    parser.add_argument("--repeat", type=int, default=5, help="repeats, of which the best counts (default 5)")
    arguments = parser.parse_args()
    dtypes = ("float32", "float64") if arguments.dtype == "both" else (arguments.dtype,)

    print(f"depth {arguments.depth}, {arguments.size} x {arguments.size} x 3, one thread, best of {arguments.repeat}")
    print(f"{'network':8} {'dtype':8} {'tile':>9} {'ns':>7} {'floor ns':>9} {'ratio':>6} {'per kernel entry':>17}")
    nanoseconds = {}
    for dtype in dtypes:
        floor = measure_floor(arguments.size, dtype, arguments.repeat)
        for name, (_, left_count, right_count) in TILES.items():
            taken, seconds = measure_tile(name, arguments.depth, arguments.size, dtype, arguments.repeat)
            nanoseconds[name, dtype] = taken
            cost = f"{1e6 * seconds:.1f} us" if seconds < 1e-3 else f"{1e3 * seconds:.2f} ms"
            tile = f"{left_count} x {right_count}"
            print(f"{name:8} {dtype:8} {tile:>9} {taken:7.3f} {floor:9.3f} {taken / floor:6.2f} {cost:>17}")
    if len(dtypes) == 2:
        for name in TILES:
            ratio = nanoseconds[name, "float64"] / nanoseconds[name, "float32"]
            print(f"{name}: float64 / float32 = {ratio:.2f}")


if __name__ == "__main__":
    main()
