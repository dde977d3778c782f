"""Specifications: everything that values depend on, named by a digest and compared for people."""

import hashlib
import json
import reprlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field, with_config
from typing_extensions import TypedDict

from cntk_pipeline.config import DEFAULT_ENGINE
from cntk_pipeline.errors import StoreError
from cntk_pipeline.models import STRICT, CentreChoice, Count, Json, Positive, TaskName
from cntk_pipeline.storage import StorePath
from cntk_pipeline.storage.records import Record
from cntk_pipeline.tiling import MOST_TILES, Cut, block_width, count_tiles


@with_config(STRICT)
@dataclass(frozen=True)
class DataSpecification:
    """The images of a run.

    Attributes
    ----------
    digest : str
        Sha256 of all chosen images and labels, before they are standardised.
    train, test : int
        Numbers of images.
    shape : tuple of int
        Of an image, ``(H, W, C)`` or ``(features,)``.
    classes : tuple of str
        Names of the classes, or of the targets of a regression: a column of the predictions each.
    standardize : bool or {"per_feature"}
        Whether the images are standardised by channel, or "per_feature".
    standardize_first : int, optional
        Number of training images for the mean and the deviation; None means all.
    shuffle : int, optional
        The seed of the order of the images; None keeps the order of the files.
    task : {"classification", "multilabel", "regression"}
        One class an image, several, or numbers; written down where it is no classification.
    has_test_labels : bool
        Whether the labels of the test images are known; written down where they are not.
    features : tuple of str
        Names of the features of vectors, where they are known: how a table was encoded.
    """

    digest: str
    train: Positive
    test: Count
    shape: tuple[Positive, ...]
    classes: tuple[str, ...]
    standardize: bool | Literal["per_feature"]
    standardize_first: Positive | None = None
    shuffle: Annotated[int, Field(ge=0, lt=2**32)] | None = None
    task: TaskName = "classification"
    has_test_labels: bool = True
    features: tuple[str, ...] = ()

    def to_json(self) -> Json:
        """Write the fields as plain values; a field of its default is left out, so that no fingerprint changes."""
        defaults = {field.name: field.default for field in fields(self)}
        said = {key: value for key, value in asdict(self).items() if key not in defaults or value != defaults[key]}
        return _plain(said)

    @property
    def column_axis(self) -> str:
        """The name of the axis of the predictions that has an item for each class or target."""
        return "target" if self.task == "regression" else "class"


@with_config(STRICT)
@dataclass(frozen=True)
class ReadoutSpecification:
    """One kernel of a run: a name for the store, "ntk" or "nngp", and a network as `layers.spelling` writes it."""

    name: str
    kind: Literal["ntk", "nngp"]
    network: list[Json]


@with_config(STRICT)
@dataclass(frozen=True)
class EngineRecord:
    """What computes the values of a run: an engine by name, and its own options, all of them."""

    name: str = DEFAULT_ENGINE
    options: Json = field(default_factory=dict)

    @property
    def code(self) -> str | None:
        """The function of a user's own that computes, as "module:function"; None where this package computes."""
        named = self.options.get("plugin")
        return None if named is None else str(named)

    def __str__(self) -> str:
        options = ", ".join(f"{key} = {json.dumps(value)}" for key, value in self.options.items())
        return f"{self.name} ({options})" if options else self.name


@with_config(STRICT)
@dataclass(frozen=True)
class CentreSpecification:
    """The centres of a run: the training images whose columns of the kernel are computed, and no others.

    They are the first of the stored training images, but where the kernel itself draws them.

    Attributes
    ----------
    count : int
        Of the centres; at most so many where the kernel chooses.
    choice : {"first", "random", "rpcholesky"}
        "first" takes the first training images of the source, "random" draws them and stores them first. "rpcholesky"
        draws them from the kernel, by randomly pivoted Cholesky: any of the stored training images.
    seed : int, optional
        Of the draw; None where nothing is drawn.
    tolerance : float, optional
        Relative trace error from which on no more are drawn; None where there is no such limit.
    """

    count: Positive
    choice: CentreChoice
    seed: Count | None = None
    tolerance: Annotated[float, Field(gt=0, lt=1)] | None = None

    @property
    def are_pivots(self) -> bool:
        """Whether the kernel itself draws the centres, so that they are known only once its columns are computed."""
        return self.choice == "rpcholesky"

    @property
    def widest_tile(self) -> int:
        """The largest useful edge of a tile: behind each column of tiles, pivots are drawn anew."""
        return block_width(self.count) if self.are_pivots else self.count


