"""The contents of a data set as counts, so that a person can check that it is the intended one."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, final

import numpy as np
import numpy.typing as npt

from cntk_pipeline.datasets.base import Dataset

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
class Contents:
    """The selected images of a run.

    Attributes
    ----------
    train, test : images.
    shape : of an image, (H, W, C) or (features,).
    classes : in the order of their labels.
    """

    train: int
    test: int
    shape: tuple[int, ...]
    classes: tuple[ClassCount, ...]

    @classmethod
    def of(cls, data: Dataset) -> "Contents":
        """Count a data set."""
        test = np.empty(0, np.int64) if data.test is None else data.test.labels
        return cls.count(data.classes, data.train.images.shape[1:], data.train.labels, test)

    @classmethod
    def count(
        cls,
        classes: Sequence[str],
        shape: Sequence[int],
        train_labels: npt.NDArray[np.int64],
        test_labels: npt.NDArray[np.int64],
    ) -> "Contents":
        """Count labels, which are positions in ``classes``."""
        counts = (np.bincount(labels, minlength=len(classes)).tolist() for labels in (train_labels, test_labels))
        counted = tuple(ClassCount(*values) for values in zip(classes, *counts, strict=True))
        return cls(len(train_labels), len(test_labels), tuple(shape), counted)

    @property
    def lines(self) -> tuple[str, ...]:
        """The loaded data in words: the sizes, and the images of each class."""
        *size, last = self.shape
        what = (
            f"{' x '.join(map(str, size))} pixels in {last} channel{'' if last == 1 else 's'}"
            if size
            else f"{last} features"
        )
        return (
            f"{self.train} training and {self.test} test images of {what}, {len(self.classes)} classes",
            f"training images by class: {_spread([(each.name, each.train) for each in self.classes])}",
            f"test images by class: {_spread([(each.name, each.test) for each in self.classes])}",
        )

    def to_json(self) -> dict[str, Any]:
        """Return the counts as plain values, with the warnings."""
        return asdict(self) | {"warnings": self.warnings}

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings about the classes, one line each; none where there is one class only."""
        unused = [each.name for each in self.classes if not each.train and not each.test]
        untrained = [each for each in self.classes if not each.train and each.test]
        untested = [each.name for each in self.classes if each.train and not each.test]
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
        if len(trained) > 1 and trained[-1].train >= UNEVEN * trained[0].train:
            least, most = trained[0], trained[-1]
            lines.append(
                f"training images are spread unevenly: {most.train} of {most.name}, {least.train} of {least.name}; "
                f"who always answers {most.name} is right for {100 * most.test / max(self.test, 1):.2f}% of the test "
                "images"
            )
        return tuple(lines)


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
