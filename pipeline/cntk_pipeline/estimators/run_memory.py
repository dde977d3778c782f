"""A run directory as a memory: kernel values of its training and test images, which are read only."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np

from cntk_pipeline import kernels
from cntk_pipeline.errors import CorruptTile, SpecificationMismatch
from cntk_pipeline.estimators.kept import Found, Kept, digests
from cntk_pipeline.estimators.question import KernelQuestion
from cntk_pipeline.gram.engines import require_numerics
from cntk_pipeline.kernels.program import Array
from cntk_pipeline.layers.spelling import spell
from cntk_pipeline.rundir.directory import RunDirectory, holds_run
from cntk_pipeline.storage import open_path
from cntk_pipeline.tiling import Cut

ROWS = 1024
"""Images that are read at once."""


class RunMemory(Kept):
    """Kernel values of a run, for samples that are its images as it stores them: standardised.

    Parameters
    ----------
    path : str or Path
        Of the run directory, which may be unfinished; tiles that are missing are computed in memory, not kept.
    question : KernelQuestion
        What is asked.
    input_shape : tuple of int
        Of one sample.

    Raises
    ------
    SpecificationMismatch
        If the run has images of another shape or values of another dtype, or averages over flips where the question
        does not, with both; if its engine computes no exact kernels, or another version of it has computed the run.
    RunNotFound, StoreError
        As of `RunDirectory`.
    """

    def __init__(self, path: str | Path, question: KernelQuestion, input_shape: tuple[int, ...]) -> None:
        self._run, self._network = RunDirectory(path), spell(question.network)
        specification = self._run.specification
        asked = (input_shape, question.dtype, question.flips)
        flips = specification.flips and len(specification.data.shape) > 1  # of vectors they changed nothing
        stored = (specification.data.shape, specification.dtype, flips)
        if asked != stored:
            raise SpecificationMismatch(
                f"the run in {path} cannot serve as memory: it holds kernels of samples of shape {stored[0]} in "
                f"{stored[1]}, flips={stored[2]}, and asked for are {asked[0]}, {asked[1]}, flips={asked[2]}. Give "
                "these values to the estimator, or a folder as memory"
            )
        self._places = _read_places(str(self._run.path.absolute()), self._run.fingerprint)

    @staticmethod
    def is_run(path: str | Path) -> bool:
        """Tell whether a path is that of a run directory."""
        return holds_run(open_path(path))

    def load(self, kind: str, samples: Sequence[bytes]) -> Found:
        """Find the kept values of the samples; only tiles with some of them are read."""
        found = Found.nothing(len(samples), self._run.specification.dtype)
        names = [
            each.name
            for each in self._run.specification.readouts
            if each.kind == kind and each.network == self._network
        ]
        if names:
            self._read(names[0], "train", samples, found)
            self._read(names[0], "test", samples, found)
        return found

    def _read(self, readout: str, part: Literal["train", "test"], samples: Sequence[bytes], found: Found) -> None:
        array = self._run.kernel(readout, part)
        columns, rows = self._asked("train", samples, self._run.column_cut), self._run.column_rows
        if rows is not None:
            columns = self._asked_pivots(samples, rows)
        for row, (mine, inside) in self._asked(part, samples, array.cut(0)).items():
            for column, (others, within) in columns.items():
                if part == "train" and rows is None and column > row:
                    continue
                try:
                    tile = array.read(row, column)
                except CorruptTile:  # not computed yet, or damaged
                    continue
                found.put(mine, others, tile[np.ix_(inside, within)])

    def _asked_pivots(self, samples: Sequence[bytes], rows: Array) -> dict[int, tuple[Array, Array]]:
        """Return what `_asked` does by pieces of the columns, where these are of training images that lie apart."""
        size, columns = self._run.specification.tile, {row: column for column, row in enumerate(rows.tolist())}
        places = np.array([columns.get(self._places["train"].get(sample, -1), -1) for sample in samples])
        asked = np.flatnonzero(places >= 0)
        piece = places[asked] // size
        return {int(p): (asked[piece == p], places[asked[piece == p]] % size) for p in np.unique(piece)}

    def _asked(self, part: str, samples: Sequence[bytes], cut: Cut) -> dict[int, tuple[Array, Array]]:
        """Return by pieces of the images which samples are asked for, and where they are in the piece."""
        rows = np.array([self._places[part].get(sample, -1) for sample in samples])
        asked = np.flatnonzero((rows >= 0) & (rows < cut.count))  # images behind the centres are no columns
        piece = rows[asked] // cut.size
        return {int(p): (asked[piece == p], rows[asked[piece == p]] % cut.size) for p in np.unique(piece)}


def _require_exact(run: RunDirectory) -> None:
    """Refuse a run whose values are not those that estimators compute for pairs that it lacks."""
    try:
        require_numerics(run)
    except SpecificationMismatch as error:
        raise SpecificationMismatch(f"no memory of estimators: {error}. Or give a folder as memory") from None
    name = run.specification.engine.name
    if not kernels.find_engine(name).is_exact:
        raise SpecificationMismatch(
            f"the run in {run.path} cannot serve as memory: estimators expect exact kernels, and its engine {name!r} "
            "computes others. Give a folder as memory, or a run of another engine"
        )


@lru_cache(maxsize=1)
def _read_places(path: str, fingerprint: str) -> dict[str, dict[bytes, int]]:
    """Find the place of each image of a run by its digest, for both parts; a search asks for it at every fit.

    The fingerprint, which contains the digest of the data set, tells a run from a later one at the same path.
    """
    run = RunDirectory(path)
    _require_exact(run)
    found: dict[str, dict[bytes, int]] = {"train": {}, "test": {}}
    for part, places in found.items():
        images = run.inputs("train_images" if part == "train" else "test_images")
        for start in range(0, getattr(run.specification.data, part), ROWS):
            for place, digest in enumerate(digests(images[start : start + ROWS], run.specification.dtype)):
                places.setdefault(digest, start + place)
    return found