@with_config(STRICT)
@dataclass(frozen=True)
class Specification:
    """Everything that the values and the layout of a run's kernels depend on: the record in run.json.

    Attributes
    ----------
    data : DataSpecification
        The images.
    readouts : tuple of ReadoutSpecification
        The kernels of the pass.
    dtype : {"float32", "float64"}
        Of the computation and of the stored values.
    flips : bool
        Whether each value is averaged with the value for one image flipped.
    tile : int
        Samples along the edge of a tile.
    numerics_version : int
        Of the engine; values of two versions differ in their last bits.
    engine : EngineRecord
        What computes the values; written down where it is another than "cpu".
    centres : CentreSpecification, optional
        The columns of the kernel, where they are not all training images.
    """

    data: DataSpecification
    readouts: tuple[ReadoutSpecification, ...]
    dtype: Literal["float32", "float64"]
    flips: bool
    tile: Positive
    numerics_version: int
    engine: EngineRecord = EngineRecord()
    centres: CentreSpecification | None = None

    def __post_init__(self) -> None:
        centres = None if self.centres is None else self.centres.count
        if count_tiles(self.data.train, self.data.test, self.tile, centres) > MOST_TILES:
            raise ValueError(f"tiles of {self.tile} cut these images into more than {MOST_TILES} tiles")
        if not self.readouts or not self.data.classes:
            raise ValueError("it names no read-out, or no class")
        if self.centres is not None and self.centres.count > self.data.train:
            raise ValueError(f"it has {self.centres.count} centres among {self.data.train} training images")

    def to_json(self) -> Json:
        """Write a specification as plain values; a field that is not given is left out, as in runs of all versions."""
        plain = _plain(asdict(self)) | {"data": self.data.to_json()}
        if self.engine == EngineRecord():  # as before there were others, so that no fingerprint changes
            del plain["engine"]
        if self.centres is None:
            del plain["centres"]
        elif self.centres.tolerance is None:  # as before there was one
            del plain["centres"]["tolerance"]
        return plain

    @property
    def fingerprint(self) -> str:
        """The digest of the specification, 64 hexadecimal digits."""
        return fingerprint(self.to_json())

    @property
    def train_cut(self) -> Cut:
        """How the training images are cut into tiles."""
        return Cut(self.data.train, self.tile)

    @property
    def column_cut(self) -> Cut:
        """How the columns of the kernel are cut into tiles: the training images, or the centres among them."""
        return self.train_cut if self.centres is None else Cut(self.centres.count, self.tile)

    @property
    def has_pivots(self) -> bool:
        """Whether the kernel itself draws the training images of its columns; see `CentreSpecification`."""
        return self.centres is not None and self.centres.are_pivots

    @property
    def column_axis(self) -> str:
        """The name of the axis of the kernel's columns: "train", "centre", or "pivot" where the kernel chooses."""
        if self.centres is None:
            return "train"
        return "pivot" if self.centres.are_pivots else "centre"

    @property
    def test_cut(self) -> Cut:
        """How the test images are cut into tiles."""
        return Cut(self.data.test, self.tile)


@with_config(STRICT)
class _SolveRecord(TypedDict):
    """A solve.json: of a system, of a choice among ridges (``candidates``), or of a training (``times``)."""

    kernel: str
    readout: str
    ridge: float
    ridge_mode: Literal["relative", "absolute"]
    tile: Positive
    targets: str
    absolute_ridge: float
    mean_diagonal: NotRequired[float]
    max_iterations: NotRequired[Positive]
    kernel_bytes: NotRequired[Count]
    method: NotRequired[Json]
    unit_diagonal: NotRequired[bool]
    candidates: NotRequired[list[float]]
    choose_by: NotRequired[Literal["evidence"]]
    network: NotRequired[str]
    nngp: NotRequired[str]
    times: NotRequired[list[str]]
    covariance: NotRequired[bool]


