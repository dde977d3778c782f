"""A soak: real commands on real runs, at random killed, stopped, filled up, damaged, and given another time of day.

Each episode is one run of a random workflow. After every command the law holds: it ended with 0; or it was ended; or it
said in a line what to do, and once that is done it goes on. No command prints a traceback. In the end every array is
what it is without disturbance, and `verify` and `status` say that nothing is left to do.

CNTK_SOAK_SECONDS of it, CNTK_SOAK_SEED to repeat one. Seen to fail: without the look for damaged descriptions of
arrays, and where a full disk is an error like others.
"""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from faults.test_clocks import DAY, HOUR, LIBRARIES, Clock
from faults.test_every_file import DAMAGES, WORKFLOWS, contents, is_same, sections_of
from faults.test_full_disk import fill

SECONDS = float(os.environ.get("CNTK_SOAK_SECONDS", "5"))
SEED = int(os.environ.get("CNTK_SOAK_SEED", str(time.time_ns() % 10**6)))
COMMAND_SECONDS = 240.0
"""A command that has not ended by then waits for ever."""

RECOUNTED = ("iterations.json", "ridge_path.zarr", "solve.json", "released.json", "factor.zarr/partial")
"""What may differ: iterations that ran again are counted on; what is needed for a while, and notes."""

MOST_COMMANDS = 40

MOST_DISTURBANCES = 6 if SECONDS > 60 else 3
"""Of one run: a short soak is one."""

NAMES = [name for name in WORKFLOWS if name != "grown"]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, which may be filled up, or a folder where none can be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounts = os.geteuid() == 0
    mounted = mounts and not subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", folder]).returncode
    yield folder
    if mounted:
        subprocess.run(["umount", folder], check=True)


def is_small(disk: Path) -> bool:
    return os.path.ismount(disk)


