"""The run directory: the only file that knows the disk layout.

::

    RUN/
      run.json              specification, fingerprint, provenance; created once, never rewritten
      workflow.json         the last resolved workflow, for `cntk resume`, and who wrote it
      growth.json           only of a grown run: the older one, and which blocks of images are the same in both
      arrays/               only where a Python program gave arrays as the data set: an archive of them
      preprocessing.json    the mean and the deviation of the images of the source
      inputs.zarr/          train_images, train_labels, test_images, test_labels; or targets, with their mean
      journal/              receipts of finished tiles, a segment a driver
      log/                  events, a line an event, a file a process; docs/observability.md
      timing.json           the use of the slots, stage by stage
      kernel.zarr/NAME/     a group a read-out: train, test, train_variance, test_variance
      test_kernel.zarr/NAME test against test, where a posterior covariance was asked for
      pivots.zarr/          where the kernel draws the centres: pivots, factor, trace_error, residual_diagonal
      solve/FINGERPRINT/    solve.json, factor.zarr, metrics.json: one ridge of one read-out
        work.zarr/          while conjugate gradients run: the last two iterations, which iterations.json counts
        ridge_path.json     instead of a solve: the choice among ridges
        inference/          NAME.zarr, NAME.json: the results of [inference]
      predictions/          new images and their predictions; `rundir.predictions`
      quarantine/           chunks that disagreed with their receipts

One chunk is one tile, and a chunk without its receipt is never trusted unread.
"""

import errno
import json
import os
import re
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from pydantic import ConfigDict, with_config

from cntk_pipeline.config import RunConfig, parse_config
from cntk_pipeline.errors import ConfigError, CorruptTile, RunNotFound, SpecificationMismatch, StoreError
from cntk_pipeline.models import STRICT, Json
from cntk_pipeline.rundir.journal import Journal
from cntk_pipeline.rundir.lease import RUN_RECORD, replaced
from cntk_pipeline.rundir.specification import Specification, changed_code, differences, find_solve, fingerprint
from cntk_pipeline.rundir.stored_data import InputName, StoredData
from cntk_pipeline.storage import LocalPath, StorePath, open_path
from cntk_pipeline.storage.records import RECORD_BYTES, Record, json_bytes, write_json
from cntk_pipeline.storage.tiled_array import GROUP_RECORD, REWRITTEN, Array, InputArray, TiledArray, is_made
from cntk_pipeline.tiling import Cut

FORMAT_VERSION = 2

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""Valid names of read-outs and products: they become names in the store."""

FINGERPRINT = re.compile(r"[0-9a-f]{16}")
"""Name of the folder of a solve, or of the predictions of some images."""

ARRAYS = "arrays"
"""The folder of arrays that a Python program gave as the data set; it is there before the run begins."""

_ARCHIVE = re.compile(r"[0-9a-f]{16}\.npz")
"""Name of an archive of such arrays."""

_FOLDERS = (
    *("inputs.zarr", "kernel.zarr", "test_kernel.zarr", "pivots.zarr", "solve", "predictions"),
    *("journal", "lease", "log", "quarantine", "submissions"),
)
"""Folders that a driver writes into, and deletes from; none may be a link that leads out of the run."""

_LEFT_OVER = (RUN_RECORD, "lease", "log", "lost+found", ARRAYS)
"""Names that a folder may hold where a run begins: left by a run that was taken back, or made by file systems."""

SIGNATURE = "signature"
"""The key of a record that holds its writer's signature; no table of a workflow has this name."""

_T = TypeVar("_T")


@with_config(ConfigDict(strict=True))
@dataclass(frozen=True)
class Provenance:
    """Where a run was created, for people; see `rundir.provenance`."""

    created: str = "at an unknown time"
    host: str = "an unknown host"
    cores: int | None = None
    machine: str = ""
    versions: dict[str, str] = field(default_factory=dict)


@with_config(ConfigDict(strict=True))
@dataclass(frozen=True)
class _Format:
    format_version: int


@with_config(ConfigDict(strict=True))
@dataclass(frozen=True)
class _Specified:
    specification: Specification


@with_config(STRICT)
@dataclass(frozen=True)
class _RunRecord:
    format_version: int
    fingerprint: str
    specification: Json
    provenance: Provenance


@with_config(ConfigDict(strict=True))
@dataclass(frozen=True)
class _Group:
    """The zarr.json of a group."""

    attributes: Json


