"""Checks the engine "cuda" against the engine "cpu" on a device, and times it: in less than five minutes.

    python benchmarks/gpu.py

needs a device of the architecture, sm_90 without ``--architecture``, and the extra ``cuda``. Prints a table for
measurements.md. Values are compared on a few pairs, times are those of launches, with the preparation of images and
their way to the device and back apart.
"""

import argparse
import sys
import time
from dataclasses import dataclass

import numpy as np

from cntk_pipeline.kernels import CpuEngine, Engine, Question
from cntk_pipeline.kernels.cuda.engine import CudaEngine, CudaOptions
from cntk_pipeline.layers import Layer, presets

CASES: dict[str, tuple[Layer, str, int, int]] = {
    "CNTK-V, depth 11": (presets.cntk(11, "flatten"), "float32", 1024, 32),
    "CNTK-GAP, depth 11": (presets.cntk(11, "gap"), "float32", 256, 32),
    "CNTK-GAP, depth 21": (presets.cntk(21, "gap"), "float32", 256, 32),
    "Myrtle-5": (presets.myrtle(5), "float32", 128, 32),
    "ResNet-20": (presets.resnet(20), "float32", 128, 32),
    "CNTK-GAP, depth 11, float64": (presets.cntk(11, "gap"), "float64", 128, 32),
    "CNTK-GAP, depth 11, 64 x 64": (presets.cntk(11, "gap"), "float32", 64, 64),
    "ResNet-8, 48 x 48": (presets.resnet(8), "float32", 64, 48),
}
"""A network, the dtype, the images of each side of the tile that is timed, and their rows and columns."""

BOUNDS = {"float32": 1e-5, "float64": 1e-10}


@dataclass(frozen=True)
class Found:
    """What one network came to.

    Attributes
    ----------
    error : the largest difference of both engines, relative to the largest entry.
    pair_seconds : of a tile, by the clock, with the preparation of its images.
    entry_seconds : the same of a plane entry and layer.
    """

    error: float
    pair_seconds: float
    entry_seconds: float


def measure(device: Engine, cpu: Engine, images: int, checked: int = 3) -> Found:
    """Compare both engines on a few images, and time the first one on a tile of ``images`` by ``images``.

    Raises
    ------
    AssertionError
        If the values differ by more than the engine promises.
    """
    shape, dtype = device.question.input_shape, device.question.dtype
    x = np.random.default_rng(0).standard_normal((2 * images, *shape)).astype(dtype)
    evaluator = device.evaluator()
    expected = cpu.evaluator().evaluate(x[:checked])
    error = float(np.abs(evaluator.evaluate(x[:checked]) - expected).max() / np.abs(expected).max())
    assert error <= BOUNDS[dtype], (
        f"the values differ by {error:.1e} of the largest, and at most {BOUNDS[dtype]} is promised"
    )
    began = time.perf_counter()
    evaluator.evaluate(x[:images], x[images:])
    pair_seconds = (time.perf_counter() - began) / images**2
    assert device.plane_entries is not None
    return Found(error, pair_seconds, pair_seconds / device.plane_entries)


def main() -> None:
    """Print a row a network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", default="sm_90", help="of the device, as sm_90")
    options = CudaOptions(architecture=parser.parse_args().architecture)
    from cuda.core import Device

    print(f"{Device().name}\n\n| network | error | a pair | a plane entry and layer |\n|---|---|---|---|")
    for name, (network, dtype, images, size) in CASES.items():
        question = Question(((network, "ntk"),), (size, size, 3), dtype)
        found = measure(CudaEngine(question, options), CpuEngine(question), images)
        print(
            f"| {name} | {found.error:.1e} | {found.pair_seconds * 1e6:.3g} us | {found.entry_seconds * 1e12:.3g} ps |",
            flush=True,
        )


if __name__ == "__main__":
    sys.exit(main())
