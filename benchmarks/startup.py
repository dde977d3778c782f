"""Measures how long numba keeps a second process waiting, which should find all code in the first one's cache.

Run: ``python benchmarks/startup.py``

Runs ``cntk demo`` on few images twice, each time in fresh processes and into a new run directory, with numba's cache
in a folder that is empty at first. A hook (`hooks/sitecustomize.py`) logs in every process, workers included, what
numba compiles and what it loads from the cache. The limit is for the second run, for compiling and loading together,
in the slowest process. Importing numba, NumPy included, is shown beside: every process that uses numba pays it,
whatever is cached.
Saving to the cache is not counted; it happens only after compilations.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

LIMIT_SECONDS = 1.0
FEW_IMAGES = ("--set", "data.train=64", "--set", "data.test=16")  # the code is the same for any number
HOOKS = Path(__file__).parent / "hooks"


@dataclass(frozen=True)
class Visit:
    """What numba did in one process.

    Attributes
    ----------
    role : "driver", or "worker" for its children.
    seconds : by kind: "import", "compile", "load".
    compiled : names of functions.
    """

    role: str
    seconds: dict[str, float]
    compiled: list[str]

    @property
    def waiting_seconds(self) -> float:
        """What the cache is to save."""
        return self.seconds["compile"] + self.seconds["load"]


def run_demo(folder: Path, name: str, cluster: str) -> tuple[float, list[Visit]]:
    """Run the demo once; return its seconds, and its processes that used numba."""
    log = folder / f"log-{name}"
    log.mkdir()
    paths = [str(HOOKS), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {
        "PYTHONPATH": os.pathsep.join(paths),
        "NUMBA_CACHE_DIR": str(folder / "cache"),
        "NUMBA_LOG": str(log),
    }
    command = [sys.executable, "-m", "cntk_pipeline.cli", "demo", *FEW_IMAGES, "--set", f"cluster.kind={cluster}"]
    start = time.monotonic()
    process = subprocess.Popen(
        [*command, "--store", str(folder / name)],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    output, _ = process.communicate()
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with exit code {process.returncode}:\n{output}")
    seconds = time.monotonic() - start
    visits = [read_visit(path, process.pid) for path in log.iterdir()]
    used = [visit for visit in visits if visit.waiting_seconds > 0]
    return seconds, sorted(used, key=lambda visit: visit.role)


def read_visit(path: Path, driver: int) -> Visit:
    """Add up the log of a process."""
    seconds, compiled = {"import": 0.0, "compile": 0.0, "load": 0.0}, []
    for line in path.read_text().splitlines():
        entry = json.loads(line)
        seconds[entry["kind"]] += entry["seconds"]
        if entry["kind"] == "compile":
            compiled.append(entry["function"])
    return Visit("driver" if path.stem == str(driver) else "worker", seconds, compiled)


def main() -> None:
    """Run the demo twice; exit with 1 where the second run waits for numba too long."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cluster", choices=("local", "serial"), default="local", help="default: local, as the demo")
    cluster = parser.parse_args().cluster

    console = Console(highlight=False)
    table = Table("run", "process", title="seconds in numba")
    for heading in ("import", "compile", "functions", "load", "compile + load"):
        table.add_column(heading, justify="right")
    with tempfile.TemporaryDirectory() as folder:
        for name in ("first", "second"):
            with console.status(f"{name} run"):
                seconds, visits = run_demo(Path(folder), name, cluster)
            for visit in visits:
                took = {kind: f"{value:.2f}" for kind, value in visit.seconds.items()}
                count, total = str(len(visit.compiled)), f"{visit.waiting_seconds:.2f}"
                table.add_row(name, visit.role, took["import"], took["compile"], count, took["load"], total)
            table.add_section()
            console.print(f"{name} run: {seconds:.1f} s in all")
    console.print(table)
    again = sorted({function for visit in visits for function in visit.compiled})
    if again:
        console.print(f"compiled again: {', '.join(again)}")
    slowest = max((visit.waiting_seconds for visit in visits), default=0.0)
    if slowest >= LIMIT_SECONDS:
        sys.exit(f"a process of the second run waited {slowest:.2f} s for numba, not under {LIMIT_SECONDS} s")


if __name__ == "__main__":
    main()
