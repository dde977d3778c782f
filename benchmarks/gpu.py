"""Checks the engine "cuda" against the engine "cpu" on a device, and times it: in less than five minutes.

    python benchmarks/gpu.py

needs a device of the architecture, sm_90 without ``--architecture``, and the extra ``cuda``; it asks for nothing from
the net. Each network has a process of its own, since an error of CUDA leaves a process that can do nothing more: one
that fails, or takes too long, costs its own row. It checks values before it times anything, and again those of the tile
that it has timed. What it prints is a table for measurements.md, and what went wrong.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from cntk_pipeline.kernels import CpuEngine, Engine, Question
from cntk_pipeline.kernels.cuda.counted import LEAST_SECONDS, OTHERWISE
from cntk_pipeline.kernels.cuda.engine import CudaEngine, CudaOptions
from cntk_pipeline.kernels.cuda.evaluator import CudaEvaluator
from cntk_pipeline.layers import Layer, presets

CASES: dict[str, tuple[Layer, str, int, int]] = {
    "CNTK-GAP, depth 4, 8 x 8": (presets.cntk(4, "gap"), "float64", 32, 8),
    "CNTK-GAP, depth 11": (presets.cntk(11, "gap"), "float32", 256, 32),
    "CNTK-V, depth 11": (presets.cntk(11, "flatten"), "float32", 1024, 32),
    "CNTK-GAP, depth 11, float64": (presets.cntk(11, "gap"), "float64", 128, 32),
    "Myrtle-5": (presets.myrtle(5), "float32", 128, 32),
    "ResNet-20": (presets.resnet(20), "float32", 128, 32),
    "CNTK-GAP, depth 21": (presets.cntk(21, "gap"), "float32", 192, 32),
    "CNTK-GAP, depth 11, 64 x 64": (presets.cntk(11, "gap"), "float32", 64, 64),
    "ResNet-8, 48 x 48": (presets.resnet(8), "float32", 64, 48),
}
"""A network, the dtype, the images of each side of the tile that is timed, and their rows and columns.

