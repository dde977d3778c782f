"""Kernels, predictions and labels of a run as npz or csv files, for people without Zarr."""

import csv
import errno
import io
import json
import os
import shutil
import uuid
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np

from cntk_pipeline.errors import ConfigError, NotComputed, StoreError
from cntk_pipeline.gram.tiles import kernel_group, test_group
from cntk_pipeline.inference import needs_test_kernel
from cntk_pipeline.opened.columns import joined, named_columns
from cntk_pipeline.opened.systems import find_readout, readout_names
from cntk_pipeline.opened.tiles import Stored, next_step, require_stored_kernel
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.rundir.specification import DataSpecification
from cntk_pipeline.solvers import METRICS, System, system_group
from cntk_pipeline.storage import StorePath, open_path
from cntk_pipeline.storage.explanations import output_explained
from cntk_pipeline.storage.tiled_array import Array, TiledArray
from cntk_pipeline.workflow.wanted import find_wanted

TEXT_BYTES = 20
"""Bytes of a number in a csv file, about: nine digits of a float32 and seventeen of a float64 are written."""

Format = Literal["npz", "csv"]

FORMATS: dict[str, Format] = {"npz": "npz", "csv": "csv"}


@dataclass(frozen=True)
class Matrix:
    """An array to write: its name, its place in the run, and what people call it."""

    name: str
    stored: Stored
    label: str

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the whole array."""
        return self.stored.spec.shape

    def bytes(self, form: Format) -> int:
        """Forecast the size in a file."""
        return int(np.prod(self.shape)) * (np.dtype(self.stored.spec.dtype).itemsize if form == "npz" else TEXT_BYTES)

    def blocks(self) -> Iterator[Array]:
        """Read the array some whole rows at a time, symmetric where only lower tiles are stored."""
        array, rows = TiledArray(open_path(self.stored.place)), self.stored.cuts[0]
        rest = [(0, size) for size in self.shape[1:]]
        for piece in range(rows.pieces):
            yield array.read_region(rows.bounds(piece), *rest, symmetric=self.stored.is_symmetric)


@dataclass(frozen=True)
class Export:
    """What is written of a run.

    Attributes
    ----------
    kernels : mapping of str to list of Matrix
        The matrices of each read-out, by its name.
    predictions : list of (System, Matrix)
        The predictive mean of each system.
    form : {"npz", "csv"}
        Of the files.
    """

    kernels: dict[str, list[Matrix]]
    predictions: list[tuple[System, Matrix]]
    form: Format

    @property
    def matrices(self) -> list[Matrix]:
        """All arrays."""
        return [matrix for group in self.kernels.values() for matrix in group] + [each for _, each in self.predictions]

    @property
    def bytes(self) -> int:
        """The forecast of the size of all files."""
        return sum(matrix.bytes(self.form) for matrix in self.matrices)


def plan_export(run: RunDirectory, readouts: Sequence[str], form: Format, *, kernels: bool) -> Export:
    """Choose what is written, and refuse what is not computed yet.

    Parameters
    ----------
    run : RunDirectory
        The run.
    readouts : sequence of str
        Names; none means all.
    form : {"npz", "csv"}
        Of the files.
    kernels : bool
        Whether the matrices are written too.

    Raises
    ------
    ConfigError
        If there is no such read-out.
    NotComputed
        If a part is not computed yet: all such parts are named.
    """
    names = [find_readout(run, name) for name in readouts] or readout_names(run)
    config = run.workflow()
    chosen: dict[str, list[Matrix]] = {}
    for name in names if kernels else ():
        group = kernel_group(run)
        parts = [spec.name for spec in group.arrays if spec.name.split("/")[0] == name]
        chosen[name] = [Matrix(part.split("/")[1], Stored.of(group, part), f"kernel {part}") for part in parts]
        if needs_test_kernel(config.inference):
            chosen[name].append(Matrix("test_test", Stored.of(test_group(run), name), f"kernel {name}/test_test"))
    systems = [solve.system for solve in find_wanted(run, config).solves if solve.system.readout in names]
    means = [Stored.of(system_group(run, system, {}), "mean") for system in systems]
    predictions = [
        (system, Matrix("scores", stored, f"predictions of {system.label}"))
        for system, stored in zip(systems, means, strict=True)
    ]
    export = Export(chosen, predictions, form)
    for matrix in (each for group in chosen.values() for each in group if each.name == "train"):
        require_stored_kernel(run, matrix.stored, f"an export of {matrix.label} (--no-kernels goes without)")
    _require_whole(run, export, [name for name in names if name not in {system.readout for system in systems}])
    return export


def _require_whole(run: RunDirectory, export: Export, unchosen: Sequence[str]) -> None:
    lacking = [f"the ridge of {name}" for name in unchosen]
    for matrix in export.matrices:
        there, total = matrix.stored.count()
        if there < total:
            lacking.append(f"{matrix.label} ({there} of {total} tiles)")
    if not run.has_inputs():
        lacking.append("the labels")
    if lacking:
        raise NotComputed(
            f"{run.path} is not finished, these parts are missing: {', '.join(lacking)}. {next_step(run)}"
        )


def folder_beside(run: StorePath, form: Format) -> str:
    """Name the folder of an export for which none is given: beside the run; in the current folder if it is in a bucket.

    Parameters
    ----------
    run : StorePath
        The run directory.
    form : {"npz", "csv"}
        Of the files; it ends the name, so that both forms may lie beside a run.
    """
    return f"{run.name}-{form}" if "://" in str(run) else f"{os.path.abspath(str(run))}-{form}"


def require_folder(place: str, export: Export) -> Path:
    """Return the folder to write, which must be new or empty, on a disk with room.

    Raises
    ------
    ConfigError
        If it is a bucket, something lies there, or it would lie in a file.
    StoreError
        If the disk has too little room, or the place cannot be looked at.
    """
    folder = Path(place)
    if "://" in place:
        raise ConfigError(f"--out {place}: expected a folder of this machine; write there, and copy it")
    with output_explained(folder):
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ConfigError(f"--out {place}: there is something already; give a new or an empty folder")
        above = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        if not above.is_dir():
            raise ConfigError(f"--out {place}: {above} is a file, in which no folder can lie; give another place")
        free = shutil.disk_usage(above).free
    if export.bytes > free:
        raise StoreError(
            f"--out {place}: {export.bytes:,} bytes are to be written and {free:,} are free there: give another disk, "
            "or fewer read-outs (--readout), or leave out the kernels (--no-kernels)"
        )
    return folder


def write_export(run: RunDirectory, export: Export, folder: Path, say: Callable[[str], None]) -> None:
    """Write a folder with all files; it appears whole or not at all. Into an empty folder they are moved at the end.

    Parameters
    ----------
    run, export
        Of `plan_export`.
    folder : Path
        Of `require_folder`.
    say : callable
        Gets a line for each file.

    Raises
    ------
    StoreError
        If it cannot be written; nothing but empty folders above it stays.
    """
    with output_explained(folder):
        is_there = folder.exists()  # then it stays the same folder: a shell may stand in it, or a disk be mounted on it
        aside = (folder if is_there else folder.parent) / f"export.{uuid.uuid4().hex}.partial"
        aside.mkdir(parents=True)
        try:
            _write_files(run, export, aside, say)
            if is_there:
                _move_files(aside, folder)
            else:
                os.rename(aside, folder)
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def _move_files(aside: Path, folder: Path) -> None:
    """Move all files into the folder that holds their own, if nothing else is in it."""
    if any(path.name != aside.name for path in folder.iterdir()):
        raise FileExistsError(errno.EEXIST, "something has appeared there meanwhile")
    moved: list[Path] = []
    try:
        for path in sorted(aside.iterdir()):
            moved.append(path.rename(folder / path.name))
    except BaseException:
        for path in moved:
            path.unlink()
        raise


def _write_files(run: RunDirectory, export: Export, folder: Path, say: Callable[[str], None]) -> None:
    write = _Writer(folder, export.form, say)
    for name, matrices in export.kernels.items():
        write.arrays(f"kernel-{name}", matrices)
    data, train, test = run.specification.data, run.labels("train"), run.labels("test")
    assert train is not None
    write.labels({"train": train} if test is None else {"train": train, "test": test}, data)
    short = Counter((system.readout, f"{system.ridge:g}") for system, _ in export.predictions)
    for system, matrix in export.predictions:
        ridge = f"{system.ridge:g}"
        # Ridges that agree in six digits have all their digits in the names, so that no file replaces another.
        name = f"predictions-{system.readout}-ridge{ridge if short[system.readout, ridge] == 1 else repr(system.ridge)}"
        if export.form == "npz":
            write.arrays(name, [matrix])
        else:
            write.predictions(name, matrix, test, data)
    write.text("metrics.json", json.dumps(_metrics(run, export), indent=2))


def _metrics(run: RunDirectory, export: Export) -> list[dict[str, Any]]:
    found = []
    for system, _ in export.predictions:
        record = run.read_record(f"solve/{system.fingerprint}/metrics.json", METRICS)
        scores = {} if record is None else {key: value for key, value in asdict(record).items() if value is not None}
        found.append({"readout": system.readout, "ridge": system.ridge, "ridge_mode": system.ridge_mode} | scores)
    return found


@dataclass(frozen=True)
class _Writer:
    """Writes files of one form into a folder."""

    folder: Path
    form: Format
    say: Callable[[str], None]

    def arrays(self, name: str, matrices: Sequence[Matrix]) -> None:
        """Write matrices block by block: one archive, or a csv file for each."""
        if self.form == "csv":
            for matrix in matrices:
                with self._opened(f"{name}-{matrix.name}.csv") as file, io.TextIOWrapper(file, newline="") as text:
                    writer = csv.writer(text)
                    for block in matrix.blocks():
                        # Each number as it is, without digits that a float32 does not have.
                        writer.writerows([str(value) for value in row] for row in block.reshape(len(block), -1))
            return
        with self._opened(f"{name}.npz") as file, zipfile.ZipFile(file, "w") as archive:
            for matrix in matrices:
                with archive.open(f"{matrix.name}.npy", "w", force_zip64=True) as entry:
                    header = {"descr": np.dtype(matrix.stored.spec.dtype).str, "fortran_order": False}
                    np.lib.format.write_array_header_2_0(entry, header | {"shape": matrix.shape})
                    for block in matrix.blocks():
                        entry.write(np.ascontiguousarray(block).tobytes())

    def labels(self, parts: Mapping[str, Array], data: DataSpecification) -> None:
        """Write the labels as they are in the run; with the names of the classes or targets."""
        if self.form == "npz":
            with self._opened("labels.npz") as file:
                np.savez(file, **parts, classes=np.array(data.classes))  # type: ignore[arg-type]
            return
        for part, labels in parts.items():
            self._table(f"labels-{part}.csv", _label_columns(labels, data))

    def predictions(self, name: str, matrix: Matrix, labels: Array | None, data: DataSpecification) -> None:
        """Write predictions as a table: image, the labels where they are known, predicted classes and means."""
        means = np.concatenate(list(matrix.blocks()))
        known = {"image": np.arange(len(means))} if labels is None else _label_columns(labels, data)
        found = named_columns(data, means)
        if data.task == "regression":
            found = {f"predicted_{target}": values for target, values in found.items()}
        else:
            found = {"predicted": found.pop("class")} | found
        self._table(f"{name}.csv", joined(known, found))

    def text(self, name: str, content: str) -> None:
        """Write a text file."""
        with self._opened(name) as file:
            file.write(f"{content}\n".encode())

    def _table(self, name: str, columns: Mapping[str, Array]) -> None:
        with self._opened(name) as file, io.TextIOWrapper(file, encoding="utf-8", newline="") as text:
            writer = csv.writer(text)
            writer.writerow(columns)
            writer.writerows(zip(*(values.tolist() for values in columns.values()), strict=True))

    def _opened(self, name: str) -> IO[bytes]:
        self.say(f"writing {name}")
        return (self.folder / name).open("wb")


def _label_columns(labels: Array, data: DataSpecification) -> dict[str, Array]:
    """Lay out labels as columns: image, and the name of the class or a number for each column."""
    rows = {"image": np.arange(len(labels))}
    if data.task == "classification":
        return rows | {"label": labels, "class": np.array(data.classes)[labels]}
    return joined(rows, {name: labels[:, k] for k, name in enumerate(data.classes)})