def _plain(value: Any) -> Any:
    """Turn tuples into lists, as JSON has them."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


BESIDE_THE_RESULT = ("max_iterations", "kernel_bytes")
"""Options that no result depends on: a solve.json holds them beside the specification, and a resume may change them."""

CAME_OUT = ("absolute_ridge", "mean_diagonal", *BESIDE_THE_RESULT)
"""Parts of a solve's record that do not enter its name."""

AGAIN = "delete it, then `cntk resume` writes it anew"

_SOLVE: Record[Json] = Record(_SolveRecord, AGAIN)


def find_solve(path: StorePath) -> Json | None:
    """Read the solve.json of a system, a choice among ridges or a training; None where there is none.

    The folder's name is a digest of the record, so that no other record is taken for it.

    Raises
    ------
    StoreError
        If it is damaged, or disagrees with the name of its folder.
    """
    record = _SOLVE.find(path)
    if record is None:
        return None
    said = {key: value for key, value in record.items() if key not in CAME_OUT}
    if "candidates" in record and record["ridge"] == 0:
        said["ridge"] = "auto"
    unit = record.get("mean_diagonal", 0.0) if record["ridge_mode"] == "relative" else 1.0
    if fingerprint(said)[:16] != path.parent.name or record["absolute_ridge"] != record["ridge"] * unit:
        raise StoreError(f"{path} was edited: it is not of the system that its folder is named by: {AGAIN}")
    return record


def fingerprint(specification: Json) -> str:
    """Digest a specification: sha256 of its canonical JSON."""
    text = json.dumps(specification, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def sealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record with its "checksum", a digest of its other fields by which an edit shows."""
    fields = {key: value for key, value in record.items() if key != "checksum"}
    return fields | {"checksum": fingerprint(fields)}


def is_as_sealed(record: Mapping[str, Any]) -> bool:
    """Tell whether the fields of a record are those of its checksum."""
    return bool(sealed(record)["checksum"] == record["checksum"])


def differences(stored: Any, wanted: Any, where: str = "") -> list[str]:
    """List where two specifications differ, a line each; parts with names are matched by them."""
    stored, wanted = _by_name(stored), _by_name(wanted)
    if isinstance(stored, dict) and isinstance(wanted, dict):
        lines = []
        for key in [*stored, *(key for key in wanted if key not in stored)]:
            place = f"{where}.{key}" if where else str(key)
            if key not in wanted:
                lines.append(f"  {place}: only stored")
            elif key not in stored:
                lines.append(f"  {place}: only wanted")
            else:
                lines += differences(stored[key], wanted[key], place)
        return lines
    if isinstance(stored, list) and isinstance(wanted, list) and len(stored) == len(wanted):
        return [
            line
            for k, pair in enumerate(zip(stored, wanted, strict=True))
            for line in differences(*pair, f"{where}[{k}]")
        ]
    return [] if stored == wanted else [f"  {where}: stored {reprlib.repr(stored)}, wanted {reprlib.repr(wanted)}"]


def changed_code(stored: EngineRecord, wanted: EngineRecord) -> list[str]:
    """Say that the source of a run's plugin has changed, with both digests and what to do; else say nothing."""
    its, mine = (record.options.get("plugin_digest") for record in (stored, wanted))
    if stored.code is None or stored.code != wanted.code or its == mine:
        return []
    return [
        f"The source of the plugin {stored.code} has changed since the run was begun: sha256\n  {its} then,\n  {mine} "
        "now. Bring back the source of then to go on with the run."
    ]


def _by_name(value: Any) -> Any:
    """Turn a list of records with names into a dictionary; leave anything else alone."""
    named = isinstance(value, list) and value and all(isinstance(item, dict) and "name" in item for item in value)
    return {item["name"]: item for item in value} if named else value
