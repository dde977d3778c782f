"""The kernel of a device, compiled for the CPU: the same text, with vectors of 32 numbers for the lanes of a warp."""

import ctypes
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from cntk_pipeline.kernels.cuda.engine import CudaEngine
from cntk_pipeline.kernels.cuda.layout import Layout
from cntk_pipeline.kernels.cuda.packing import Packed
from cntk_pipeline.kernels.cuda.source import write_source
from cntk_pipeline.kernels.program import Array, Program
from support.kept import kept

LANES = Path(__file__).parent / "lanes_of_cpu.h"
_FOLDER = tempfile.TemporaryDirectory(prefix="warps-")

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")


@cache
def compile_for_cpu(text: str, level: str = "-O0") -> Path:
    """Compile a text to a library; what computes a lot is done sooner where it is compiled at ``-O1``."""
    path = Path(_FOLDER.name) / f"{len(list(Path(_FOLDER.name).iterdir()))}{level}.so"
    options = [level, "-march=native", "-w", "-shared", "-fPIC", "-xc++", "-"]

    def compiled() -> bytes:
        done = subprocess.run(["g++", *options, "-o", str(path)], input=text, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[:3000]
        return path.read_bytes()

    path.write_bytes(kept(compiled, text, *options, _name_compiler()))
    return path


@cache
def _name_compiler() -> str:
    """Name the version of the compiler, and all that it takes the processor for."""
    command = ["g++", "-march=native", "-###", "-E", "-xc++", "-"]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True).stderr


@cache
def load_for_cpu(text: str) -> ctypes.CDLL:
    """Compile a text and load it."""
    return ctypes.CDLL(str(compile_for_cpu(text)))


class CpuLauncher:
    """Runs the kernel of a program on this machine's CPU: each launch as late as may be, when it is waited for."""

    def __init__(self, program: Program, layout: Layout) -> None:
        self.layout = layout
        self._readout_count = program.readout_count
        self._library = load_for_cpu(write_source(program, layout, LANES.read_text()))

    def start(self, left: Packed, right: Packed, pairs: Array, *, wait: bool = True) -> tuple[Packed, Packed, Array]:
        return left, right, pairs

    def finish(self, flight: tuple[Packed, Packed, Array]) -> Array:
        left, right, pairs = flight
        readouts = np.full((len(pairs), self._readout_count), np.nan)
        tensors = np.zeros(max(1, self.layout.tensor_size * self.layout.pairs), self.layout.dtype)
        inputs = [left.pixels, right.pixels, left.statistics, right.statistics, pairs]
        assert pairs.dtype == np.int32
        assert all(array.flags.c_contiguous for array in inputs)
        self._library.evaluate(
            *(ctypes.c_void_p(array.ctypes.data) for array in inputs),
            ctypes.c_int(len(pairs)),
            ctypes.c_int(right.statistics[0].size),
            *(ctypes.c_void_p(array.ctypes.data) for array in (readouts, tensors)),
        )
        return readouts


class CudaEngineOnCpu(CudaEngine):
    """The engine with this machine's CPU in the place of a device."""

    def launcher(self) -> CpuLauncher:
        return CpuLauncher(self.program, self.layout)
