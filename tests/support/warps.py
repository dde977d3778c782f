"""The kernel of a device, compiled for the CPU: the same text, with vectors of 32 numbers for the lanes of a warp."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from cntk_pipeline.kernels.cuda.layout import Layout
from cntk_pipeline.kernels.cuda.packing import Packed
from cntk_pipeline.kernels.cuda.source import write_source
from cntk_pipeline.kernels.program import Array, Program

LANES = Path(__file__).parent / "lanes_of_cpu.h"

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")


def compile_for_cpu(sources: dict[str, str], folder: Path, options: tuple[str, ...] = ()) -> dict[str, ctypes.CDLL]:
    """Compile texts by name, one after the other, and load them."""
    found = {}
    for name, text in sources.items():
        source, library = folder / f"{name}.cpp", folder / f"{name}.so"
        source.write_text(text)
        command = ["g++", "-O1", "-march=native", "-w", "-fno-math-errno", "-shared", "-fPIC", *options]
        done = subprocess.run([*command, str(source), "-o", str(library)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[:3000]
        found[name] = ctypes.CDLL(str(library))
    return found


class CpuLauncher:
    """Runs the kernel of a program on this machine's CPU."""

    def __init__(self, program: Program, layout: Layout, library: ctypes.CDLL) -> None:
        self.program, self.layout, self.library = program, layout, library

    @staticmethod
    def source(program: Program, layout: Layout) -> str:
        return write_source(program, layout, LANES.read_text())

    def run(self, left: Packed, right: Packed, pairs: Array) -> Array:
        """Run pairs, ``(n, 3)`` integers; return read-outs, ``(n, readouts)`` float64."""
        pairs = np.ascontiguousarray(pairs, np.int32)
        readouts = np.full((len(pairs), self.program.readout_count), np.nan)
        tensors = np.zeros(max(1, self.layout.tensor_size * self.layout.pairs), self.layout.dtype)
        level_size = right.statistics[0].size

        def pointer(array: Array) -> ctypes.c_void_p:
            return ctypes.c_void_p(array.ctypes.data)

        self.library.evaluate(
            pointer(left.pixels),
            pointer(right.pixels),
            pointer(left.statistics),
            pointer(right.statistics),
            pointer(pairs),
            ctypes.c_int(len(pairs)),
            ctypes.c_int(level_size),
            pointer(readouts),
            pointer(tensors),
        )
        return readouts
