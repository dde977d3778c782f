"""The contents of a data set as counts, so that a person can check that it is the intended one."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, final

import numpy as np
import numpy.typing as npt

from cntk_pipeline.datasets.base import Dataset
from cntk_pipeline.graphs import is_graph
from cntk_pipeline.models import TaskName

SHOWN_CLASSES = 12
"""Largest number of classes that are listed one by one; of more, only the extremes are shown."""

UNEVEN = 10
"""Ratio of the largest class to the smallest one from which on a warning is given."""


@final
@dataclass(frozen=True)
class ClassCount:
    """A class, with its numbers of images in both parts."""

    name: str
    train: int
    test: int


@final
@dataclass(frozen=True)
class TargetRange:
    """A target of a regression, with its mean, its standard deviation and its extremes over the training images."""

    name: str
    mean: float
    deviation: float
    smallest: float
    largest: float


@final
@dataclass(frozen=True)
class Contents:
    """The selected images of a run.

    Attributes
    ----------
    train, test : int
        Numbers of images.
    shape : tuple of int
        Of an image, (H, W, C) or (features,).
    classes : tuple of ClassCount
        In the order of their labels; of several classes an image, each is counted.
    task : {"classification", "multilabel", "regression"}
        Of the data set.
    targets : tuple of TargetRange
        Of a regression, which has no classes.
    has_test_labels : bool
        Whether the labels of the test images are known.
    """

    train: int
    test: int
    shape: tuple[int, ...]
    classes: tuple[ClassCount, ...]
    task: TaskName = "classification"
    targets: tuple[TargetRange, ...] = ()
    has_test_labels: bool = True

    @classmethod
    def of(cls, data: Dataset) -> "Contents":
        """Count a data set."""
        test_count, test = (0, None) if data.test is None else (len(data.test), data.test.labels)
        shape = data.train.images.shape[1:]
        return cls.count(data.classes, shape, data.train.known_labels, test, data.task, test_count)

    @classmethod
    def count(
        cls,
        names: Sequence[str],
        shape: Sequence[int],
        train_labels: npt.NDArray[Any],
        test_labels: npt.NDArray[Any] | None,
        task: TaskName = "classification",
        test_count: int | None = None,
    ) -> "Contents":
        """Count labels as a `Split` has them; ``test_count`` images are tested on where their labels are not known."""
        test = (test_count or 0) if test_labels is None else len(test_labels)
        is_known = test_labels is not None or not test
        sizes = len(train_labels), test, tuple(shape)
        if task == "regression":
            rows = zip(names, train_labels.T, strict=True)
            targets = (TargetRange(name, *map(float, (x.mean(), x.std(), x.min(), x.max()))) for name, x in rows)
            return cls(*sizes, (), task, tuple(targets), is_known)

        def counted(labels: npt.NDArray[Any] | None) -> list[int]:
            if labels is None:
                return [0] * len(names)
            is_matrix = task == "multilabel"
            return labels.sum(axis=0).astype(int).tolist() if is_matrix else _occurrences(labels, len(names))

        classes = zip(names, counted(train_labels), counted(test_labels), strict=True)
        return cls(*sizes, tuple(ClassCount(*values) for values in classes), task, (), is_known)

    @property
    def columns(self) -> int:
        """The number of columns of the predictions: of the classes, or of the targets."""
        return len(self.targets if self.task == "regression" else self.classes)

    @property
    def lines(self) -> tuple[str, ...]:
        """The loaded data in words: the sizes, and the images of each class, or the range of each target."""
        *size, last = self.shape
        what = (
            f"{' x '.join(map(str, size))} pixels in {last} channel{'' if last == 1 else 's'}"
            if size
            else f"{last} features"
        )
        if is_graph(self.shape):
            what = f"{last} feature{'' if last == 1 else 's'} a node"
        samples = "graphs" if is_graph(self.shape) else "images"
        sizes = f"{self.train} training and {self.test} test {samples} of {what}, {self._labels_text}"
        lines = [sizes if self.has_test_labels else f"{sizes}; the test images have no labels"]
        if self.task == "regression":
            shown = self.targets[:SHOWN_CLASSES]
            lines += [
                f"{each.name}: {each.smallest:g} to {each.largest:g} in training, mean {each.mean:.4g}, standard "
                f"deviation {each.deviation:.4g}"
                for each in shown
            ]
            return tuple(lines)
        lines.append(f"training images by class: {_spread([(each.name, each.train) for each in self.classes])}")
        if self.has_test_labels:
            lines.append(f"test images by class: {_spread([(each.name, each.test) for each in self.classes])}")
        return tuple(lines)

    @property
    def _labels_text(self) -> str:
        if self.task == "regression":
            names = _names([each.name for each in self.targets])
            return f"{len(self.targets)} target{'' if len(self.targets) == 1 else 's'} of a regression ({names})"
        return f"{len(self.classes)} classes" + (", several an image" if self.task == "multilabel" else "")

    def to_json(self) -> dict[str, Any]:
        """Return the counts as plain values, with the warnings."""
        return asdict(self) | {"warnings": self.warnings}

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings about the classes, one line each; none where there is one class only."""
        unused = [each.name for each in self.classes if not each.train and not each.test]
        untrained = [each for each in self.classes if not each.train and each.test]
        untested = [each.name for each in self.classes if each.train and not each.test and self.has_test_labels]
        lines = []
        if unused:
            lines.append(
                f"{len(unused)} of {len(self.classes)} classes have no images at all: {_names(unused)}; number the "
                "labels without gaps, or leave it at that: their targets are never met"
            )
        if untrained:
            lost = sum(each.test for each in untrained)
            lines.append(
                f"{len(untrained)} of {len(self.classes)} classes have no training images: "
                f"{_names([each.name for each in untrained])}; all {lost} test images of them will count as wrong. "
                "Where the rows are sorted by class, data.shuffle = 0 mixes them"
            )
        if untested:
            lines.append(
                f"{len(untested)} of {len(self.classes)} classes have no test images: {_names(untested)}; the accuracy "
                "says nothing about them"
            )
        trained = sorted((each for each in self.classes if each.train), key=lambda each: each.train)
        is_uneven = len(trained) > 1 and trained[-1].train >= UNEVEN * trained[0].train
        if is_uneven and self.task == "classification" and self.has_test_labels:
            least, most = trained[0], trained[-1]
            lines.append(
                f"training images are spread unevenly: {most.train} of {most.name}, {least.train} of {least.name}; "
                f"who always answers {most.name} is right for {100 * most.test / max(self.test, 1):.2f}% of the test "
                "images"
            )
        return tuple(lines)


def _occurrences(labels: npt.NDArray[np.int64], count: int) -> list[int]:
    """Count the images of each class."""
    return [int(number) for number in np.bincount(labels, minlength=count)]


def _spread(counts: Sequence[tuple[str, int]]) -> str:
    """Write the counts of classes: one number if all are equal, the extremes if there are many classes."""
    numbers = [count for _, count in counts]
    if min(numbers) == max(numbers):
        return f"{numbers[0]} each"
    if len(counts) <= SHOWN_CLASSES:
        return ", ".join(f"{name}: {count}" for name, count in counts)
    ordered = sorted(counts, key=lambda item: item[1])
    least, most = ordered[0], ordered[-1]
    return f"from {least[1]} ({least[0]}) to {most[1]} ({most[0]}), half of the classes up to {int(np.median(numbers))}"


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN_CLASSES} more" if len(names) > SHOWN_CLASSES else ""
    return ", ".join(names[:SHOWN_CLASSES]) + more
