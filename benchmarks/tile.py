"""Measures how fast a tile is computed, against what the arithmetic alone would take.

Run: ``python benchmarks/tile.py --depth 11 --size 32``

The unit is nanoseconds per plane entry, layer and core: a plane entry is one pair of positions of one pair of
images, a layer one convolution with its ReLU, covariance and tangent. What one entry of one layer costs:

* arithmetic: 8 additions for the two window sums (columns of three, then rows of three, twice); about 35 operations
  for the activation (two polynomials of degree 6 in float32, 16 in float64, and the scalings); one square root.
* bytes: S and T are read once and written once, 4 times 4 bytes in float32, at L2 speed, since a plane of 32 x 32
  positions with 16 lanes is 64 KiB; the sums of the rows above and below come from L1. The right images'
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
from pipeline.kernels.engine import aligned_zeros
from pipeline.kernels.jit import jit
from pipeline.kernels.lanes import LANES, address, left_address
from pipeline.kernels.planes import relu_plane_with_tangent
from pipeline.kernels.program import Array
from pipeline.layers import presets

TILES = {"V": ("flatten", 128, 128), "GAP": ("gap", 2, 16)}
FLOOR_PASSES = 20_000


@jit
def activate_rows(register: Array, target_out: Array, gains: Array, inverses: Array, passes: int) -> None:
    """Run the engine's own loop without window sums over one row, again and again.

    Parameters
    ----------
    register, target_out : ``(2, W * lanes)``, S and T.
    gains, inverses : ``(1, 1, W * lanes)``; their first numbers serve as the left image's too.
    passes : how often.
    """
    width = register.shape[1] // LANES
    source, target = address(register, 0), address(target_out, 0)
    steps = (register.shape[1], register.shape[1], register.shape[1])
    scale, zero, one = gains.dtype.type(2.0 / 9.0), gains.dtype.type(0), gains.dtype.type(1)
    left_gain, left_inverse = left_address(gains, 0), left_address(inverses, 0)
    right_gain, right_inverse = address(gains, 0), address(inverses, 0)
    for _ in range(passes):
        relu_plane_with_tangent(
            source,
            target,
            source,
            steps,
            (1, width),
            (scale, zero, one),
            left_gain,
            left_inverse,
            right_gain,
            right_inverse,
            width,
        )


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
    random = np.random.default_rng(0)
    register, target = (
        aligned_zeros((2, size * LANES), np.dtype(dtype)),
        aligned_zeros((2, size * LANES), np.dtype(dtype)),
    )
    register[:] = random.uniform(0.5, 1.5, register.shape)
    gains, inverses = random.uniform(0.5, 1.5, (2, 1, 1, size * LANES)).astype(dtype)
    seconds = best_seconds(lambda: activate_rows(register, target, gains, inverses, FLOOR_PASSES), repeat)
    return seconds / (FLOOR_PASSES * size * LANES) * 1e9


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