_RESTORE = "restore it from a copy; it is never overwritten"
_FORMAT: Record[_Format] = Record(_Format, _RESTORE)
_SPECIFIED: Record[_Specified] = Record(_Specified, _RESTORE)
_RUN: Record[_RunRecord] = Record(_RunRecord, _RESTORE)
_GROUP: Record[_Group] = Record(_Group, REWRITTEN)
_MEND_WORKFLOW = "delete it, then `cntk run` with the workflow file writes it anew"
_WORKFLOW: Record[Json] = Record(Json, _MEND_WORKFLOW)


class RunDirectory:
    """One run in a store.

    Parameters
    ----------
    path : str, Path, or StorePath
        Of an existing run; use `create` for a new one.

    Raises
    ------
    RunNotFound
        If there is no run at the path.
    StoreError
        If its format is newer than this version knows, or run.json is damaged.
    """

    def __init__(self, path: str | Path | StorePath) -> None:
        self.path = open_path(path)
        for name in _FOLDERS:
            self._require_within(self.path / name)
        run_json = self.path / RUN_RECORD
        if not holds_run(self.path):
            if (self.path / "inputs.zarr").exists():
                raise RunNotFound(
                    f"{self.path} has lost its run.json, which says what it is of: restore it from a copy"
                )
            if run_json.exists():
                raise RunNotFound(
                    f"{self.path} stopped before it began, its run.json is empty: start it again with `cntk run`"
                )
            raise RunNotFound(f"{self.path} holds no run (no run.json): give the directory that `cntk run` printed")
        content = run_json.read_bytes(RECORD_BYTES)
        version = _FORMAT.parse(content, run_json).format_version
        if version != FORMAT_VERSION:
            raise StoreError(
                f"{run_json} has format version {version}, this cntk knows {FORMAT_VERSION}: "
                "use the version that wrote it, or another --store"
            )
        record = _RUN.parse(content, run_json)
        if record.fingerprint != fingerprint(record.specification):
            raise StoreError(f"{run_json} was edited: its specification does not match its fingerprint; restore it")
        self.specification = _SPECIFIED.parse(content, run_json).specification
        self.fingerprint: str = record.fingerprint
        self.provenance = record.provenance
        self._require_names()
        self.journal = Journal(self.path / "journal")
        self._arrays: dict[StorePath, TiledArray] = {}
        self._kernels: dict[tuple[str, str], TiledArray] = {}
        self._pivots: Array | None = None
        self._is_new = False

    @classmethod
    def create(cls, path: str | Path | StorePath, specification: Specification, provenance: Json) -> "RunDirectory":
        """Create a run, or open the existing one if it has the same specification.

        Raises
        ------
        SpecificationMismatch
            If the existing run has another specification. The message lists the differences.
        ConfigError
            If the folder is in use for something else, or lies inside another run.
        """
        path, is_new = open_path(path), False
        if not holds_run(path):
            record = {
                "format_version": FORMAT_VERSION,
                "fingerprint": specification.fingerprint,
                "specification": specification.to_json(),
                "provenance": provenance,
            }
            content = json.dumps(record, indent=2).encode()
            if len(content) > RECORD_BYTES:
                data = specification.data
                raise ConfigError(
                    f"{path}: run.json would have {len(content):,} bytes, of at most {RECORD_BYTES:,}: it holds the "
                    f"names of {len(data.features):,} features and {len(data.classes):,} classes or targets; shorten "
                    "them, or give the data without names, as an .npz file"
                )
            try:
                _require_free(path)
                is_new = (path / RUN_RECORD).create_whole(content)
            except StoreError:
                raise
            except OSError as error:
                reason = error.strerror or error
                raise StoreError(error.errno, f"cannot create the run directory {path}: {reason}") from error
        run = cls(path)
        if run.fingerprint != specification.fingerprint:
            raise SpecificationMismatch(
                f"{path} belongs to another specification; its tiles are never mixed with these.\n"
                + "\n".join(differences(run.specification.to_json(), specification.to_json()))
                + "".join(f"\n{line}" for line in changed_code(run.specification.engine, specification.engine))
                + "\nGive another --store, or the workflow that made it."
            )
        run._is_new = is_new
        return run

    def require_same(self) -> None:
        """Refuse to write where another run lies by now: somebody deleted this one while a process computed for it.

        Raises
        ------
        SpecificationMismatch
            If run.json is another one, or gone.
        """
        record = self.root / RUN_RECORD
        if self.fingerprint.encode() not in (record.read_bytes(RECORD_BYTES) if record.exists() else b""):
            raise replaced(self.root)

    def retract(self) -> None:
        """Delete a run that `create` has begun, so that another run can take its place; an older run is not touched.

        Its images are deleted too: images of one run must never meet the specification of another. A run stays that
        another command has handed over meanwhile.
        """
        holds_work = any(
            (self.path / name).exists()
            for name in ("kernel.zarr", "test_kernel.zarr", "solve", "journal", "submissions")
        )
        if self._is_new and not holds_work:
            (self.inputs_path / GROUP_RECORD).unlink(missing_ok=True)  # first: without it the rest counts for nothing
            self.inputs_path.remove_tree()
            for name in ("growth.json", "preprocessing.json", "workflow.json", RUN_RECORD):
                (self.path / name).unlink(missing_ok=True)

    @property
    def root(self) -> StorePath:
        """The folder that holds run.json."""
        return self.path

    @property
    def train_cut(self) -> Cut:
        """How the training images are cut into kernel tiles."""
        return self.specification.train_cut

    @property
    def column_cut(self) -> Cut:
        """How the columns of the kernel are cut into tiles: the training images, or the centres among them.

        Where the kernel draws the centres, it is of all columns that there may be until they are drawn.
        """
        specification = self.specification
        if specification.has_pivots and self.has_all_pivots:
            return Cut(len(self._read_pivots()[0]), specification.tile)
        return specification.column_cut

    @property
    def test_cut(self) -> Cut:
        """How the test images are cut into kernel tiles."""
        return self.specification.test_cut

    # Paths and arrays.

    @property
    def lease_path(self) -> StorePath:
        """The folder of the lease of the driver at work."""
        return self.path / "lease"

    @property
    def kernel_path(self) -> StorePath:
        """The zarr group of the kernel matrices, a group a read-out."""
        return self.path / "kernel.zarr"

    @property
    def test_kernel_path(self) -> StorePath:
        """The zarr group of K(test, test), which only a posterior covariance needs; an array a read-out."""
        return self.path / "test_kernel.zarr"

    def kernel(self, readout: str, part: str) -> TiledArray:
        """Open a kernel array: part "train", "test", "test_test", "train_variance" or "test_variance"."""
        found = self._kernels.get((readout, part))
        if found is None:  # a resume asks for each tile, and making a path takes longer than a look at its chunk
            folder = self.test_kernel_path / readout if part == "test_test" else self.kernel_path / readout / part
            found = self._kernels[readout, part] = self._array(folder)
        return found

    # The centres that the kernel itself draws.

    @property
    def pivots_path(self) -> StorePath:
        """The zarr group of the centres that the kernel draws."""
        return self.root / "pivots.zarr"

    def pivoting(self, part: str) -> TiledArray:
        """Open an array of the draw: "pivots", "factor", "trace_error" or "residual_diagonal"."""
        return self._array(self.pivots_path / part)

    def pivots_of(self, block: int) -> Array | None:
        """Read the training images of a column of tiles, ``(w,)``; None where they are not drawn yet, or damaged.

        Behind the last column of tiles, which may be short, none are drawn: ``(0,)``.
        """
        try:
            found = self.pivoting("pivots").read(block)
        except (CorruptTile, StoreError):
            return None
        return found[found >= 0] if found.max(initial=-1) < self.specification.data.train else None

    @property
    def has_all_pivots(self) -> bool:
        """Whether no more centres will be drawn by the kernel."""
        return self._read_pivots()[1]

    @property
    def column_rows(self) -> Array | None:
        """The training images of the kernel's columns, as far as they are drawn; None where they are the first ones."""
        return self._read_pivots()[0] if self.specification.has_pivots else None

    def column_images(self, columns: tuple[int, int]) -> Array:
        """Read the images of some columns of the kernel, from the first to one before the last."""
        images, rows = self.inputs("train_images"), self.column_rows
        if rows is None:
            return images[slice(*columns)]
        return np.concatenate([images[row : row + 1] for row in rows[slice(*columns)].tolist()])

    def _read_pivots(self) -> tuple[Array, bool]:
        """Read all pivots that are drawn, and tell whether these are all."""
        if self._pivots is not None:
            return self._pivots, True
        blocks: list[Array] = [np.zeros(0, np.int64)]
        while (found := self.pivots_of(len(blocks) - 1)) is not None:
            blocks.append(found)
            if not len(found):
                self._pivots = np.concatenate(blocks)
                return self._pivots, True
        return np.concatenate(blocks), False

    def solve_path(self, solve: str) -> StorePath:
        """The directory of one system, by its fingerprint."""
        if not FINGERPRINT.fullmatch(solve):
            raise ConfigError(f"a solve is named by 16 hexadecimal digits, got {solve!r}")
        return self.path / "solve" / solve

    def solved(self, solve: str, part: str) -> TiledArray:
        """Open an array of a solve: "factor", "partial", "forward", "coefficients", "mean" or "residual"."""
        return self._array(self.solve_path(solve) / "factor.zarr" / part)

    def inferred_path(self, solve: str, product: str) -> StorePath:
        """The zarr group of a result of inference for a solve, by its product's name; NAME.json lies beside it."""
        if not _NAME.fullmatch(product):
            raise StoreError(f"{product!r} is no name of a result of inference")
        return self.solve_path(solve) / "inference" / f"{product}.zarr"

    def inferred(self, solve: str, product: str, part: str) -> TiledArray:
        """Open an array of a result of inference for a solve."""
        return self._array(self.inferred_path(solve, product) / part)

    def inferred_attributes(self, solve: str, product: str) -> Json:
        """Read the attributes of a product's group: its parameters."""
        return _GROUP.read(self.inferred_path(solve, product) / GROUP_RECORD).attributes

    def solve_record(self, solve: str) -> Json | None:
        """Read the solve.json of a system that was begun; None where there is none."""
        return find_solve(self.solve_path(solve) / "solve.json")

    def solves(self) -> dict[str, Json]:
        """Read the solve.json of each system that was begun, by its fingerprint."""
        names = [folder.name for folder in (self.path / "solve").children() if FINGERPRINT.fullmatch(folder.name)]
        records = {name: self.solve_record(name) for name in names}
        return {name: record for name, record in records.items() if record is not None}

    def has_solved(self, solve: str, part: str) -> bool:
        """Tell whether a solve was begun and stores an array: by conjugate gradients alone, there is no factor."""
        return is_made(self.solve_path(solve) / "factor.zarr" / part)

    def scratch_path(self, solve: str) -> StorePath:
        """The zarr group of arrays that a solve needs only until it is finished."""
        return self.solve_path(solve) / "work.zarr"

    def scratch(self, solve: str, part: str) -> TiledArray:
        """Open an array of a solve that is deleted once it is finished."""
        return self._array(self.scratch_path(solve) / part)

    def forget_arrays(self) -> None:
        """Forget the shapes of the arrays that were opened: their descriptions were written anew."""
        self._arrays.clear()
        self._kernels.clear()

    def _array(self, path: StorePath) -> TiledArray:
        if path not in self._arrays:
            self._require_within(path / "c")
            self._arrays[path] = TiledArray(path)
        return self._arrays[path]

    def _require_within(self, path: StorePath) -> None:
        """Refuse links that lead out: by them its author could make other users write and delete elsewhere."""
        if path.leads_out_of(self.path):
            raise StoreError(f"{path} is or lies behind a link that leads out of the run directory: put it there")

    def _require_names(self) -> None:
        """Refuse a specification whose names would lead elsewhere: they become names in the store."""
        for readout in self.specification.readouts:
            if not _NAME.fullmatch(readout.name):
                raise StoreError(
                    f"{self.path}/run.json names a read-out {readout.name!r}, which is no name: restore it"
                )

    # Inputs and small records.

    @property
    def inputs_path(self) -> StorePath:
        """The zarr group of the data set."""
        return self.path / "inputs.zarr"

    @property
    def stored_data(self) -> StoredData:
        """The data set."""
        return StoredData(self.inputs_path, self.specification.data, self.specification.dtype)

    def has_inputs(self) -> bool:
        """Tell whether the data set is stored."""
        return self.stored_data.is_made()

    def inputs(self, name: InputName) -> InputArray:
        """Open an array of the data set; `StoreError` where it is damaged, or not of the specification."""
        return self.stored_data.array(name)

    def labels(self, part: Literal["train", "test"], rows: slice = slice(None)) -> Array | None:
        """Read class numbers, (n,), or targets, (n, targets), of some rows; None where they are not known."""
        found = self.stored_data.labels(part)
        return None if found is None else found[rows]

    def write_record(self, relative: str, record: Json, limit: int = RECORD_BYTES) -> None:
        """Replace a small JSON file, of at most so many bytes.

        Raises
        ------
        StoreError
            If it has more bytes, or the run is gone: the file would begin a new one there.
        SpecificationMismatch
            If another run lies there by now.
        """
        self._require_writable(relative)
        write_json(self.path / relative, record, limit)

    def create_record(self, relative: str, record: Json) -> bool:
        """Create a small JSON file; of several calls at once, only the one that created it returns True.

        Errors are those of `write_record`.
        """
        self._require_writable(relative)
        return (self.path / relative).create_whole(json_bytes(self.path / relative, record))

    def _require_writable(self, relative: str) -> None:
        if not (self.root / RUN_RECORD).is_file():
            raise StoreError(errno.ENOENT, f"the run directory {self.root} is gone: bring it back, then resume")
        self.require_same()
        self._require_within((self.path / relative).parent)

    def has_record(self, relative: str) -> bool:
        """Tell whether there is a small JSON file, without a look into it."""
        return (self.path / relative).exists()

    def read_record(self, relative: str, kind: Record[_T]) -> _T | None:
        """Read a small JSON file; None where there is none, `StoreError` where it is damaged."""
        return kind.find(self.path / relative)

    def workflow(self) -> RunConfig:
        """Read the workflow that this directory was last run with.

        Raises
        ------
        RunNotFound
            If a driver stopped before it wrote one.
        """
        record = self.read_record("workflow.json", _WORKFLOW)
        if record is None:
            raise RunNotFound(f"{self.path} stopped before it began: start it again with `cntk run`")
        table = {name: value for name, value in record.items() if name != SIGNATURE}
        return self._with_arrays(parse_config(table, str(self.path / "workflow.json"), _MEND_WORKFLOW))

    def _with_arrays(self, config: RunConfig) -> RunConfig:
        """Find an archive of arrays in the run directory again, where that was moved since."""
        before = Path(config.data.path or "")
        if before.parent.name != ARRAYS or _ARCHIVE.fullmatch(before.name) is None:  # as a run without a file
            return config
        here = self.root / ARRAYS / before.name
        if not isinstance(here, LocalPath) or os.path.exists(before) or not here.is_file():
            return config
        data = config.data.model_copy(update={"path": str(here.absolute())})
        return config.model_copy(update={"data": data})

    def has_workflow(self) -> bool:
        """Tell whether a driver has written a workflow."""
        return (self.path / "workflow.json").is_file()

    def workflow_signature(self) -> object:
        """Read the workflow's signature, unchecked: any value, or None; `clusters.trust` checks it."""
        return (self.read_record("workflow.json", _WORKFLOW) or {}).get(SIGNATURE)

    def write_workflow(self, config: RunConfig, signature: str) -> None:
        """Write the workflow that this directory is run with from now on, and the signature of its writer."""
        self.write_record(
            "workflow.json", config.model_dump(mode="json") | ({SIGNATURE: signature} if signature else {})
        )

    def set_aside(self, paths: Iterable[StorePath]) -> list[StorePath]:
        """Move files to quarantine, together; return the files that existed."""
        folder = self.path / "quarantine" / uuid.uuid4().hex[:8]
        existing = [path for path in paths if path.exists()]
        for path in existing:
            path.move_to(folder / str(path).removeprefix(f"{self.path}/"))
        return existing

    def sweep(self) -> int:
        """Delete files and folders that killed writers left half-written; return their number."""
        arrays = self.path / ARRAYS  # may be a link to another disk, where nothing is deleted
        return self.path.sweep((*_FOLDERS, *(() if arrays.leads_out_of(self.path) else (ARRAYS,))))


