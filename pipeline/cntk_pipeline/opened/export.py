"""Kernels, predictions and labels of a run as npz or csv files, for people without Zarr."""

import csv
import io
import json
import os
import shutil
import uuid
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np

from cntk_pipeline.errors import ConfigError, NotComputed, StoreError
from cntk_pipeline.gram.tiles import kernel_group, test_group
from cntk_pipeline.inference import needs_test_kernel
from cntk_pipeline.opened.systems import find_readout, readout_names
from cntk_pipeline.opened.tiles import Stored, next_step
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.solvers import METRICS, System, system_group
from cntk_pipeline.storage import open_path
from cntk_pipeline.storage.tiled_array import Array, TiledArray
from cntk_pipeline.workflow.wanted import find_wanted

TEXT_BYTES = 20
"""Bytes of a number in a csv file, about: nine digits of a float32 and seventeen of a float64 are written."""

Format = Literal["npz", "csv"]


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
    kernels : the matrices of each read-out, by its name.
    predictions : the predictive mean of each system.
    form : of the files.
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
    run : the run.
    readouts : names; none means all.
    form : of the files.
    kernels : whether the matrices are written too.

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


def require_folder(place: str, export: Export) -> Path:
    """Return the folder to write, which must be new or empty, on a disk with room.

    Raises
    ------
    ConfigError
        If it is a bucket, or something lies there.
    StoreError
        If the disk has too little room.
    """
    folder = Path(place)
    if "://" in place:
        raise ConfigError(f"--out {place}: expected a folder of this machine; write there, and copy it")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"--out {place}: there is something already; give a new or an empty folder")
    above = next(parent for parent in folder.absolute().parents if parent.exists())
    free = shutil.disk_usage(above).free
    if export.bytes > free:
        raise StoreError(
            f"--out {place}: {export.bytes:,} bytes are to be written and {free:,} are free there: give another disk, "
            "or fewer read-outs (--readout), or leave out the kernels (--no-kernels)"
        )
    return folder


def write_export(run: RunDirectory, export: Export, folder: Path, say: Callable[[str], None]) -> None:
    """Write a folder with all files; it appears whole or not at all.

    Parameters
    ----------
    run, export : of `plan_export`.
    folder : of `require_folder`.
    say : gets a line for each file.
    """
    aside = folder.with_name(f"{folder.name}.{uuid.uuid4().hex}.partial")
    aside.mkdir(parents=True)
    try:
        write = _Writer(aside, export.form, say)
        for name, matrices in export.kernels.items():
            write.arrays(f"kernel-{name}", matrices)
        labels = [np.asarray(run.inputs(f"{part}_labels")[:]) for part in ("train", "test")]  # type: ignore[arg-type]
        classes = run.specification.data.classes
        write.labels(labels[0], labels[1], classes)
        for system, matrix in export.predictions:
            name = f"predictions-{system.readout}-ridge{system.ridge:g}"
            if export.form == "npz":
                write.arrays(name, [matrix])
            else:
                write.predictions(name, matrix, labels[1], classes)
        write.text("metrics.json", json.dumps(_metrics(run, export), indent=2))
        if folder.exists():
            folder.rmdir()  # empty, as `require_folder` has seen; an error where it no longer is
        os.rename(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _metrics(run: RunDirectory, export: Export) -> list[dict[str, Any]]:
    found = []
    for system, _ in export.predictions:
        record = run.read_record(f"solve/{system.fingerprint}/metrics.json", METRICS)
        accuracy = None if record is None else record.accuracy
        said = {"readout": system.readout, "ridge": system.ridge, "ridge_mode": system.ridge_mode}
        found.append(said | {"accuracy": accuracy})
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

    def labels(self, train: Array, test: Array, classes: Sequence[str]) -> None:
        """Write the labels: positions in ``classes`` in an archive, names of classes in a csv file."""
        if self.form == "npz":
            with self._opened("labels.npz") as file:
                np.savez(file, train=train, test=test, classes=np.array(classes))
            return
        for part, labels in (("train", train), ("test", test)):
            rows = ((row, label, classes[label]) for row, label in enumerate(labels.tolist()))
            self._rows(f"labels-{part}.csv", ("image", "label", "class"), rows)

    def predictions(self, name: str, matrix: Matrix, labels: Array, classes: Sequence[str]) -> None:
        """Write predictions as a table: image, class, predicted class, scores."""
        scores = np.concatenate(list(matrix.blocks()))
        rows = (
            (row, classes[label], classes[int(mean.argmax())], *mean.tolist())
            for row, (label, mean) in enumerate(zip(labels.tolist(), scores, strict=True))
        )
        self._rows(f"{name}.csv", ("image", "class", "predicted", *(f"score_{each}" for each in classes)), rows)

    def text(self, name: str, content: str) -> None:
        """Write a text file."""
        with self._opened(name) as file:
            file.write(f"{content}\n".encode())

    def _rows(self, name: str, head: Sequence[str], rows: Iterator[Sequence[Any]]) -> None:
        with self._opened(name) as file, io.TextIOWrapper(file, encoding="utf-8", newline="") as text:
            writer = csv.writer(text)
            writer.writerow(head)
            writer.writerows(rows)

    def _opened(self, name: str) -> IO[bytes]:
        self.say(f"writing {name}")
        return (self.folder / name).open("wb")
