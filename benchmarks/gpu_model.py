"""Counts what a device would do for a plane entry, from compiled code, and what that takes at least: no device needed.

Nothing here is measured. The code is compiled for each card's architecture, disassembled, and the instructions of the
loop over layers are counted. The slowest of four units of a multiprocessor bounds the time from below.

    python benchmarks/gpu_model.py

needs the extra ``cuda`` and nvidia-cuda-nvdisasm.
"""

import importlib.metadata
import re
import shutil
import struct
import subprocess
import sysconfig
import tempfile
from collections import Counter
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from cntk_pipeline.kernels import Program, lower
from cntk_pipeline.kernels.cuda.counted import REAL
from cntk_pipeline.kernels.cuda.device import compile_cubin
from cntk_pipeline.kernels.cuda.layout import Layout, lane_columns, lay_out
from cntk_pipeline.kernels.cuda.source import write_source
from cntk_pipeline.layers import presets

_REGISTER_COUNT = (4, 0x2F)
"""How a cubin marks the number of registers: the format of an attribute that has a length, and the attribute."""

ARCHITECTURES = ("sm_80", "sm_89", "sm_90", "sm_100")
"""Whose code is counted. The last one, of B200, has no row of times: nobody looked up what its multiprocessor does."""

SIZES = (32, 64)
"""Rows and columns of the images whose loops are counted: with one column of a tile a lane, and with two."""


@dataclass(frozen=True)
class Card:
    """What a multiprocessor does in a clock, from NVIDIA's white papers of Ampere, Ada and Hopper.

    Attributes
    ----------
    architecture : str
        That code is compiled for.
    multiprocessors : int
        Of the card.
    clock_hertz : float
        Boost clock.
    double_lanes : int
        Operations of float64 a clock. Of float32 there are 128, of roots and quotients 16, of shuffles and loads 32,
        and four instructions are issued for 32 threads each.
    """

    architecture: str
    multiprocessors: int
    clock_hertz: float
    double_lanes: int


CARDS = {
    "H100 SXM": Card("sm_90", 132, 1.755e9, 64),
    "H200": Card("sm_90", 132, 1.755e9, 64),
    "A100": Card("sm_80", 108, 1.41e9, 32),
    "L4": Card("sm_89", 58, 2.04e9, 2),
}


@dataclass(frozen=True)
class Counts:
    """What the compiled loop over layers holds, for one plane entry and one layer.

    Attributes
    ----------
    registers : int
        Of a thread.
    spills : float
        Loads and stores of spilled registers inside the loop, a row of 32 entries.
    instructions : float
        A row of 32 entries.
    by_name : mapping of str to float
        The same by the name of the instruction, without its modifiers.
    """

    registers: int
    spills: float
    instructions: float
    by_name: dict[str, float]

    def of(self, *names: str) -> float:
        """Count instructions by name."""
        return sum(self.by_name.get(name, 0.0) for name in names)


def find_disassembler() -> str | None:
    """Find nvdisasm, on the path or from PyPI."""
    found = shutil.which("nvdisasm")
    if found is None:
        folder = Path(sysconfig.get_paths()["purelib"]) / "nvidia"
        found = next((str(path) for path in folder.glob("*/bin/nvdisasm")), None)
    return found


def count_loop(cubin: bytes, rows: int) -> Counts:
    """Count the instructions of the loop over layers: the smallest loop with most of the arithmetic.

    Parameters
    ----------
    rows : int
        Of 32 entries that a warp takes through the loop: those of a tile, times the columns of a lane.
    """
    disassembler = find_disassembler()
    assert disassembler is not None, "nvdisasm is not installed: pip install nvidia-cuda-nvdisasm"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run([disassembler, "-c", file.name], capture_output=True, text=True, check=True).stdout
    labels: dict[str, int] = {}
    listed: list[str] = []
    jumps: list[tuple[str, int]] = []
    for line in text.splitlines():
        if match := re.match(r"(\.L\w+):", line):
            labels[match[1]] = len(listed)
        elif match := re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?\s*([A-Z]\w*)([^;]*);", line):
            listed.append(match[1])
            if match[1] == "BRA" and (target := re.search(r"\.L\w+", match[2])):
                jumps.append((target[0], len(listed)))
    arithmetic = np.cumsum([0, *(name in ("FFMA", "DFMA") for name in listed)])
    loops = [(labels[label], end) for label, end in jumps if labels[label] < end]
    most = max(arithmetic[end] - arithmetic[begin] for begin, end in loops)
    holding = [(end - begin, begin, end) for begin, end in loops if arithmetic[end] - arithmetic[begin] > 0.4 * most]
    _, begin, end = min(holding)
    body = Counter(listed[begin:end])
    spills = (body["LDL"] + body["STL"]) / rows
    by_name = {name: count / rows for name, count in sorted(body.items())}
    return Counts(read_registers(cubin), spills, (end - begin) / rows, by_name)


