"""Checks the engine "cuda" against the engine "cpu" on a device, and times it: in less than five minutes.

    python benchmarks/gpu.py --out benchmarks/measurements.md

needs a device of the architecture, sm_90 without ``--architecture``, and the extra ``cuda``; it asks for nothing from
the net. Each network has a process of its own, since an error of CUDA leaves a process that can do nothing more: one
that fails, or takes too long, costs its own row. It checks values before it times anything, and again those of the tile
that it has timed. What it prints is a part of measurements.md with the card's name, which ``--out`` appends to a file:
networks, neural-tangents on the same card, and goals that are met or missed.

neural-tangents runs where this interpreter, or that of ``--peer``, imports it, and counts where its jax sees the card.
`peers.py` says how to make the environment; for a card it takes ``"jax[cuda12]==0.4.30"`` instead of ``"jax==0.4.30"``.
"""

import argparse
import datetime
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from peers import CASES as PEER_CASES
from peers import SHAPE, Peer

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

CORE_SECONDS = {"float32": 0.35e-9, "float64": 1.51e-9}
"""The floor of one core with AVX-512 for a plane entry: its loop without window sums, by tile.py in measurements.md."""

PEERS = {
    "CNTK-GAP, depth 11": ("CNTK-GAP", (4, 8)),
    "CNTK-V, depth 11": ("CNTK-V", (64, 128)),
    "Myrtle-5": ("Myrtle-5", (4, 8)),
}
"""What neural-tangents computes too: its name in `peers.py`, and images of each side of its tiles, the fastest of which
counts. It takes some 0.4 GB a pair of CNTK-GAP, so that the larger tile may find no room."""

PEER_GOAL = 40.0
"""How many times faster than neural-tangents on the same card a network should be."""


@dataclass(frozen=True)
class Goal:
    """What a network should take at most, set for an H100 before any card was at hand."""

    network: str
    unit: str
    most: float
    read: Callable[["Found"], float]


GOALS = (
    Goal("CNTK-GAP, depth 11", "ps an entry and layer", 2.7, lambda found: found.entry_seconds * 1e12),
    Goal("CNTK-GAP, depth 11", "us a pair", 28.0, lambda found: found.pair_seconds * 1e6),
    Goal("CNTK-V, depth 11", "ns a pair", 50.0, lambda found: found.pair_seconds * 1e9),
)

HEAD = """\
| network | error | bits | a pair, us | launch alone | preparation alone | ps an entry and layer | of the least | \
times one AVX-512 core |
|---|---|---|---|---|---|---|---|---|"""

PEER_HEAD = """\
| network | neural-tangents, us a pair | its tile | values differ by | times as long as here |
|---|---|---|---|---|"""

GOAL_HEAD = """\
| goal, set for an H100 | asked | found | |
|---|---|---|---|"""


