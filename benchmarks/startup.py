"""Measures what a command costs before it does anything, and how long numba keeps a second process waiting.

Run: ``python benchmarks/startup.py``; for commands alone, ``python benchmarks/startup.py commands``, with ``--against
CHECKOUT`` in pairs with another checkout of this repository.

Commands: the processor seconds of whole processes, children included, the smallest of a few, each turn one of every
checkout. `LIMITS` has what they may cost.

numba: a second process should find all code in the first one's cache.

Runs ``cntk demo`` on few images twice, each time in fresh processes and into a new run directory, with numba's cache
in a folder that is empty at first. A hook (`hooks/sitecustomize.py`) logs in every process, workers included, what
numba compiles and what it loads from the cache. The limit is for the second run, for compiling and loading together,
in the slowest process. Importing numba, NumPy included, is shown beside: every process that uses numba pays it,
whatever is cached.
Saving to the cache is not counted; it happens only after compilations.
"""

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

LIMIT_SECONDS = 1.0
LIMITS = {"import": 0.3, "help": 0.3, "completion": 0.3, "status": 0.6}
"""Processor seconds of commands, by `command_lines`."""

COMPLETE = """
import os, sys
os.environ |= {"_CNTK_COMPLETE": "complete_bash", "COMP_WORDS": "cntk st", "COMP_CWORD": "1"}
sys.argv[0] = "cntk"
from cntk_pipeline.cli.main import main
main()
"""

TURNS = 7
FEW_IMAGES = ("--set", "data.train=64", "--set", "data.test=16")  # the code is the same for any number
HOOKS = Path(__file__).parent / "hooks"


@dataclass(frozen=True)
class Visit:
    """What numba did in one process.

    Attributes
    ----------
    role : str
        "driver", or "worker" for its children.
    seconds : mapping of str to float
        By kind: "import", "compile", "load".
    compiled : list of str
        Names of functions.
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


def command_lines(run: Path) -> dict[str, list[str]]:
    """List what is timed: the arguments of Python, by their names in the table."""
    command = ["-P", "-m", "cntk_pipeline.cli"]
    return {
        "nothing": ["-c", "pass"],
        "import numpy": ["-c", "import numpy"],
        "import": ["-c", "import cntk_pipeline"],
        "help": [*command, "--help"],
        "completion": ["-c", COMPLETE],
        "status": [*command, "status", str(run)],
    }


def processor_seconds(arguments: list[str], checkout: Path) -> float:
    """Run a Python with the package of a checkout once; return its processor seconds."""
    environment = os.environ | {"PYTHONPATH": str(checkout / "pipeline")}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], env=environment, stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def time_commands(console: Console, folder: Path, against: Path | None) -> list[str]:
    """Show the processor seconds of commands; return what exceeds its limit."""
    here = Path(__file__).parents[1]
    checkouts = [here] if against is None else [against, here]
    run_demo(folder, "run", "serial")
    table = Table("command", *("before", "now")[-len(checkouts) :], "limit", title="processor seconds of commands")
    slow = []
    for name, arguments in command_lines(folder / "run").items():
        best = [math.inf] * len(checkouts)
        for _ in range(TURNS):
            best = [
                min(least, processor_seconds(arguments, checkout))
                for least, checkout in zip(best, checkouts, strict=True)
            ]
        limit = LIMITS.get(name)
        table.add_row(name, *(f"{value:.3f}" for value in best), "" if limit is None else f"{limit:g}")
        if limit is not None and best[-1] >= limit:
            slow.append(f"{name} took {best[-1]:.2f} s, not under {limit:g} s")
    console.print(table)
    return slow


def main() -> None:
    """Time the commands, then run the demo twice; exit with 1 where a limit is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", nargs="?", choices=("commands", "all"), default="all")
    parser.add_argument("--against", type=Path, help="another checkout, to time its commands in pairs")
    parser.add_argument("--cluster", choices=("local", "serial"), default="local", help="default: local, as the demo")
    options = parser.parse_args()
    cluster = options.cluster

    console = Console(highlight=False)
    with tempfile.TemporaryDirectory() as folder:
        slow = time_commands(console, Path(folder), options.against)
    if slow or options.part == "commands":
        sys.exit("; ".join(slow) or 0)
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
