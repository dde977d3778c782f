"""Two finished runs that version 0.1.0 wrote, before records were held against models, with all kinds of records.

``factored`` chose its ridges by leave-one-out and was asked for all of ``[inference]``; ``iterated`` grew from it, runs
conjugate gradients, and was submitted once. ``NAME.report.json`` is what `cntk status --json` said of each.
"""

import json
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

NAMES = ("factored", "iterated")

_ARCHIVE = Path(__file__).parents[1] / "earlier" / "runs.tar.xz"


def unpack(folder: Path) -> None:
    with tarfile.open(_ARCHIVE) as archive:
        archive.extractall(folder, filter="data")


def said_of(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / f"{name}.report.json").read_text())


def copied(run: Path, where: Path) -> Path:
    """Copy a run by hard links, as what changes a file here puts another in its place."""
    shutil.rmtree(where, ignore_errors=True)
    shutil.copytree(run, where, copy_function=os.link)
    return where


def put(path: Path, content: bytes) -> None:
    """Put a file in the place of another, whose bytes other links may share."""
    path.unlink(missing_ok=True)
    path.write_bytes(content)


def chunks(run: Path) -> dict[str, bytes]:
    """Read every chunk of a run but what is set aside."""
    found = (file for file in run.rglob("*") if "c" in file.parts and file.is_file() and not file.is_symlink())
    files = (file for file in found if file.stat().st_size < 2**20)  # of a test that made one of gigabytes
    return {str(file.relative_to(run)): file.read_bytes() for file in files if "quarantine" not in file.parts}


def records(run: Path) -> list[str]:
    """List the JSON files of a run, one of each kind: an array of one kind is like the next."""
    found: dict[tuple[str, ...], str] = {}
    for file in sorted(run.rglob("*.json*")):
        place = file.relative_to(run)
        kind = tuple("#" if any(character.isdigit() for character in part) else part for part in place.parts)
        if "zarr.json" in kind:
            kind = (kind[0], *kind[-2:])
        if any(
            str(part).startswith(("leave_one", "learning", "posterior", "spectrum", "ensemble")) for part in place.parts
        ):
            kind = (*kind, place.name)
        found.setdefault(kind, str(place))
    return sorted(found.values())
