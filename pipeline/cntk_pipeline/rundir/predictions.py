"""Predictions for new images in a run directory, and the view of a run in which they are the test images.

::

    RUN/predictions/
      DIGEST/               some new images, by a digest of their pixels
        images.json         their number and origin
        inputs.zarr/        test_images, standardised like those of the run
        READOUT/            one read-out
          journal/ log/ timing.json
          kernel.zarr/      K(new, train) and K(x, x) of the new images
          solve/FINGERPRINT/  the predictive mean with one ridge, and the variance where it was asked for

The tasks of a run read its test part: the view shows them the new images there. So predictions are computed by the same
code, with the same bits, and nothing of the run itself changes.
"""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from pydantic import with_config

from cntk_pipeline.config import RunConfig
from cntk_pipeline.errors import StoreError
from cntk_pipeline.models import STRICT, Json, Positive
from cntk_pipeline.rundir.directory import FINGERPRINT, RunDirectory
from cntk_pipeline.rundir.journal import Journal
from cntk_pipeline.rundir.stored_data import InputName, StoredData
from cntk_pipeline.storage import StorePath, open_path
from cntk_pipeline.storage.records import Record, write_json
from cntk_pipeline.storage.tiled_array import Array, InputArray, TiledArray

FOLDER, FILE = "predictions", "images.json"

_FOLDERS = ("kernel.zarr", "solve", "journal", "log")
"""Folders of a read-out that a driver writes into."""


@with_config(STRICT)
@dataclass(frozen=True)
class ImagesRecord:
    """Some new images: the record images.json.

    Attributes
    ----------
    count : int
        Of the images.
    origin : str
        The file or folder that they came from, for people.
    """

    count: Positive
    origin: str


_IMAGES: Record[ImagesRecord] = Record(ImagesRecord, "delete its folder, then `cntk predict` computes it again")


class PredictionDirectory(RunDirectory):
    """A run in which other images are the test part, with one read-out.

    The kernel of the training images, the factors and the coefficients are those of the run. K(new, train), the
    predictions and the variances lie in a folder of their own.

    Parameters
    ----------
    path : str, Path, or StorePath
        ``RUN/predictions/DIGEST/READOUT``.

    Raises
    ------
    StoreError
        If the record of the images is damaged, or the run has no such read-out.
    """

    def __init__(self, path: str | Path | StorePath) -> None:
        place = open_path(path)
        self.run = RunDirectory(place.parent.parent.parent)
        super().__init__(self.run.path)
        for folder in (place, place.parent / "inputs.zarr", *(place / name for name in _FOLDERS)):
            self._require_within(folder)
        self.path = place
        self.images = _IMAGES.read(place.parent / FILE)
        chosen = tuple(readout for readout in self.specification.readouts if readout.name == place.name)
        if not chosen:
            raise StoreError(f"{place} is named by no read-out of the run: delete that folder")
        data = replace(self.specification.data, test=self.images.count)
        self.specification = replace(self.specification, data=data, readouts=chosen)
        self.journal = Journal(place / "journal")

    @classmethod
    def begin(cls, run: RunDirectory, digest: str, readout: str, images: ImagesRecord) -> "PredictionDirectory":
        """Begin the predictions of a read-out for some images, or open those that are there."""
        folder = run.path / FOLDER / digest
        if not (folder / FILE).is_file():
            write_json(folder / FILE, asdict(images))
        return cls(folder / readout)

    @property
    def root(self) -> StorePath:
        return self.run.path

    @property
    def readout(self) -> str:
        """The name of the read-out."""
        return self.specification.readouts[0].name

    @property
    def lease_path(self) -> StorePath:
        return self.run.lease_path

    # Of the run, but for what depends on the test images.

    def kernel(self, readout: str, part: str) -> TiledArray:
        return self.run.kernel(readout, part) if part.startswith("train") else super().kernel(readout, part)

    def solved(self, solve: str, part: str) -> TiledArray:
        return super().solved(solve, part) if part == "mean" else self.run.solved(solve, part)

    def pivoting(self, part: str) -> TiledArray:
        return self.run.pivoting(part)

    def has_solved(self, solve: str, part: str) -> bool:
        return self.run.has_solved(solve, part)

    def solve_record(self, solve: str) -> Json | None:
        return self.run.solve_record(solve)

    @property
    def stored_data(self) -> StoredData:
        """The new images."""
        path, data = self.path.parent / "inputs.zarr", self.specification.data
        return StoredData(path, data, self.specification.dtype, ("test_images",), self.images.origin)

    def inputs(self, name: InputName) -> InputArray:
        return super().inputs(name) if name == "test_images" else self.run.inputs(name)

    def labels(self, part: Literal["train", "test"], rows: slice = slice(None)) -> Array | None:
        return self.run.labels(part, rows) if part == "train" else None

    def workflow(self) -> RunConfig:
        return self.run.workflow()

    def set_aside(self, paths: Iterable[StorePath]) -> list[StorePath]:
        return self.run.set_aside(paths)

    def solves_begun(self) -> list[str]:
        """List the systems of which predictions were begun, by their fingerprints."""
        return [folder.name for folder in (self.path / "solve").children() if FINGERPRINT.fullmatch(folder.name)]


def open_directory(path: str | Path | StorePath) -> RunDirectory:
    """Open a run, or the view of one with new images, by the path that tasks are given."""
    place = open_path(path)
    folder = place.parent
    is_view = folder.parent.name == FOLDER and (folder / FILE).is_file()
    return PredictionDirectory(place) if is_view else RunDirectory(place)


def find_predictions(run: RunDirectory) -> Iterator[PredictionDirectory]:
    """Open all predictions of a run, in the order of their names; folders of other names are passed over."""
    names = {readout.name for readout in run.specification.readouts}
    for folder in (run.path / FOLDER).children():
        if FINGERPRINT.fullmatch(folder.name) and (folder / FILE).is_file():
            for place in folder.children():
                if place.name in names:
                    yield PredictionDirectory(place)
