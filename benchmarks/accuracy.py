"""Measures how far kernels are from 60 digits, by activation, dtype and variance: the table of docs/networks.md.

Run: ``python benchmarks/accuracy.py``; about ten minutes on one core.

For each activation and variance of the first layer: images of one row of 5 positions and 3 channels, convolutions of 3
with w_std = 1.5 and b_std = 0.1, depths 1, 6 and 21, flat and pooled, and second images whose direction is from 1 to
0 away from the first one's, the same way and the opposite, half as large. What is printed is the largest error of NNGP
and NTK over all of them, relative to the largest of the three entries; and how many were refused. The truth comes from
`tests/twin/sixty_digits.py`.
"""

import importlib.util
import itertools
import math
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
from rich.console import Console
from rich.table import Table

from cntk_pipeline.errors import NotAccurate, NotFinite
from cntk_pipeline.kernels import CpuEvaluator, lower
from cntk_pipeline.layers import (
    Abs,
    Conv,
    Cos,
    Dense,
    Erf,
    Exp,
    Flatten,
    Gaussian,
    Gelu,
    GlobalAvgPool,
    LayerNorm,
    LeakyRelu,
    Pointwise,
    Rbf,
    Relu,
    Sequential,
    Sin,
)

FUNCTIONS: list[Pointwise] = [
    Relu(), LeakyRelu(0.2), Abs(), Erf(), Gelu(), Sin(), Cos(), Rbf(), Gaussian(), Exp(), LayerNorm(),
]  # fmt: skip
VARIANCES = (1e-6, 1e-3, 1.0, 1e3, 1e6)
APART = (1.0, 1e-2, 1e-4, 1e-6, 1e-9, 0.0)
W_STD, B_STD = 1.5, 0.1


def load_twin() -> ModuleType:
    """Import `tests/twin/sixty_digits.py`, which is no part of the package."""
    place = Path(__file__).parent.parent / "tests" / "twin" / "sixty_digits.py"
    spec = importlib.util.spec_from_file_location("sixty_digits", place)
    assert spec is not None
    assert spec.loader is not None
    twin = sys.modules["sixty_digits"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(twin)
    return twin


def images(variance: float, seed: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Draw an image, and others that are from far from it to multiples of it."""
    x, noise = np.random.default_rng(seed).standard_normal((2, 5, 3))
    scale = math.sqrt(variance)
    others = [sign * 0.5 * (x + math.sqrt(2 * apart) * noise) for apart in APART for sign in (1, -1)]
    return (scale * x).astype(np.float32), [(scale * z).astype(np.float32) for z in others]


def measure(twin: ModuleType, function: Pointwise, variance: float) -> dict[str, tuple[float, int, int]]:
    """Return for each dtype the largest error, how many pairs were refused, and how many there were."""
    found = {dtype: (0.0, 0, 0) for dtype in ("float32", "float64")}
    for depth, pooled in itertools.product((1, 6, 21), (False, True)):
        x, others = images(variance, depth)
        weights = Conv((1, 3), w_std=W_STD, b_std=B_STD)
        network = Sequential(*[weights, function] * depth, GlobalAvgPool() if pooled else Flatten(), Dense())
        program = lower([(network, kind) for kind in ("nngp", "ntk")], (1, *x.shape))
        engines = {dtype: CpuEvaluator(program, dtype) for dtype in found}
        blocks = [twin.Block(3, W_STD, B_STD, function)] * depth
        for z in others:
            values = {dtype: _evaluate(engine, np.stack([x, z])[:, None]) for dtype, engine in engines.items()}
            truth = []
            if any(value is not None for value in values.values()):  # what overflows does so at 60 digits as well
                truth = [twin.evaluate(u, v, blocks, pooled) for u, v in ((x, x), (z, x), (z, z))]
            for dtype, value in values.items():
                worst, refused, count = found[dtype]
                if value is None:
                    found[dtype] = worst, refused + 1, count + 1
                    continue
                for k in range(2):
                    largest = max(abs(exact[k]) for exact in truth)
                    for exact, place in zip(truth, ((0, 0), (1, 0), (1, 1)), strict=True):
                        worst = max(worst, float(abs(float(value[k][place]) - exact[k]) / largest))
                found[dtype] = worst, refused, count + 1
    return found


def _evaluate(engine: CpuEvaluator, x: np.ndarray) -> np.ndarray | None:
    """Evaluate all pairs; None where one is refused."""
    try:
        return engine.evaluate(x)
    except (NotAccurate, NotFinite):
        return None


def main() -> None:
    """Print a line for each activation and dtype."""
    table = Table("activation", "dtype", *(f"{variance:.0e}" for variance in VARIANCES))
    for function in FUNCTIONS:
        columns = [measure(load_twin(), function, variance) for variance in VARIANCES]
        for dtype in ("float32", "float64"):
            cells = []
            for column in columns:
                worst, refused, count = column[dtype]
                share = f" ({refused}/{count} refused)" if refused else ""
                cells.append(("-" if refused == count else f"{worst:.0e}") + share)
            table.add_row(type(function).__name__, dtype, *cells)
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