@dataclass(frozen=True)
class Found:
    """What one network came to.

    Attributes
    ----------
    error : float
        The largest difference of both engines, relative to the largest entry: of a few pairs, and of some of the tile
        that was timed.
    pair_seconds : float
        Of a tile, by the clock, with the preparation of its images: the better one of two.
    launch_seconds : float
        Of a pair of a launch, by the clock, with its values' way back, its images being there.
    prepare_seconds : float
        Of a pair of a tile, what the CPU takes to prepare its launches.
    entry_seconds : float
        Of a plane entry, of the whole tile.
    is_repeatable : bool
        Whether the tile has the same bits both times.
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


def measure_case(name: str, options: CudaOptions) -> Found:
    """Measure a network of the table."""
    network, dtype, images, size = CASES[name]
    question = Question(((network, "ntk"),), (size, size, 3), dtype)
    return measure(CudaEngine(question, options), CpuEngine(question), images)


def row(name: str, found: Found, architecture: str) -> str:
    """Write the row of a network."""
    dtype = CASES[name][1]
    least = LEAST_SECONDS.get(architecture, LEAST_SECONDS[OTHERWISE])[dtype == "float64"]
    times = (found.pair_seconds, found.launch_seconds, found.prepare_seconds)
    cells = [f"{seconds * 1e6:.3g}" for seconds in times]
    cells += [f"{found.entry_seconds * 1e12:.3g}", f"{found.entry_seconds / least:.2f}"]
    cells += [f"{CORE_SECONDS[dtype] / found.entry_seconds:.3g}"]
    return f"| {name} | {found.error:.1e} | {'same' if found.is_repeatable else 'DIFFER'} | {' | '.join(cells)} |"


@dataclass(frozen=True)
class PeerFound:
    """What neural-tangents came to.

    Attributes
    ----------
    pair_seconds : float
        Of a pair of its tile, the best of three.
    images : int
        Of each side of the tile.
    difference : float
        The largest of values of both, relative to ours. Its own float32 is coarse: `peers.py` says how coarse.
    device : str
        As jax calls it: ``gpu NVIDIA H100``.
    versions : str
        Of the peer and what it stands on.
    """

    pair_seconds: float
    images: int
    difference: float
    device: str
    versions: str

    @property
    def is_on_card(self) -> bool:
        """Whether it computed on a card, so that its time is comparable."""
        return self.device.startswith(("gpu", "cuda"))


def measure_peer(python: str, name: str, images: int) -> PeerFound:
    """Time neural-tangents on a network of ``peers.py``, and compare a few values with the engine "cpu"."""
    x, z = np.random.default_rng(0).standard_normal((2, images, *SHAPE), np.float32)
    case, few = PEER_CASES[name], min(images, 4)
    own = CpuEngine(Question(((case.network(), "ntk"),), SHAPE, "float32")).evaluator().evaluate(x[:few], z[:few])[0]
    with tempfile.TemporaryDirectory() as folder:
        peer = Peer(python, name, x, z, Path(folder))
        seconds = min(peer.evaluate()[0] for _ in range(3))
        peer.close()
    difference = float(np.max(np.abs(case.factor * peer.values[:few, :few] / own - 1)))
    versions = dict(peer.versions)
    device = versions.pop("device")
    told = ", ".join(f"{package} {version}" for package, version in versions.items())
    return PeerFound(seconds / images**2, images, difference, device, told)


def find_peer(given: str | None) -> str | None:
    """Name the interpreter that has neural-tangents: the one that was given, or this one where it has it."""
    return given or (sys.executable if importlib.util.find_spec("neural_tangents") else None)


def judge(found: dict[str, Found], ratios: dict[str, float]) -> Iterator[str]:
    """Write a row for each goal.

    Parameters
    ----------
    found : mapping of str to Found
        What was measured, by network.
    ratios : mapping of str to float
        How many times as long neural-tangents took, by network.
    """
    for goal in GOALS:
        value = goal.read(found[goal.network]) if goal.network in found else None
        is_met = value is not None and value <= goal.most
        yield _goal_row(f"{goal.network}: {goal.unit}", f"at most {goal.most:g}", value, is_met)
    for network in PEERS:
        ratio = ratios.get(network)
        is_met = ratio is not None and ratio >= PEER_GOAL
        yield _goal_row(f"{network}: times neural-tangents", f"at least {PEER_GOAL:g}", ratio, is_met)


def _goal_row(name: str, asked: str, value: float | None, is_met: bool) -> str:
    found, verdict = ("", "not measured") if value is None else (f"{value:.3g}", "met" if is_met else "MISSED")
    return f"| {name} | {asked} | {found} | {verdict} |"


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


def ask(name: str, arguments: list[str], seconds: float) -> str | None:
    """Run this script in a process of its own; return what it printed, or print why it failed, and return None."""
    command = [sys.executable, __file__, *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        told, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        print(f"FAILED: {name}: took longer than {seconds:.0f} s", flush=True)
        return None
    finally:
        if process.poll() is None:  # with the peer that it has started
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    if process.returncode != 0:
        print(f"FAILED: {name}: exit code {process.returncode}", flush=True)
        return None
    return told


class Script:
    """Runs all in order, and says it to the terminal and to a file.

    Parameters
    ----------
    architecture : str
        Of the device.
    out : Path or None
        The file to append to, or None.
    """

    def __init__(self, architecture: str, out: Path | None) -> None:
        self._architecture = architecture
        self._began = time.monotonic()
        self._file = open(out or os.devnull, "a")  # noqa: SIM115 - of the whole process

    def say(self, text: str) -> None:
        """Print a text."""
        for file in (sys.stdout, self._file):
            print(text, file=file, flush=True)

    def left(self) -> float:
        """Return the seconds that a process may still take."""
        return min(CASE_SECONDS, ALL_SECONDS - (time.monotonic() - self._began))

    def run(self, names: list[str], peer: str | None) -> int:
        """Run networks and neural-tangents, and count the networks that failed."""
        described = ask("the card", ["--describe"], CASE_SECONDS)
        if described is None:  # nothing is said, nor appended
            return len(names)
        described = described.strip()
        card = described.partition(", ")[0]
        self.say(f"\n## `python benchmarks/gpu.py` on {card}, {datetime.date.today()}\n{described}\n")
        floor = " and ".join(f"{seconds * 1e9:.2f}" for seconds in CORE_SECONDS.values())
        self.say(
            'Errors are relative to the largest entry of the engine "cpu". The least is counted by gpu_model.py.\n'
            f"A core with AVX-512 takes {floor} ns an entry in float32 and float64: the floor of tile.py.\n\n{HEAD}"
        )
        found = {name: case for name in names if (case := self._run_case(name)) is not None}
        self.say(f"\n{len(found)} of {len(names)} networks in {time.monotonic() - self._began:.0f} s\n")
        ratios = self.compare(peer, names, found)
        self.say("\n".join(["", GOAL_HEAD, *judge(found, ratios)]))
        return len(names) - len(found)

    def _run_case(self, name: str) -> Found | None:
        if self.left() <= 0:
            self.say(f"| {name} | NOT RUN: {ALL_SECONDS:.0f} s are over |")
            return None
        told = ask(name, ["--architecture", self._architecture, "--row", name], self.left())
        if told is None:
            self.say(f"| {name} | FAILED |")
            return None
        found = Found(**json.loads(told.splitlines()[-1]))
        self.say(row(name, found, self._architecture))
        return found

    def compare(self, python: str | None, names: list[str], found: dict[str, Found]) -> dict[str, float]:
        """Time neural-tangents, and return how many times as long it takes."""
        shared = [name for name in names if name in PEERS]
        if python is None or not shared:
            why = "it is not installed" if python is None else "it has none of these networks"
            self.say(f"neural-tangents: not compared, {why}.")
            return {}
        ratios, versions = {}, ""
        self.say(PEER_HEAD)
        for name in shared:
            best = self._best_of_peer(python, name)
            if best is None or not best.is_on_card:
                why = "failed, or had no time" if best is None else f"not compared: computes on {best.device}"
                self.say(f"| {name} | {why} |")
                continue
            versions = f"\n{best.versions}; on {best.device}."
            if name in found:
                ratios[name] = best.pair_seconds / found[name].pair_seconds
            ratio = f"{ratios[name]:.3g}" if name in ratios else ""
            tile = f"{best.images} x {best.images}"
            self.say(f"| {name} | {best.pair_seconds * 1e6:.3g} | {tile} | {best.difference:.1e} | {ratio} |")
        self.say(versions)
        return ratios

    def _best_of_peer(self, python: str, name: str) -> PeerFound | None:
        best = None
        peer_name, counts = PEERS[name]
        for images in counts:
            if self.left() <= 0:
                break
            arguments = ["--peer", python, "--peer-row", peer_name, str(images)]
            told = ask(f"neural-tangents, {name}, {images} x {images}", arguments, self.left())
            if told is None:
                break  # a larger tile has no more room or time
            each = PeerFound(**json.loads(told.splitlines()[-1]))
            best = each if best is None or each.pair_seconds < best.pair_seconds else best
            if not each.is_on_card:
                break
        return best


def main() -> int:
    """Print a row a network; return 1 where one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", default="sm_90", help="of the device, as sm_90")
    parser.add_argument("--out", type=Path, metavar="FILE", help="append what is printed to this file too")
    parser.add_argument("--peer", metavar="PYTHON", help="an interpreter that imports neural_tangents")
    parser.add_argument("--row", metavar="NETWORK", help="one network, in this process, as JSON")
    parser.add_argument("--peer-row", nargs=2, metavar=("NETWORK", "IMAGES"), help="the same of neural-tangents")
    parser.add_argument("--describe", action="store_true", help="say what the device is, and end")
    parser.add_argument("names", nargs="*", metavar="NETWORK", help="of these alone; all without")
    asked = parser.parse_args()
    unknown = [name for name in (*asked.names, *filter(None, [asked.row])) if name not in CASES]
    if unknown:
        parser.error(f"no network {', '.join(unknown)}; there are: {'; '.join(CASES)}")
    if asked.describe:
        print("\n".join(describe_device()))
        return 0
    if asked.row or asked.peer_row:
        print(json.dumps(asdict(_run_one(asked))), flush=True)
        return 0
    try:
        script = Script(asked.architecture, asked.out)
    except OSError as error:
        parser.error(f"--out names a file to append to: {error}")
    return 1 if script.run(asked.names or list(CASES), find_peer(asked.peer)) else 0


def _run_one(asked: argparse.Namespace) -> Any:
    if asked.row:
        return measure_case(asked.row, CudaOptions(architecture=asked.architecture))
    name, images = asked.peer_row
    return measure_peer(asked.peer, name, int(images))


if __name__ == "__main__":
    sys.exit(main())
