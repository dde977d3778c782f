"""Measures how fast tiles are computed, against what the arithmetic alone would take.

Run: ``python benchmarks/tile.py``; ``--quick`` for the first lines only, ``--sharing`` for networks that share layers.

The unit is nanoseconds per plane entry and core: a plane entry is one pair of positions of one pair of images in one
layer, which is a convolution with its ReLU, covariance and tangent. What it costs:

* arithmetic: 8 additions for the two window sums (columns of three, then rows of three, twice); about 35 operations
  for the activation (two polynomials of degree 6 in float32, 16 in float64, and the scalings); one square root.
* bytes: S and T are read once and written once, 4 times 4 bytes in float32, at L2 speed, since a plane of 32 x 32
  positions with 16 lanes is 64 KiB; the sums of the rows above and below come from L1. The right images'
  statistics add 8 bytes; the left image's are one number for 16 lanes.

The floor is the engine's own loop, activation and tangent without window sums, in the same process, on rows that stay
in L1. The ratio of the two is what loads, stores, window sums and dispatch cost on top. Each network runs by turns with
the floor and with CNTK-V or CNTK-GAP of depth 11, in the processor time of its thread, since others may use the machine
and its pace changes: times are the best of several turns, ratios the median of those within a turn.
"""

import argparse
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from cntk_pipeline import kernel_matrices, kernel_matrix
from cntk_pipeline.kernels import CpuEvaluator, lower
from cntk_pipeline.kernels.jit import jit
from cntk_pipeline.kernels.lanes import LANES, address, call
from cntk_pipeline.kernels.machine import aligned_zeros
from cntk_pipeline.kernels.program import Array
from cntk_pipeline.kernels.weighing import Place, plane_function
from cntk_pipeline.layers import (
    AvgPool,
    Dense,
    Erf,
    Gelu,
    GlobalAvgPool,
    LastState,
    Layer,
    MaxPool,
    Recurrent,
    Relu,
    Sequential,
    presets,
)

FLOOR_PASSES = 20_000


