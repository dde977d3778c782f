"""How the images of a run were made from those of its source, so that new images can be made alike."""

from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
from pydantic import with_config

from cntk_pipeline.datasets import Standardization
from cntk_pipeline.errors import StoreError
from cntk_pipeline.models import STRICT
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.rundir.specification import is_as_sealed, sealed
from cntk_pipeline.storage.records import Record

FILE = "preprocessing.json"

LIMIT_BYTES = 2**28
"""Largest size of the record: a feature takes some 52 bytes where each is standardised by itself, so 5 million do."""


@dataclass(frozen=True)
class Preprocessing:
    """The steps from an image of the source to an image of the run.

    Attributes
    ----------
    pixels : {"uint8", "float"}
        The kind of numbers in the source: "uint8", or "float" for float16, float32 and float64.
    standardization : Standardization or None
        Its constants; None where images are taken as they are.
    """

    pixels: Literal["uint8", "float"]
    standardization: Standardization | None

    @classmethod
    def of(cls, images: np.ndarray, standardization: Standardization | None) -> "Preprocessing":
        """Describe the steps for the images of a source."""
        return cls("uint8" if images.dtype == np.uint8 else "float", standardization)

    def apply(self, images: np.ndarray, dtype: str) -> np.ndarray:
        """Make images of the run, in its dtype."""
        if self.standardization is None:
            return np.ascontiguousarray(images, dtype)
        return self.standardization.apply(images, dtype)

    def write(self, run: RunDirectory) -> None:
        """Write the record of a run; nothing happens where there is one."""
        if not run.has_record(FILE):
            run.write_record(FILE, sealed(asdict(self)), LIMIT_BYTES)


@with_config(STRICT)
@dataclass(frozen=True)
class _Constants:
    mean: tuple[float, ...]
    std: tuple[float, ...]


@with_config(STRICT)
@dataclass(frozen=True)
class _PreprocessingRecord:
    """The record preprocessing.json; the checksum is a digest of the other fields: a wrong constant would not show."""

    pixels: Literal["uint8", "float"]
    standardization: _Constants | None
    checksum: str


_REMEDY = "delete it, then the numbers are measured again on the data set of the workflow"
_RECORD: Record[_PreprocessingRecord] = Record(_PreprocessingRecord, _REMEDY, LIMIT_BYTES)


def find_preprocessing(run: RunDirectory) -> Preprocessing | None:
    """Read the record of a run; None where there is none, as in runs of earlier versions.

    Raises
    ------
    StoreError
        If it is damaged or was edited.
    """
    record = run.read_record(FILE, _RECORD)
    if record is None:
        return None
    if not is_as_sealed(asdict(record)):
        raise StoreError(f"{run.path / FILE} was edited: its numbers are not those of its checksum: {_REMEDY}")
    said = record.standardization
    return Preprocessing(record.pixels, None if said is None else Standardization(said.mean, said.std))