def read_registers(cubin: bytes) -> int:
    """Read the registers of a thread: the attribute of that name, of the cubin's one kernel, in its section of them."""
    begin, size, count, names = *struct.unpack_from("<Q", cubin, 40), *struct.unpack_from("<HHH", cubin, 58)
    headers = [struct.unpack_from("<IIQQQQIIQQ", cubin, begin + k * size) for k in range(count)]
    strings = headers[names][4]
    for header in headers:
        name = cubin[strings + header[0] : cubin.index(b"\0", strings + header[0])]
        place, end = header[4], header[4] + header[5]
        while name == b".nv.info" and place < end:
            kind, attribute, length = struct.unpack_from("<BBH", cubin, place)
            if (kind, attribute) == _REGISTER_COUNT:
                return struct.unpack_from("<II", cubin, place + 4)[1]
            place += 4 + (length if kind == _REGISTER_COUNT[0] else 0)
    raise ValueError("the cubin does not say how many registers its kernel has")


def gap_program(size: int = 32) -> Program:
    """Lower CNTK-GAP of depth 11 for images of so many rows and columns, in three colours."""
    return lower([(presets.cntk(11, "gap"), "ntk")], (size, size, 3))


def count_program(program: Program, layout: Layout, architecture: str) -> Counts:
    """Compile a program for an architecture, and count its first stage."""
    stage = program.stages[0]
    cubin = bytes(compile_cubin(write_source(program, layout), architecture).code)
    return count_loop(cubin, stage.height * lane_columns(stage))


def count_gap(architecture: str, dtype: str, size: int = 32) -> Counts:
    """Compile CNTK-GAP of depth 11 for an architecture, and count."""
    program = gap_program(size)
    return count_program(program, lay_out(program, np.dtype(dtype)), architecture)


def bounds_seconds(counts: Counts, card: Card) -> dict[str, float]:
    """Bound the seconds of a plane entry from below, by the unit that takes them."""
    single = counts.of("FFMA", "FMUL", "FADD", "FSEL", "FSETP", "FMNMX")
    double = counts.of("DFMA", "DMUL", "DADD", "DSETP")
    clocks = {
        "issue": counts.instructions / 4,
        "float32": single / 4,
        "float64": double * 32 / card.double_lanes,
        "roots": counts.of("MUFU") * 2,
        # A load of 8 bytes a thread passes twice, a shuffle once; float64 has twice the bytes and its own shuffles. Of
        # spills as many passes as they have words: the nearest cache is supposed to hold them.
        "shuffles and loads": counts.of("SHFL") + (2 * counts.of("LDG") + counts.spills) * (2 if double else 1),
    }
    return {unit: clock / (32 * card.multiprocessors * card.clock_hertz) for unit, clock in clocks.items()}


def name_compiler() -> str:
    """Name the versions of what the counts depend on."""
    from cuda.bindings import nvrtc
    from cuda.core import __version__

    disassembler = importlib.metadata.version("nvidia-cuda-nvdisasm") if not shutil.which("nvdisasm") else "of the path"
    return f"cuda-core {__version__}, NVRTC {'.'.join(map(str, nvrtc.nvrtcVersion()[1:]))}, nvdisasm {disassembler}"


def main() -> None:
    """Print a table a size and dtype: counts, and the time that follows on each card."""
    print(name_compiler())
    for size, dtype in product(SIZES, ("float32", "float64")):
        entries = gap_program(size).plane_entries
        print(f"\ncounted from compiled code, not measured: CNTK-GAP of depth 11 on images of {size} x {size}\n")
        counted = {architecture: count_gap(architecture, dtype, size) for architecture in ARCHITECTURES}
        print(f"{dtype:9}  architecture  registers  spills  instructions  FMA+MUL+ADD  SHFL  LDG  MUFU")
        for architecture, counts in counted.items():
            arithmetic = counts.of("FFMA", "FMUL", "FADD", "DFMA", "DMUL", "DADD")
            print(
                f"{'':9}  {architecture:12}  {counts.registers:9}  {counts.spills:6.1f}  {counts.instructions:12.1f}  "
                f"{arithmetic:11.1f}  {counts.of('SHFL'):4.1f}  {counts.of('LDG'):3.1f}  {counts.of('MUFU'):4.1f}"
            )
        print(f"\n{'':9}  card       bound by              ps an entry and layer  us a pair: at least  to expect")
        for name, card in CARDS.items():
            bounds = bounds_seconds(counted[card.architecture], card)
            unit = max(bounds, key=bounds.__getitem__)
            least = bounds[unit]
            times = f"{least * entries * 1e6:19.1f}  {REAL * least * entries * 1e6:9.1f}"
            print(f"{'':9}  {name:9}  {unit:20}  {least * 1e12:21.2f}  {times}")


if __name__ == "__main__":
    main()