@dataclass(frozen=True)
class Case:
    """A network with a tile: left images, right images, and pixels along an edge, and along another of ``height``.

    It is measured by turns with ``beside``, or with CNTK-V or CNTK-GAP of depth 11.
    """

    name: str
    network: Sequential
    rows: int
    columns: int
    size: int = 32
    dtype: str = "float32"
    height: int | None = None
    beside: Sequential | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of an image."""
        return (self.size if self.height is None else self.height), self.size, 3


def recurrent(readout: Layer) -> Sequential:
    """Build a recurrent network of one layer."""
    return Sequential(Recurrent(Relu(), w_std=2**0.5, u_std=0.5, b_std=0.1), readout, Dense())


def pooled_resnet() -> Sequential:
    """Build a residual network of 20 layers whose resolution falls by average pooling, not by strides."""
    flat = presets.resnet(20).flattened()
    # The strided blocks are the fifth and the eighth; a plain one and a pooling take their place.
    plain = flat[1]
    return Sequential(flat[0], *[plain] * 3, AvgPool(2), *[plain] * 3, AvgPool(2), *[plain] * 3, *flat[10:])


def with_fifth(*instead: Layer) -> Sequential:
    """Build CNTK-GAP of depth 11 with other layers in the place of the fifth of its ten ReLUs."""
    flat = presets.cntk(11, "gap").flattened()
    fifth = [place for place, layer in enumerate(flat) if isinstance(layer, Relu)][4]
    return Sequential(*flat[:fifth], *instead, *flat[fifth + 1 :])


def with_function(network: Sequential, function: Layer) -> Sequential:
    """Put another activation in the place of ReLU."""
    return Sequential(*(function if isinstance(layer, Relu) else layer for layer in network.flattened()))


def cases() -> list[Case]:
    """List what is measured, the references of the others first."""
    v, gap = (lambda depth: presets.cntk(depth)), (lambda depth: presets.cntk(depth, "gap"))
    return [
        Case("CNTK-V depth 11", v(11), 128, 128),
        Case("CNTK-GAP depth 11", gap(11), 2, 16),
        Case("CNTK-V depth 11", v(11), 128, 128, dtype="float64"),
        Case("CNTK-GAP depth 11", gap(11), 1, 16, dtype="float64"),
        Case("CNTK-V depth 21", v(21), 128, 128),
        Case("CNTK-GAP depth 21", gap(21), 1, 16),
        Case("CNTK-V depth 11", v(11), 128, 128, size=28),
        Case("CNTK-GAP depth 11", gap(11), 2, 16, size=28),
        Case("CNTK-V depth 11", v(11), 512, 512, size=8),
        Case("CNTK-GAP depth 11", gap(11), 32, 64, size=8),
        Case("Myrtle-5", presets.myrtle(5), 6, 16),
        Case("Myrtle-7", presets.myrtle(7), 6, 16),
        Case("Myrtle-10", presets.myrtle(10), 6, 16),
        Case("ResNet-20, strides", presets.resnet(20), 16, 32),
        Case("ResNet-20, pooling", pooled_resnet(), 1, 16),
        Case("CNTK-V depth 11, Erf", with_function(v(11), Erf()), 128, 128),
        Case("CNTK-V depth 11, Gelu", with_function(v(11), Gelu()), 128, 128),
        Case("CNTK-GAP depth 11, Erf", with_function(gap(11), Erf()), 2, 16),
        Case("CNTK-GAP depth 11, Gelu", with_function(gap(11), Gelu()), 2, 16),
        # The maximum of a pair is a nonlinearity itself, and takes the place of a ReLU.
        Case("MaxPool to AvgPool", with_fifth(MaxPool((1, 2))), 2, 16, beside=with_fifth(Relu(), AvgPool((1, 2)))),
        Case("Recurrent, all times", recurrent(GlobalAvgPool()), 8, 16, size=150, height=1, dtype="float64"),
        Case("Recurrent, last state", recurrent(LastState()), 128, 128, size=150, height=1, dtype="float64"),
    ]


@jit
def activate_rows(
    function: int, register: Array, target_out: Array, statistics: Array, place: Array, factors: Array, passes: int
) -> None:
    """Run the engine's own loop without window sums over one row, again and again.

    Parameters
    ----------
    function : int
        Address of the loop.
    register, target_out : array, (2 W lanes,)
        S and T.
    statistics : array, (2 W lanes,)
        Their first numbers serve as the left image's too.
    place, factors : array
        Of the loop.
    passes : int
        How often.
    """
    source, target, known = address(register, 0), address(target_out, 0), address(statistics, 0)
    for _ in range(passes):
        call(function, (source, target, source, known, known, address(place, 0), address(factors, 0)))


def measure_floor(dtype: str, size: int = 32) -> float:
    """Return nanoseconds per entry of the activation alone, on rows of ``size`` pixels."""
    random, kind = np.random.default_rng(0), np.dtype(dtype)
    register, target, statistics = (aligned_zeros((2 * size * LANES,), kind) for _ in range(3))
    register[:] = random.uniform(0.5, 1.5, register.shape)
    statistics[:] = random.uniform(0.5, 1.5, statistics.shape)
    place = np.zeros(len(Place), np.int64)
    place[[Place.STRIDE, Place.TANGENT, Place.HEIGHT, Place.WIDTH]] = size * LANES, size * LANES, 1, size
    place[[Place.LEFT_STATISTIC, Place.RIGHT_STATISTIC]] = size
    factors = np.array([2.0 / 9.0, 0, 1, 0, 0, 0], kind)
    loop = plane_function(Relu, False, True, False, False, dtype)
    arguments = (loop.address, register, target, statistics, place, factors)
    activate_rows(*arguments, 1)
    start = time.thread_time()
    activate_rows(*arguments, FLOOR_PASSES)
    return (time.thread_time() - start) / (FLOOR_PASSES * size * LANES) * 1e9


def prepare(case: Case) -> tuple[Callable[[], object], int]:
    """Return what computes the tile of a case, compiled, and plane entries in all."""
    program = lower([(case.network, "ntk")], case.shape)
    engine, random = CpuEvaluator(program, case.dtype), np.random.default_rng(1)
    left, right = (random.standard_normal((n, *case.shape)).astype(case.dtype) for n in (case.rows, case.columns))
    engine.evaluate(left[:1], right[:1])
    return lambda: engine.evaluate(left, right), program.plane_entries * case.rows * case.columns


@dataclass(frozen=True)
class Measured:
    """What came out for a case: the best times in nanoseconds per entry, and medians of ratios within a turn."""

    taken: float
    floor: float
    to_floor: float
    to_reference: float


def measure(case: Case, reference: Case, turns: int) -> Measured:
    """Time a case, the floor and a reference by turns."""
    runs = [prepare(case), prepare(reference)]
    taken: list[list[float]] = []
    for _ in range(turns):
        floors = [measure_floor(case.dtype)]
        times = []
        for run, entries in runs:
            start = time.thread_time()
            run()
            times.append((time.thread_time() - start) / entries * 1e9)
            floors.append(measure_floor(case.dtype))
        taken.append([times[0], min(floors), times[0] / ((floors[0] + floors[1]) / 2), times[0] / times[1]])
    columns = np.array(taken)
    return Measured(columns[:, 0].min(), columns[:, 1].min(), np.median(columns[:, 2]), np.median(columns[:, 3]))


def measure_memory(case: Case) -> tuple[float, float]:
    """Return the largest resident memory in MiB of a process that computes a tile, and of one that only starts."""
    found = [
        subprocess.run([sys.executable, __file__, *arguments], check=True, capture_output=True, text=True)
        for arguments in (["--memory", case.name], ["--memory", "nothing"])
    ]
    return float(found[0].stdout), float(found[1].stdout)


def print_memory(name: str) -> None:
    """Print the largest resident memory of this process in MiB, after a tile of a case."""
    for case in cases():
        if case.name == name:
            prepare(case)[0]()
            break
    # What getrusage says may be the parent's, from before this program was loaded.
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    print(int(line.split()[1]) / 1024)


def measure_both_cores(turns: int) -> float:
    """Return how much faster two threads with an engine each compute than one."""
    case = cases()[0]
    runs = [prepare(case)[0] for _ in range(2)]
    gains = []
    with ThreadPoolExecutor(2) as pool:
        for _ in range(turns):
            start = time.perf_counter()
            runs[0]()
            one = time.perf_counter() - start
            start = time.perf_counter()
            list(pool.map(lambda run: run(), runs))
            gains.append(2 * one / (time.perf_counter() - start))
    return float(np.median(gains))


def measure_readouts(turns: int, size: int = 16) -> tuple[float, int]:
    """Return what many read-outs of one pass cost, relative to the deepest alone, and their number."""
    depths, poolings = (3, 4, 6, 11, 21), ("flatten", "gap", "lap2", "lap4", "lap6")
    shape, random = (size, size, 3), np.random.default_rng(2)
    deepest = [(presets.cntk(21, "gap", trained_ends=True), "ntk")]
    networks = [presets.cntk(depth, pooling, trained_ends=True) for depth in depths for pooling in poolings]
    everything = [(network, "ntk") for network in networks]
    engines = [CpuEvaluator(lower(readouts, shape)) for readouts in (deepest, everything)]
    left, right = random.standard_normal((4, *shape)), random.standard_normal((16, *shape))
    ratios = []
    for _ in range(turns + 1):
        times = []
        for engine in engines:
            start = time.thread_time()
            engine.evaluate(left, right)
            times.append(time.thread_time() - start)
        ratios.append(times[1] / times[0])
    return float(np.median(ratios[1:])), len(everything)


def measure_calls(turns: int, count: int = 200) -> tuple[float, int]:
    """Return what kernels cost in a call each, relative to one call of `kernel_matrices`, and their number."""
    images = np.random.default_rng(3).standard_normal((count, 32, 32, 3)).astype(np.float32)
    networks, kinds = [presets.cntk(depth) for depth in (3, 6, 11, 21)], ("nngp", "ntk")
    ratios = []
    for _ in range(turns + 1):
        begin = time.process_time()
        kernel_matrices(networks, images, kinds=kinds)
        middle = time.process_time()
        for network, kind in itertools.product(networks, kinds):
            kernel_matrix(network, images, kind=kind)
        ratios.append((time.process_time() - middle) / (middle - begin))
    return float(np.median(ratios[1:])), len(networks) * len(kinds)


def print_sharing(console: Console, turns: int) -> None:
    """Print what networks that share layers cost together, against the deepest one, and against a call for each."""
    ratio, count = measure_readouts(turns)
    console.print(f"{count} read-outs (5 depths; V, GAP and 3 radii; 16 x 16): {ratio:.2f} times the deepest alone")
    ratio, count = measure_calls(turns)
    console.print(f"{count} calls (CNTK-V of 4 depths, both kinds): {ratio:.2f} times one of kernel_matrices")


def main() -> None:
    """Print one line for each case, then what is compared beside them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=5, help="turns, of which the best counts (default 5)")
    parser.add_argument("--quick", action="store_true", help="only the first four lines")
    parser.add_argument("--sharing", action="store_true", help="only what networks that share layers cost together")
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory:
        print_memory(arguments.memory)
        return
    console = Console(width=110)
    if arguments.sharing:
        print_sharing(console, arguments.turns)
        return
    table = Table("network", "pixels", "dtype", "tile", "ns", "floor ns", "to floor", "to other", "a kernel entry")
    listed = cases()
    for case in listed[: 4 if arguments.quick else None]:
        reference = listed[0] if case.name.startswith("CNTK-V") else listed[1]
        if case.beside is not None:
            reference = replace(case, network=case.beside)
        found = measure(case, reference, arguments.turns)
        seconds = found.taken * 1e-9 * lower([(case.network, "ntk")], case.shape).plane_entries
        cost = f"{1e6 * seconds:.1f} us" if seconds < 1e-3 else f"{1e3 * seconds:.2f} ms"
        shape = (f"{case.shape[0]} x {case.size}", case.dtype, f"{case.rows} x {case.columns}")
        ratios = (f"{found.taken:.2f}", f"{found.floor:.2f}", f"{found.to_floor:.2f}", f"{found.to_reference:.2f}")
        table.add_row(case.name, *shape, *ratios, cost)
    console.print(table)
    if arguments.quick:
        return
    print_sharing(console, arguments.turns)
    console.print(f"both of {os.cpu_count()} cores: {measure_both_cores(arguments.turns):.2f} times one")
    for name in ("Myrtle-5", "Myrtle-10", "ResNet-20, pooling"):
        tile, start = measure_memory(next(case for case in cases() if case.name == name))
        console.print(f"{name}: {tile:.0f} MiB resident, of which {start:.0f} to start")


if __name__ == "__main__":
    main()
