"""A copy of the package to which a page of the documentation adds something: a file and a line of a table.

The text is that of docs/extending.md, so that the page is held true.
"""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from support.commands import Commands

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Copy:
    """A folder with a copy of the package in ``copy``, in which commands run.

    Attributes
    ----------
    folder : Path
        Of both.
    """

    folder: Path

    def cntk(self, *words: str, code: int = 0) -> str:
        """Run a command of the copy, and require its exit code; return all it said."""
        done = _commands(self).run(*words, folder=self.folder, scratch=self.folder / "copy")
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def python(self, *words: str, code: int = 0) -> str:
        """Run Python with the copy and what the tests share, and require its exit code; return all it said."""
        command, given = [sys.executable, *words], self.environment
        done = subprocess.run(command, cwd=self.folder, env=given, capture_output=True, text=True, timeout=240)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    @property
    def environment(self) -> dict[str, str]:
        """The variables of what runs with the copy."""
        places = os.pathsep.join(map(str, (self.folder / "copy", ROOT / "tests")))
        return os.environ | {"PYTHONPATH": places, "COLUMNS": "200", "NO_COLOR": "1"}


_running: dict[tuple[object, ...], Commands] = {}
"""The commands of the copy that was asked last, as its files were."""


def _commands(copy: Copy) -> Commands:
    files = sorted((copy.folder / "copy").rglob("*.py"))
    state = (copy, tuple((file, file.stat().st_mtime_ns) for file in files))
    if state not in _running:
        _running.clear()
        _running[state] = Commands(copy.environment)
    return _running[state]


def copy_package(folder: Path) -> Copy:
    """Copy the package with its bytecode, and with its machine code, which belongs to sources of any place."""
    package, copied = ROOT / "pipeline" / "cntk_pipeline", folder / "copy" / "cntk_pipeline"
    # Files that another process is about to rename may be gone before they are copied.
    shutil.copytree(package, copied, ignore=shutil.ignore_patterns("*.pyc.*", "cntk"))
    code = Path("kernels", "__pycache__", "cntk")  # of `kernels.code_cache`; without it, a copy compiles for a minute
    (package / code).mkdir(parents=True, exist_ok=True)
    (copied / code).parent.mkdir(exist_ok=True)
    (copied / code).symlink_to(package / code)
    return Copy(folder)


@dataclass(frozen=True)
class Hunk:
    """A part of a unified diff.

    Attributes
    ----------
    file : str
        Path in the repository.
    old, new : str
        The lines of the file, before and after.
    """

    file: str
    old: str
    new: str


def hunks_of(diff: str) -> list[Hunk]:
    """Read a diff of one file, and require that its numbers of lines are right. The lines may have moved since."""
    (file,) = re.findall(r"(?m)\A--- a/.*\n\+\+\+ b/(.*)$", diff)
    _, *parts = re.split(r"(?m)^@@ -\d+,(\d+) \+\d+,(\d+) @@\n", diff)
    hunks = []
    for removed, added, text in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
        lines = text.splitlines(keepends=True)
        old, new = ([line[1:] or line for line in lines if line[0] != sign] for sign in "+-")
        assert (len(old), len(new)) == (int(removed), int(added)), text
        hunks.append(Hunk(file, "".join(old), "".join(new)))
    return hunks


def add(copy: Copy, title: str, file: str) -> None:
    """Add what a section of the page shows.

    Parameters
    ----------
    title : str
        Of the section.
    file : str
        The path of the new file in the package.
    """
    page = (ROOT / "docs" / "extending.md").read_text()
    section = page[page.index(f"\n# {title}\n") :]
    blocks = [re.findall(rf"```{kind}\n(.*?)```", section, re.DOTALL)[0] for kind in ("python", "diff")]
    (copy.folder / "copy" / "cntk_pipeline" / file).write_text(blocks[0])
    for hunk in hunks_of(blocks[1]):
        changed = copy.folder / "copy" / Path(hunk.file).relative_to("pipeline")
        text = changed.read_text()
        assert text.count(hunk.old) == 1, f"docs/extending.md shows lines that are no more in {hunk.file}:\n{hunk.old}"
        changed.write_text(text.replace(hunk.old, hunk.new))
