"""Data sets, and the checks that each of them has passed.

A `Dataset` is always valid for a kernel, since its constructor raises otherwise. So code with a `Dataset` need not
check it again.
"""

from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import dataclass
from typing import Any, ClassVar, final, get_args

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict

from cntk_pipeline.datasets.labels import check_numbers, read_labels, why_no_labels, why_outside
from cntk_pipeline.errors import ConfigError, DataError
from cntk_pipeline.graphs import is_graph, unpack
from cntk_pipeline.inputs import as_array, require_plain, require_squares
from cntk_pipeline.models import STRICT, AskedTask, TaskName
from cntk_pipeline.sequences import find_broken, remedy_of

# Rows looked at together: a mask of all of CIFAR-10 would take 184 MB, one of 1,024 images 3 MB.
ROWS_PER_BLOCK = 1024


@final
@dataclass(frozen=True, eq=False)
class Split:
    """One part of a data set, training or test.

    Parameters
    ----------
    images : array, (n, H, W, C) or (n, features)
        Channels last; or graphs, as `graphs.pack` makes them. Of uint8, float16, float32 or float64. Absent steps of
        sequences, (n, 1, T, C), hold NaN, and so do absent pixels in all channels.
    labels : int64 array, (n,), or float64 array, (n, targets), or None
        In a classification, positions in the data set's `classes`; otherwise a column for each of them. None where they
        are not known, which a test part may leave open.
    """

    images: npt.NDArray[Any]
    labels: npt.NDArray[Any] | None

    @property
    def known_labels(self) -> npt.NDArray[Any]:
        """The labels of a part that has them, as each training part has."""
        assert self.labels is not None
        return self.labels

    def __len__(self) -> int:
        """Count the images."""
        return len(self.images)


@final
@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled images, checked on construction.

    Parameters
    ----------
    name : str
        The origin of the data; every message starts with it.
    classes : tuple of str
        Names of the classes, or of the targets of a regression.
    train : Split
        Training part, images of shape (n, H, W, C) or (n, features).
    test : Split, optional
        Test part, images of the same size; None where the source has none.
    notes : tuple of str
        Remarks on the reading of the data; a run shows them as warnings.
    task : {"classification", "multilabel", "regression"}
        One class an image, a truth value for each class (0 or 1), or a number for each target.
    features : tuple of str
        Names of the features of vectors; empty where they are not known.

    Raises
    ------
    DataError
        Pixels that are not finite or not numbers, but for absent pixels, and absent steps behind the end of a sequence,
        a rank other than 2 and 4, an empty part, two parts of unequal image size, labels that do not fit the task, the
        images or the classes, a training part without labels, targets whose squares are beyond float64, or two classes
        of one name.
    ConfigError
        If there is no such task.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    test: Split | None = None
    notes: tuple[str, ...] = ()
    task: TaskName = "classification"
    features: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse data that a kernel cannot be computed from."""
        require_task(self.task, get_args(TaskName), self.name)
        _check_names(self.classes, self.name)
        _check_text((*self.classes, *self.features), self.name)
        if self.train.labels is None:
            raise DataError(f"{self.name}: expected labels of the training images, got none; add them")
        for part, split in (("train", self.train), ("test", self.test)):
            if split is not None:
                where = f"{self.name}: {part}"
                _check_images(split.images, where)
                _check_labels(split, self.task, len(self.classes), where)
                _check_finite(split.images, where)
        if self.task == "regression":
            _check_squares(self.train, self.test, self.name)
        if self.test is not None:
            _check_alike(self.train.images, self.test.images, self.name)


@dataclass(frozen=True)
class Loader(ABC):
    """A source of a data set; the fields are its keys in ``[data]`` of a workflow file.

    Parameters
    ----------
    path : str, optional
        File or folder to read.
    task : str
        What the labels are: "classification", "multilabel" (a column of 0 and 1 for each class), "regression", or
        "auto" to go by their type.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    PLACES: ClassVar[tuple[str, ...]] = ("path",)
    """The keys that are files or folders."""

    path: str | None = None
    task: AskedTask = "auto"

    @abstractmethod
    def load(self) -> Dataset:
        """Read the data set from its files."""

    def require_classes(self, source: str) -> None:
        """Refuse another task than a classification, for a source that has classes.

        Raises
        ------
        ConfigError
            With the name of the source.
        """
        if self.task not in ("auto", "classification"):
            raise ConfigError(
                f'data source {source!r}: expected data.task = "auto" or "classification", since its images have '
                f"classes, got {self.task!r}; leave data.task out"
            )


def as_split(images: npt.ArrayLike, labels: npt.ArrayLike | None) -> Split:
    """Bring arrays into the shapes of a `Split`, without judging their values.

    Parameters
    ----------
    images : array_like, (n, H, W, C), (n, H, W) or (n, features)
        Grayscale images of rank 3 get a channel axis of length 1.
    labels : array_like, (n,) or (n, 1), or None
        Integers of any width become int64 of shape (n,); anything else stays, for `Dataset` to refuse.

    Raises
    ------
    DataError
        If either array is masked.
    """
    images = as_array("images", images)
    if images.ndim == 3:
        images = images[..., np.newaxis]
    return Split(images, None if labels is None else read_labels(labels))


def require_task(task: str, known: tuple[str, ...], name: str) -> None:
    """Refuse an unknown task, with those that are ``known``.

    Raises
    ------
    ConfigError
        The task is unknown; the message begins with ``name``, the name of the data set.
    """
    if task not in known:
        raise ConfigError(f"{name}: expected a task among {', '.join(map(repr, known))}, got {task!r}")


