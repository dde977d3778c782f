"""For scripts of `support.cards`: importing this makes the CPU the driver of CUDA of this process."""

import ctypes
import json
import os
from typing import Any

import numpy as np

CARD = ctypes.CDLL(os.environ["CARD_DRIVER"])  # before cuda-core looks for one

from cntk_pipeline.errors import ConfigError, DeviceLost, NotAccurate, NotFinite  # noqa: E402
from cntk_pipeline.kernels import CpuEngine, Question, kernel_matrices  # noqa: E402
from cntk_pipeline.kernels.cuda import buffers  # noqa: E402
from cntk_pipeline.kernels.cuda.engine import CudaEngine  # noqa: E402
from cntk_pipeline.kernels.cuda.source import write_source  # noqa: E402
from cntk_pipeline.layers import AvgPool, Dropout, GlobalAvgPool, Relu, presets  # noqa: E402
from support.networks import averaged, conv, flattened  # noqa: E402
from support.warps import LANES, compile_for_cpu  # noqa: E402

__all__ = [
    "CARD",
    "AvgPool",
    "ConfigError",
    "CpuEngine",
    "CudaEngine",
    "DeviceLost",
    "Dropout",
    "GlobalAvgPool",
    "NotAccurate",
    "NotFinite",
    "Question",
    "Relu",
    "averaged",
    "buffers",
    "conv",
    "draw",
    "engine_of",
    "error_of",
    "flattened",
    "kernel_matrices",
    "np",
    "presets",
    "tell",
]


def draw(count: int, size: int = 4, seed: int = 0) -> np.ndarray:
    """Draw images of so many rows and columns, in two colours."""
    return np.random.default_rng(seed).standard_normal((count, size, size, 2))


def engine_of(network: Any, images: np.ndarray, dtype: str = "float32", flips: bool = False) -> CudaEngine:
    """Put a question to the engine, and compile its text for this driver."""
    engine = CudaEngine(Question(((network, "ntk"),), images.shape[1:], dtype, flips))
    text = write_source(engine.program, engine.layout, LANES.read_text())
    os.environ["CARD_KERNEL"] = str(compile_for_cpu(text))
    return engine


def error_of(engine: CudaEngine, left: np.ndarray, right: np.ndarray | None = None) -> float:
    """Compare a tile with the engine "cpu": the largest difference, relative to the largest entry."""
    expected = CpuEngine(engine.question).evaluator().evaluate(left, right)
    found = engine.evaluator().evaluate(left, right)
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def tell(found: Any) -> None:
    """Answer the test."""
    print(json.dumps(found))
