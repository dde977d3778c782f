"""Measures this package beside neural-tangents: time for a kernel entry, and whether the values agree.

Run: ``python benchmarks/peers.py --peer /path/to/its/python``; without ``--peer`` it says how to make that environment.

Both compute the NTK of the same networks, all layers trained, on images of 32 x 32 x 3 in float32, with all cores. The
peer compiles once for each network and stays alive in a process of its own; then the two are timed by turns, since
others may use the machine, and the best turn of each counts. Neither time includes compilation. Each gets the tile it
is fast on: ours one that gives every core the same rows; the peer's is bounded by its memory (7 GB for 4 x 4 images
with global average pooling at depth 11). ``cores`` is processor time over time: how many cores the peer made use of;
``values`` the largest relative difference.

Values are compared on the images that both see. What they differ by is the peer's rounding: at depth 11 with pooling
its float32 values lie 6e-4 from our float64 ones, our float32 values 1e-7. So the images are distinct, since the
derivative of the ReLU's dual is steepest, and the peer worst, where an image meets itself.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from cntk_pipeline import kernel_matrix
from cntk_pipeline.kernels.pieces import BAND
from cntk_pipeline.layers import Sequential, presets

DEPTH = 11
SHAPE = (32, 32, 3)
LARGEST_DIFFERENCE = 1e-3
PEER_SCRIPT = Path(__file__).with_name("neural_tangents_peer.py")
ENVIRONMENT = """\
neural-tangents 0.6.5 needs an environment of its own (it pulls TensorFlow, about 1 GB), with Python 3.11:
  python3.11 -m venv peer
  peer/bin/pip install "neural-tangents==0.6.5" "jax==0.4.30" "jaxlib==0.4.30" "tf2jax==0.3.6" "numpy<2.1"
  python benchmarks/peers.py --peer peer/bin/python"""


@dataclass(frozen=True)
class Case:
    """A network that both know.

    Attributes
    ----------
    network : callable
        Builds ours.
    factor : float
        Our values over the peer's; the original CNTK code sums where neural-tangents averages.
    peer_count : int
        Images on each side of the peer's tile.
    bands, right_count : int
        Our tile has ``bands`` groups of left images for each core, and so many right images.
    target : float
        How many times faster ours should be.
    """

    network: Callable[[], Sequential]
    factor: float
    peer_count: int
    bands: int
    right_count: int
    target: float


CASES = {
    "CNTK-V": Case(lambda: presets.cntk(DEPTH, "flatten", trained_ends=True), 32 * 32 * 3, 64, 4, 512, 40),
    "CNTK-GAP": Case(lambda: presets.cntk(DEPTH, "gap", trained_ends=True), 3, 2, 1, 16, 300),
    "Myrtle-5": Case(lambda: presets.myrtle(5), 1, 4, 1, 16, 150),
}


@dataclass(frozen=True)
class Comparison:
    """What came out for one network.

    Attributes
    ----------
    peer_seconds, our_seconds : list of float
        For a kernel entry, turn by turn.
    cores : float
        How many the peer kept busy in its best turn.
    difference : float
        The largest relative one between values on common images.
    versions : mapping of str to str
        Of the peer and what it stands on.
    """

    peer_seconds: list[float]
    our_seconds: list[float]
    cores: float
    difference: float
    versions: dict[str, str]

    @property
    def ratio(self) -> float:
        """How many times longer the peer took."""
        return min(self.peer_seconds) / min(self.our_seconds)


class Peer:
    """A process of the peer that has compiled a network for one tile.

    Parameters
    ----------
    python : str
        The peer's interpreter.
    name : str
        Of the network.
    x1, x2 : array
        The tile's images.
    folder : Path
        For files that both see.
    """

    def __init__(self, python: str, name: str, x1: np.ndarray, x2: np.ndarray, folder: Path) -> None:
        np.save(folder / "x1.npy", x1)
        np.save(folder / "x2.npy", x2)
        self._messages = folder / "stderr.txt"
        outside = {"PYTHONPATH", "PYTHONHOME"}  # they name our packages
        with self._messages.open("w") as messages:
            self._process = subprocess.Popen(
                [python, str(PEER_SCRIPT), name, str(folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=messages,
                text=True,
                env={key: value for key, value in os.environ.items() if key not in outside},
            )
        self.versions = self._answer()
        self.values = np.load(folder / "values.npy")

    def evaluate(self) -> tuple[float, float]:
        """Evaluate the tile once more; return seconds, and how many cores were busy."""
        print(file=self._process.stdin, flush=True)
        answer = self._answer()
        return answer["seconds"], answer["cores"]

    def close(self) -> None:
        """End the process."""
        self._process.communicate()

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            tail = "\n".join(self._messages.read_text().splitlines()[-10:])
            sys.exit(f"the peer ended with exit code {code} (negative: a signal, often want of memory):\n{tail}")
        return json.loads(line)


def compare(python: str, name: str, turns: int) -> Comparison:
    """Time one network on both sides by turns, and compare the values."""
    case = CASES[name]
    counts = (case.bands * BAND * (os.cpu_count() or 1), case.right_count)
    # A seed for each side: the common images are then the same with any number of cores.
    x1, x2 = (np.random.default_rng(k).standard_normal((count, *SHAPE), np.float32) for k, count in enumerate(counts))
    common = case.peer_count
    network = case.network()
    values = kernel_matrix(network, x1[:common], x2[:common])  # compiles
    peer_turns, our_seconds = [], []
    with tempfile.TemporaryDirectory() as folder:
        peer = Peer(python, name, x1[:common], x2[:common], Path(folder))
        for _ in range(turns):
            seconds, cores = peer.evaluate()
            peer_turns.append((seconds / common**2, cores))
            start = time.perf_counter()
            kernel_matrix(network, x1, x2)
            our_seconds.append((time.perf_counter() - start) / (len(x1) * len(x2)))
        peer.close()
    difference = np.max(np.abs(values / case.factor / peer.values - 1))
    return Comparison([s for s, _ in peer_turns], our_seconds, min(peer_turns)[1], float(difference), peer.versions)


def row(name: str, comparison: Comparison) -> list[str]:
    """Write a comparison as the cells of a table's row."""
    peer, ours = 1e3 * min(comparison.peer_seconds), 1e3 * min(comparison.our_seconds)
    turns = [p / o for p, o in zip(comparison.peer_seconds, comparison.our_seconds, strict=True)]
    target = CASES[name].target
    color = "green" if comparison.ratio >= target else "red"
    return [
        name,
        f"{peer:.3g}",
        f"{comparison.cores:.1f}",
        f"{ours:.3g}",
        f"[{color}]{comparison.ratio:.0f}[/]",
        f"{min(turns):.0f}-{max(turns):.0f}",
        f"{target:.0f}",
        f"{comparison.difference:.1e}",
    ]