def _check_names(names: tuple[str, ...], name: str) -> None:
    """Raise `DataError` where two classes, or two targets, have one name."""
    again = next((each for each, count in Counter(names).items() if count > 1), None)
    if again is not None:
        raise DataError(
            f"{name}: expected different names of the classes, or of the targets, got {again!r} twice; rename one"
        )


def _check_text(names: tuple[str, ...], name: str) -> None:
    """Raise `DataError` where the name of a class, a target or a feature is no text: no record could hold it.

    Python reads the name of a folder that is no UTF-8, as old archives have them, with half characters in it.
    """
    for each in names:
        try:
            each.encode()
        except UnicodeEncodeError:
            raise DataError(
                f"{ascii(name)[1:-1]}: expected names of classes and features in UTF-8, got {each!r}; rename the "
                "folder, or the class"
            ) from None


def _check_images(images: npt.NDArray[Any], where: str) -> None:
    """Raise `DataError` unless the images of one part have a usable type and shape."""
    require_plain(f"{where} images", images)
    if not (images.dtype == np.uint8 or (images.dtype.kind == "f" and images.dtype.itemsize <= 8)):
        raise DataError(
            f"{where} images: expected uint8, float16, float32 or float64 pixels, got {images.dtype}; "
            "convert them, for example with images.astype('float32')"
        )
    if images.ndim not in (2, 4) and not is_graph(images.shape[1:]):
        raise DataError(
            f"{where} images: expected shape (n, H, W, C), (n, H, W) for grayscale or (n, features), "
            f"got {images.shape}; reshape them"
        )
    if images.size == 0:
        raise DataError(f"{where} images: expected at least one image with one pixel, got shape {images.shape}")


def _check_labels(split: Split, task: TaskName, column_count: int, where: str) -> None:
    """Raise `DataError` unless the labels of one part fit the task and the images."""
    labels = split.labels
    if labels is None:
        return
    require_plain(f"{where} labels", labels)
    if task == "classification" and (labels.dtype != np.int64 or labels.ndim != 1):
        raise DataError(
            f"{where} labels: expected integers of shape (n,), got {labels.dtype} of shape {labels.shape}; "
            f"{why_no_labels(labels)}"
        )
    if task != "classification" and (labels.dtype != np.float64 or labels.shape[1:] != (column_count,)):
        raise DataError(
            f"{where} labels: expected float64 of shape (n, {column_count}) for a {task}, got {labels.dtype} of shape "
            f"{labels.shape}; convert them, and give a name for each column"
        )
    if len(labels) != len(split.images):
        raise DataError(
            f"{where} labels: expected {len(split.images)}, one for each image, got {len(labels)}; "
            "check that images and labels come from the same file"
        )
    if task == "classification":
        _check_labels_below(labels, column_count, where)
    else:
        check_numbers(labels, task, where)


def _check_squares(train: Split, test: Split | None, name: str) -> None:
    """Raise `DataError` where the squared errors of numbers would leave float64."""
    with np.errstate(over="ignore"):
        mean = train.known_labels.mean(axis=0)
        require_squares(f"{name}: train labels", train.known_labels, mean)
        if test is not None and test.labels is not None:
            for centre in (test.labels.mean(axis=0), mean):
                require_squares(f"{name}: test labels", test.labels, centre)


def _check_labels_below(labels: npt.NDArray[np.int64], class_count: int, where: str) -> None:
    """Raise `DataError` naming the first label outside of 0 .. class_count - 1."""
    outside = (labels < 0) | (labels >= class_count)
    if outside.any():
        row = int(outside.argmax())
        raise DataError(
            f"{where} labels: expected 0 to {class_count - 1} for {class_count} classes, got {labels[row]} "
            f"at image {row}; {why_outside(labels)}"
        )


def _check_finite(images: npt.NDArray[Any], where: str) -> None:
    """Raise `DataError` naming the first pixel that is NaN or infinite."""
    if is_graph(images.shape[1:]):
        for start in range(0, len(images), ROWS_PER_BLOCK):
            _require_graphs(images[start : start + ROWS_PER_BLOCK], start, where)
        return
    if images.dtype.kind != "f":
        return
    for start in range(0, len(images), ROWS_PER_BLOCK):
        block = images[start : start + ROWS_PER_BLOCK]
        broken = find_broken(where, block, start)
        if broken.any():
            row, *pixel = (int(k) for k in np.unravel_index(broken.argmax(), broken.shape))
            axes = "(row, column, channel)" if images.ndim == 4 else "(feature)"
            raise DataError(
                f"{where} images: expected finite pixels, got {block[row, *pixel]} in image {start + row} "
                f"at {axes} = ({', '.join(map(str, pixel))}); {remedy_of(block[row])}"
            )


def _require_graphs(packed: npt.NDArray[Any], first: int, where: str) -> None:
    """Raise `DataError` naming the first row that is no graph."""
    try:
        unpack(packed, first)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None


def _check_alike(train: npt.NDArray[Any], test: npt.NDArray[Any], name: str) -> None:
    """Raise `DataError` where the two parts cannot share a kernel or a pixel scale."""
    if train.shape[1:] != test.shape[1:]:
        raise DataError(
            f"{name}: expected test images of the training images' size {train.shape[1:]}, got {test.shape[1:]}; "
            "resize one of the two"
        )
    if train.dtype.kind != test.dtype.kind:
        raise DataError(
            f"{name}: expected train and test pixels on one scale, got {train.dtype} and {test.dtype}; "
            "give both as uint8 or both as floats"
        )