def holds_run(path: StorePath) -> bool:
    """Tell whether a folder holds a run. An empty run.json was left by a driver that was killed before it filled it."""
    record = path / RUN_RECORD
    size = record.size()
    return record.exists() if size is None else size > 0  # what is no file is named when it is read


def _require_free(path: StorePath) -> None:
    """Refuse to begin a run among foreign files, or inside another run: a driver deletes files that lie in its way.

    Raises
    ------
    ConfigError
        If the folder is in use. The message names the files in it.
    """
    others = [child.name for child in path.children() if child.name not in _LEFT_OVER]
    if "inputs.zarr" in others:
        raise ConfigError(
            f"{path} holds what is left of a run whose run.json is gone: restore that from a copy, or delete the folder"
        )
    if others:
        more = f" and {len(others) - 1:,} more" if len(others) > 1 else ""
        raise ConfigError(
            f"{path} is in use: it holds {others[0]}{more}, and no run. Give --store a new or an empty folder"
        )
    # Not by its text: ``..`` and links lead elsewhere.
    place = (LocalPath(os.path.realpath(path)) if isinstance(path, LocalPath) else path).parent
    while place != place.parent:
        if _is_run(place):
            raise ConfigError(f"{path} lies inside the run {place}: give --store a place beside it")
        place = place.parent


def _is_run(path: StorePath) -> bool:
    """Tell whether a folder holds a run; False also where it may not be read."""
    try:
        _RUN.read(path / RUN_RECORD)
    except OSError:  # which StoreError is
        return False
    return True