def main() -> None:
    """Compare all networks; exit with 1 where values differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", help="a Python interpreter that can import neural_tangents")
    parser.add_argument("--networks", nargs="+", choices=list(CASES), default=list(CASES), help="default: all")
    parser.add_argument("--turns", type=int, default=3, help="how often each side is timed (default 3)")
    arguments = parser.parse_args()
    if arguments.peer is None:
        print(ENVIRONMENT)
        sys.exit(2)

    console = Console(highlight=False)
    table = Table(
        "network", title=f"{SHAPE[0]} x {SHAPE[1]} x {SHAPE[2]}, float32, {os.cpu_count()} cores, ms per kernel entry"
    )
    for heading in ("peer ms", "cores", "our ms", "ratio", "by turns", "target", "values"):
        table.add_column(heading, justify="right")
    comparisons = {}
    for name in arguments.networks:
        with console.status(f"{name}: the peer compiles, then {arguments.turns} turns"):
            comparisons[name] = compare(arguments.peer, name, arguments.turns)
        table.add_row(*row(name, comparisons[name]))
    console.print(table)
    for name, versions in {
        "peer": next(iter(comparisons.values())).versions,
        "ours": {package: importlib.metadata.version(package) for package in ("cntk-pipeline", "numba", "numpy")}
        | {"python": platform.python_version()},
    }.items():
        console.print(f"{name}: " + ", ".join(f"{package} {version}" for package, version in versions.items()))
    bad = [name for name, comparison in comparisons.items() if not comparison.difference < LARGEST_DIFFERENCE]
    if bad:
        sys.exit(f"values differ by more than {LARGEST_DIFFERENCE:.0e}: {', '.join(bad)}")


if __name__ == "__main__":
    main()
