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
    folder : of both.
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


def add(copy: Copy, title: str, file: str, table: str, opening: str) -> None:
    """Add what a section of the page shows.

    Parameters
    ----------
    title : of the section.
    file, table : paths in the package: the file to write, and the file that holds the table.
    opening : the text of the table behind which the line belongs.
    """
    page = (ROOT / "docs" / "extending.md").read_text()
    section = page[page.index(f"# {title}\n") :]
    text, line = re.findall(r"```python\n(.*?)```", section, re.DOTALL)[:2]
    statement = re.findall(r"with its import, `(.*?)`", section)[0]
    package = copy.folder / "copy" / "cntk_pipeline"
    (package / file).write_text(text)
    door = (package / table).read_text()
    assert opening in door
    (package / table).write_text(
        door.replace(opening, f"{opening}{line}").replace("\nfrom ", f"\n{statement}\nfrom ", 1)
    )
