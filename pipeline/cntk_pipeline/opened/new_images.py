"""New images for a run: checked against its own, named by a digest, and standardised by the same numbers."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from cntk_pipeline.datasets.images import WantedPictures
from cntk_pipeline.datasets.reading import optional_import
from cntk_pipeline.datasets.unlabelled import Like, Unlabelled
from cntk_pipeline.datasets.unlabelled_tables import columns_of, features_of
from cntk_pipeline.errors import DataError
from cntk_pipeline.graphs import is_graph
from cntk_pipeline.inputs import as_array, short_repr
from cntk_pipeline.layers import LAYERS, spelling
from cntk_pipeline.layers.absent import takes_gaps
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.rundir.preprocessing import Preprocessing
from cntk_pipeline.sequences import find_broken, has_absent_pixels, remedy_of
from cntk_pipeline.storage.tiled_array import Array
from cntk_pipeline.workflow.load import read_preprocessing

BLOCK_BYTES = 2**26
"""Largest size of images that are read at once, in float64."""


@dataclass(frozen=True)
class NewImages:
    """Images that are like those of a run; it has the interface of an array, and is read some rows at a time.

    Attributes
    ----------
    given : Unlabelled
        The images, as the source of the run had them.
    steps : Preprocessing
        The steps from there to the images of the run.
    shape : tuple of int
        ``(n, H, W, C)`` or ``(n, features)``.
    dtype : dtype
        Of the images of the run.
    gaps : bool
        Whether the run takes images with absent pixels.
    """

    given: Unlabelled
    steps: Preprocessing
    shape: tuple[int, ...]
    dtype: np.dtype
    gaps: bool

    @classmethod
    def of(cls, run: RunDirectory, given: Unlabelled) -> "NewImages":
        """Compare images with those of a run.

        Raises
        ------
        DataError
            If their shape or their kind of numbers is another.
        StoreError
            If the run does not hold how its images were standardised, and its data set is not at hand.
        """
        steps = read_preprocessing(run)
        _require_alike(run, steps, given)
        shape = (given.shape[0], *run.specification.data.shape)
        gaps = all(takes_gaps(spelling.read(each.network, LAYERS)) for each in run.specification.readouts)
        return cls(given, steps, shape, np.dtype(run.specification.dtype), gaps)

    @classmethod
    def in_memory(cls, run: RunDirectory, images: object) -> "NewImages":
        """Compare images in memory, or a table with a feature in each column, with those of a run.

        Raises
        ------
        DataError, StoreError
            As in `of`; or if a table has named columns, and a feature of the run is none of them.
        ConfigError
            If a table has named columns, and PyArrow is not installed.
        """
        array = _as_features(run, images)
        if not array.ndim:
            raise DataError(
                f"images: expected an array, got {short_repr(images)}; read it first, as by numpy.load, or give the "
                "file to the command cntk predict"
            )
        return cls.of(run, Unlabelled.of(array, "images", like_of(run)))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> Array:
        """Read some images, standardised; errors as in `raw`."""
        start, stop, _ = rows.indices(len(self))
        return self.steps.apply(self.raw(start, stop), self.dtype.name)

    def raw(self, start: int, stop: int) -> Array:
        """Read some images as they were given.

        Raises
        ------
        DataError
            If a pixel is not finite.
        """
        images = self.given.read(start, stop).reshape(-1, *self.shape[1:])
        broken = find_broken(self.given.origin, images, start)
        if not self.gaps and self.shape[1:2] != (1,) and has_absent_pixels(images):
            broken |= np.isnan(images)
        bad = np.argwhere(broken)
        if len(bad):
            row, *pixel = map(int, bad[0])
            name = self.given.names[start + row]
            raise DataError(
                f"{self.given.origin}: expected finite pixels, got {images[row, *pixel]} in image {name} at index "
                f"{tuple(pixel)}; {remedy_of(images[row])}"
            )
        return images

    def spans(self, step: int = 1) -> Iterator[tuple[int, int]]:
        """Cut the images into blocks of a bounded size, each a multiple of ``step`` images."""
        return spans(len(self), step, self.shape[1:], BLOCK_BYTES)

    def digest(self) -> str:
        """Name the images by 16 hexadecimal digits, of their pixels as they were given."""
        found = hashlib.sha256(str((self.shape, self.given.dtype.str)).encode())
        for start, stop in self.spans():
            found.update(np.ascontiguousarray(self.raw(start, stop)).tobytes())
        return found.hexdigest()[:16]


def like_of(run: RunDirectory) -> Like:
    """Tell how the source of a run was read, by its workflow: size and mode of pictures, order of axes, features."""
    options = run.workflow().data.options
    resize = options.get("resize")
    return Like(
        WantedPictures(None if resize is None else tuple(resize), options.get("mode")),
        options.get("layout", "channels_last"),
        run.specification.data.features,
    )


def spans(count: int, step: int, shape: tuple[int, ...], most_bytes: int) -> Iterator[tuple[int, int]]:
    """Cut rows into blocks of at most so many bytes in float64, each a multiple of ``step`` rows but for the last."""
    rows = step * max(1, most_bytes // (8 * int(np.prod(shape)) * step))
    return ((start, min(start + rows, count)) for start in range(0, count, rows))


def _as_features(run: RunDirectory, images: object) -> Array:
    """Make an array of images; named columns of a table are found by their names, as `cntk predict` finds them."""
    features, names = run.specification.data.features, _column_names(images)
    if not features or names is None:
        return as_array("images", images)
    columns = columns_of(features, names, "images")
    try:
        # Further columns may hold anything, which PyArrow need not know.
        chosen: Any = images if hasattr(images, "column_names") else images[columns]  # type: ignore[index]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"images: expected a table whose columns are taken as images[[{columns[0]!r}, ...]], got a "
            f"{type(images).__name__} ({error}); give an array of the features {', '.join(features)}"
        ) from error
    if chosen is not images and columns == list(features):  # all are numbers: PyArrow need not be installed
        values = np.asarray(chosen)
        if values.dtype.kind in "biuf" and values.shape[1:] == (len(features),):
            return as_array("images", values.astype(np.float64))
    with optional_import("images with named columns"):
        import pyarrow
    try:
        table = pyarrow.table(chosen)
    except (pyarrow.ArrowException, TypeError, ValueError) as error:
        raise DataError(
            f"images: expected a table that PyArrow reads, to find the features of {run.path} by their names, got a "
            f"{type(images).__name__} ({error}); give an array of the features {', '.join(features)}"
        ) from error
    return features_of(table, features, "images")


def _column_names(images: object) -> tuple[str, ...] | None:
    """Return the names of the columns of a table; None of what has none, such as an array in a table of pandas."""
    names = getattr(images, "column_names", getattr(images, "columns", None))
    if names is None or not all(isinstance(name, str) for name in names):
        return None
    return tuple(names)


def _require_alike(run: RunDirectory, steps: Preprocessing, given: Unlabelled) -> None:
    found, shape = given.shape, run.specification.data.shape
    expected = f"expected images of shape (n, {', '.join(map(str, shape))}), as those of {run.path}"
    if found == shape:
        raise DataError(f"{given.origin}: {expected}, got one image of shape {found}; give images[None]")
    is_grayscale = len(found) == len(shape) and shape[-1] == 1
    if is_graph(shape) and is_graph(found[1:]) and found[1:] != shape:
        wanted = f"expected graphs of {shape[3]} features a node in {shape[2]} rows, as those of {run.path}"
        remedy = "features must be numbered as those of the run"
        if found[-1] == shape[-1]:
            remedy = (
                f"pack them by cntk_pipeline.graphs.pack with rows={shape[2]}; larger graphs have no place in this run"
            )
        raise DataError(f"{given.origin}: {wanted}, got {found[4]} in {found[3]}: {remedy}")
    if (*found, 1)[1:] != shape if is_grayscale else found[1:] != shape:
        raise DataError(f"{given.origin}: {expected}, got {found}; resize or reshape them")
    if not found[0]:
        raise DataError(f"{given.origin}: {expected}, got none; give at least one")
    dtype = given.dtype
    is_alike = dtype == np.uint8 if steps.pixels == "uint8" else dtype.kind == "f" and dtype.itemsize <= 8
    if not is_alike:
        wanted = "uint8" if steps.pixels == "uint8" else "float16, float32 or float64"
        raise DataError(
            f"{given.origin}: expected {wanted} pixels on the scale of the source of {run.path}, got {dtype}; convert "
            "them to that scale, as the run standardises them by the numbers of its own images"
        )