The smallest is the first, and then those that say most: time may end before the last.
"""

BOUNDS = {"float32": 1e-5, "float64": 1e-10}
"""Relative to the largest entry: what the engine promises."""

CASE_SECONDS = 90.0
"""A network that takes longer is given up."""

ALL_SECONDS = 280.0
"""No network is begun later."""

HEAD = """\
| network | error | bits | a pair, us | launch alone | preparation alone | ps an entry and layer | of the least |
|---|---|---|---|---|---|---|---|"""


@dataclass(frozen=True)
class Found:
    """What one network came to.

    Attributes
    ----------
    error : the largest difference of both engines, relative to the largest entry: of a few pairs, and of some of the
        tile that was timed.
    pair_seconds : of a tile, by the clock, with the preparation of its images: the better one of two.
    launch_seconds : of a pair of a launch, by the clock, with its values' way back, its images being there.
    prepare_seconds : of a pair of a tile, what the CPU takes to prepare its launches.
    entry_seconds : of a plane entry, of the whole tile.
    is_repeatable : whether the tile has the same bits both times.
    """

    error: float
    pair_seconds: float
    launch_seconds: float
    prepare_seconds: float
    entry_seconds: float
    is_repeatable: bool


def measure(device: CudaEngine, cpu: Engine, images: int, checked: int = 3) -> Found:
    """Compare both engines on a few images, and time the first one on a tile of ``images`` by ``images``.

    Raises
    ------
    AssertionError
        If values differ by more than the engine promises.
    """
    shape, dtype = device.question.input_shape, device.question.dtype
    x, z = np.random.default_rng(0).standard_normal((2, images, *shape)).astype(dtype)
    evaluator, reference = device.evaluator(), cpu.evaluator()
    device.test(x[:2])  # a pair alone has the bits that it has in a tile
    own = _error(evaluator.evaluate(x[:checked]), reference.evaluate(x[:checked]), dtype)
    seconds, tiles = [], []
    for _ in range(2):
        began = time.perf_counter()
        tiles.append(evaluator.evaluate(x, z))
        seconds.append(time.perf_counter() - began)
    # Rows from everywhere: of all launches, and of the last pairs of each.
    rows = np.unique(np.linspace(0, images - 1, checked).astype(int))
    others = _error(tiles[0][:, rows, -checked:], reference.evaluate(x[rows], z[-checked:]), dtype)
    pair_seconds = min(seconds) / images**2
    entries = device.plane_entries
    assert entries is not None
    return Found(
        max(own, others),
        pair_seconds,
        _time_launch(evaluator, x, z),
        _time_preparation(evaluator, x, z),
        pair_seconds / entries,
        np.array_equal(tiles[0], tiles[1]),
    )


def _error(found: np.ndarray, expected: np.ndarray, dtype: str) -> float:
    error = float(np.abs(found - expected).max() / np.abs(expected).max())
    assert error <= BOUNDS[dtype], (
        f"the values differ by {error:.1e} of the largest, and at most {BOUNDS[dtype]} is promised"
    )
    return error


def _time_launch(evaluator: CudaEvaluator, x: np.ndarray, z: np.ndarray) -> float:
    """Time the first launch of a tile when its images are there: those of a slot are sent once."""
    (launch,) = islice(evaluator.launches(evaluator.planar(x), evaluator.planar(z)), 1)
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        evaluator.launcher.finish(evaluator.launcher.start(*launch.packed, launch.pairs))
        best = min(best, time.perf_counter() - began)
    return best / len(launch.pairs)


def _time_preparation(evaluator: CudaEvaluator, x: np.ndarray, z: np.ndarray) -> float:
    began = time.perf_counter()
    count = sum(len(launch.pairs) for launch in evaluator.launches(evaluator.planar(x), evaluator.planar(z)))
    return (time.perf_counter() - began) / count


def row(name: str, options: CudaOptions) -> str:
    """Measure a network and write its row."""
    network, dtype, images, size = CASES[name]
    question = Question(((network, "ntk"),), (size, size, 3), dtype)
    found = measure(CudaEngine(question, options), CpuEngine(question), images)
    least = LEAST_SECONDS.get(options.architecture, LEAST_SECONDS[OTHERWISE])[dtype == "float64"]
    times = (found.pair_seconds, found.launch_seconds, found.prepare_seconds)
    cells = [f"{seconds * 1e6:.3g}" for seconds in times]
    cells += [f"{found.entry_seconds * 1e12:.3g}", f"{found.entry_seconds / least:.2f}"]
    return f"| {name} | {found.error:.1e} | {'same' if found.is_repeatable else 'DIFFER'} | {' | '.join(cells)} |"


def describe_device() -> Iterator[str]:
    """Say what the device and the software are."""
    from cuda.bindings import driver, nvrtc
    from cuda.core import Device, __version__

    device = Device()
    device.set_current()
    _, version = driver.cuDriverGetVersion()
    _, free, total = driver.cuMemGetInfo()
    yield f"{device.name}, sm_{device.arch}, {device.properties.multiprocessor_count} multiprocessors"
    yield f"{free / 1e9:.1f} of {total / 1e9:.1f} GB free; driver of CUDA {version // 1000}.{version % 1000 // 10}"
    yield f"cuda-core {__version__}, NVRTC {'.'.join(map(str, nvrtc.nvrtcVersion()[1:]))}, NumPy {np.__version__}"


def run_cases(names: list[str], architecture: str) -> int:
    """Run each network in a process of its own, and count those that failed."""
    began, failed = time.monotonic(), []
    subprocess.run([sys.executable, __file__, "--describe"], check=False, timeout=CASE_SECONDS)
    print(f"\n{HEAD}", flush=True)
    for name in names:
        left = ALL_SECONDS - (time.monotonic() - began)
        if left <= 0:
            failed.append(name)
            print(f"NOT RUN: {name}: {ALL_SECONDS:.0f} s are over", flush=True)
            continue
        command = [sys.executable, __file__, "--architecture", architecture, "--row", name]
        try:
            subprocess.run(command, check=True, timeout=min(CASE_SECONDS, left), stderr=subprocess.STDOUT)
        except (subprocess.TimeoutExpired, subprocess.CalledProcessError) as error:
            failed.append(name)
            print(f"FAILED: {name}: {str(error).rpartition('] ')[2]}", flush=True)
    print(f"\n{len(names) - len(failed)} of {len(names)} networks in {time.monotonic() - began:.0f} s", flush=True)
    return len(failed)


def main() -> int:
    """Print a row a network; return 1 where one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", default="sm_90", help="of the device, as sm_90")
    parser.add_argument("--row", metavar="NETWORK", help="one network, in this process")
    parser.add_argument("--describe", action="store_true", help="say what the device is, and end")
    parser.add_argument("names", nargs="*", metavar="NETWORK", help="of these alone; all without")
    asked = parser.parse_args()
    unknown = [name for name in (*asked.names, *filter(None, [asked.row])) if name not in CASES]
    if unknown:
        parser.error(f"no network {', '.join(unknown)}; there are: {'; '.join(CASES)}")
    if asked.row:
        print(row(asked.row, CudaOptions(architecture=asked.architecture)), flush=True)
        return 0
    if asked.describe:
        print("\n".join(describe_device()))
        return 0
    return 1 if run_cases(asked.names or list(CASES), asked.architecture) else 0


if __name__ == "__main__":
    sys.exit(main())