class Soak:
    """Commands on runs, and what disturbs them."""

    def __init__(self, rng: random.Random, disk: Path, small_npz: Path, folder: Path) -> None:
        self.rng, self.disk, self.folder = rng, disk, folder
        self.events: dict[str, int] = {}
        self.said: list[str] = []
        self.clock = Clock(folder / "time-of-day") if LIBRARIES else None
        self._npz = small_npz
        self._truth: dict[str, dict[str, bytes]] = {}

    def workflow(self, name: str, kind: str) -> Path:
        """Write a workflow file."""
        sections = sections_of(name)
        sections["data"] = {"source": "npz", "path": str(self._npz)} | sections["data"]
        tables = {"network": {"preset": "cntk"}, "kernel": {"tile": 8}, "cluster": {"kind": kind}} | sections
        lines = ['name = "soak"']
        for table, values in tables.items():
            inline = ", ".join(f"{key} = {json.dumps(value)}" for key, value in values.items())
            lines.append(f"{table} = {{ {inline} }}")
        path = self.folder / f"{name.replace(' ', '-')}-{kind}.toml"
        path.write_text("\n".join(lines) + "\n")
        return path

    def truth(self, name: str, kind: str) -> dict[str, bytes]:
        """Run a workflow undisturbed."""
        key = f"{name} {kind}"
        if key not in self._truth:
            path = self.folder / "truth" / key.replace(" ", "-")
            code, said = self.command(None, "run", self.workflow(name, kind), "--store", path)
            assert code == 0, said
            self._truth[key] = contents(path)
        return self._truth[key]

    def command(self, disturb: Callable[[subprocess.Popen[bytes]], None] | None, *words: object) -> tuple[int, str]:
        """Run a command, in a process group of its own; return its exit code and all that it said."""
        output = self.folder / "output.txt"
        environment = os.environ | (self.clock.environment if self.clock else {})
        with open(output, "wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "cntk_pipeline.cli", *map(str, words)],
                cwd=Path(__file__).parents[2],
                env=environment,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                if disturb is not None:
                    disturb(process)
                process.wait(COMMAND_SECONDS)
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
        said = output.read_text(errors="replace")
        self.said.append(f"{' '.join(map(str, words))}\n  {process.returncode}: {said[-600:]}")
        assert "Traceback" not in said, "\n".join(self.said[-6:])
        return process.returncode, said

    def disturbance(self) -> Callable[[subprocess.Popen[bytes]], None] | None:
        """Choose what happens to a command, and when."""
        kinds = ["nothing", "kill", "kill", "interrupt", "terminate", "twice"]
        kinds += ["full", "full"] if is_small(self.disk) else []
        kinds += ["clock"] if self.clock else []
        kind, delay = self.rng.choice(kinds), self.rng.choice([0.3, 1.2, 1.5, 1.8, 2.2, 2.8, 4.0])
        self.events[kind] = self.events.get(kind, 0) + 1
        if kind == "nothing":
            return None

        def happen(process: subprocess.Popen[bytes]) -> None:
            try:
                process.wait(delay)
                return
            except subprocess.TimeoutExpired:
                pass
            if kind == "kill":
                os.killpg(process.pid, signal.SIGKILL)
            elif kind in ("interrupt", "terminate", "twice"):
                os.killpg(process.pid, signal.SIGTERM if kind == "terminate" else signal.SIGINT)
                if kind == "twice":
                    time.sleep(0.3)
                    if process.poll() is None:
                        os.killpg(process.pid, signal.SIGINT)
            elif kind == "full":
                fill(self.disk)
            elif self.clock:
                self.clock.set(self.rng.choice([-30 * DAY, -HOUR, -90, 60, HOUR, 400 * DAY]))

        return happen

    def damage(self, path: Path, originals: dict[Path, bytes]) -> None:
        """Change a file of a run somewhere; the lease says who drives, which is no accident's business."""
        files = [file for file in sorted(path.rglob("*")) if file.is_file() and "lease" not in file.parts]
        if not files:
            return
        file, change = self.rng.choice(files), self.rng.choice(DAMAGES)
        self.events[change.__name__] = self.events.get(change.__name__, 0) + 1
        originals[file] = file.read_bytes()
        after = change(originals[file], self.rng)
        if after is None:
            file.unlink()
        else:
            file.write_bytes(after)

    def obey(self, said: str, path: Path, originals: dict[Path, bytes]) -> bool:
        """Do what a command has said is to be done; tell whether it said anything."""
        (self.disk / "filler").unlink(missing_ok=True)
        named = [Path(found) for found in re.findall(r"(/[^\s:`'\"]+)", said.replace("\n", " "))]
        inside = [each for each in named if each.is_relative_to(path) and each.is_file()]
        if "delete it" in said and inside:
            inside[0].unlink()
            return True
        if "estore" in said:
            for file, content in originals.items():
                if not file.is_relative_to(path / "journal"):
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_bytes(content)
            return True
        return any(
            word in said
            for word in (
                "free some space",
                "the same command",
                "cntk resume",
                "cntk run",
                "delete that",
                "another driver",
            )
        )


def episode(soak: Soak, number: int) -> str:
    """Disturb one run until it is complete."""
    rng = soak.rng
    name, kind = rng.choice(NAMES), rng.choice(["serial", "serial", "local"])
    truth, file = soak.truth(name, kind), soak.workflow(name, kind)
    path, originals = soak.disk / f"run{number}", {}
    run, resume = ("run", file, "--store", path), ("resume", path)
    disturbances = rng.randint(1, MOST_DISTURBANCES)
    words: tuple[object, ...] = run
    for count in range(MOST_COMMANDS):
        calm = count >= disturbances
        code, said = soak.command(None if calm else soak.disturbance(), *words)
        if code == 0 and calm:
            break
        helped = code in (0, 130, -signal.SIGKILL, -signal.SIGINT, -signal.SIGTERM) or soak.obey(said, path, originals)
        assert helped, "\n".join(soak.said[-8:])
        (soak.disk / "filler").unlink(missing_ok=True)
        if not calm and rng.random() < 0.5:
            soak.damage(path, originals)
        has_begun = (path / "inputs.zarr/zarr.json").is_file() and (path / "workflow.json").is_file()
        verifying = ("--verify",) if rng.random() < 0.3 else ()
        words = (*(resume if has_begun and "cntk run" not in said and rng.random() < 0.7 else run), *verifying)
    else:
        raise AssertionError("no end:\n" + "\n".join(soak.said[-12:]))
    for _ in range(2):
        code, said = soak.command(None, "verify", path)
        if code == 0:
            break
        assert soak.command(None, *resume)[0] == 0, "\n".join(soak.said[-8:])
    assert code == 0, "\n".join(soak.said[-8:])
    assert soak.command(None, "status", path)[0] == 0, "\n".join(soak.said[-8:])
    now = contents(path)
    differ = [each for each in truth if not is_same(each, now.get(each), truth[each])]
    assert [each for each in differ if not any(part in each for part in RECOUNTED)] == [], "\n".join(soak.said[-20:])
    shutil.rmtree(path)
    return f"{name} {kind}"


@pytest.mark.timeout(SECONDS + 600)
def test_a_run_that_is_disturbed_at_random_ends_whole_or_says_what_to_do(
    disk: Path, small_npz: Path, tmp_path: Path
) -> None:
    print(f"\nsoak of {SECONDS:g} s, CNTK_SOAK_SEED={SEED}")
    soak, began, count = Soak(random.Random(SEED), disk, small_npz, tmp_path), time.monotonic(), 0
    done: dict[str, Any] = {}
    while count == 0 or time.monotonic() - began < SECONDS:
        name = episode(soak, count)
        done[name] = done.get(name, 0) + 1
        count += 1
    print(f"{count} runs, {len(soak.said)} commands, {soak.events}, {done}")
