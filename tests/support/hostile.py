"""Files that are called like modules: a Python that searches the current directory runs them."""

from pathlib import Path

_CODE = (
    "from pathlib import Path\nPath(__file__ + '.was-run').touch()\nraise SystemExit('a file of the user was run')\n"
)

_MODULES = ("cntk_pipeline", "numpy", "numba", "zarr", "typer", "dask", "distributed", "tornado", "asyncssh")


def lay_hostile(folder: Path) -> Path:
    """Write the files into a folder that exists; return the folder."""
    for name in _MODULES:
        (folder / f"{name}.py").write_text(_CODE)
    return folder


def hostile_run(folder: Path) -> list[str]:
    """Name the files of a folder that were run."""
    return sorted(path.name for path in folder.glob("*.was-run"))
