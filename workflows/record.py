"""Accuracies of a run as a small table, so that results of hours can be kept where the run itself has gigabytes.

    python workflows/record.py runs/cifar10-v --cut 1017 --out workflows/results/cifar10-v.csv

A row is the accuracy of one read-out and ridge on one set of images: all test images, those before and behind a cut,
the training images left out one by one, and the test images again for each size of the learning curve. The column
"columns" counts the training images that a prediction reads the kernel of: all of them, or the centres.

A file that is there keeps the rows of read-outs that the run does not have: of another run of the same workflow.
"""

import argparse
import csv
import sys
from collections.abc import Iterator
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from cntk_pipeline import open_run
from cntk_pipeline.errors import ConfigError, PipelineError
from cntk_pipeline.opened import OpenRun


@dataclass(frozen=True)
class Row:
    """An accuracy.

    Attributes
    ----------
    readout, ridge
        Of the system.
    images : str
        "test", "test before N", "test from N", or "left out".
    count : int
        How many images these are.
    training_images : int
        That the system was solved with.
    columns : int
        Training images that a prediction reads the kernel of: all of those, or the centres.
    accuracy : float
        Share of the images whose class is right.
    standard_error : float
        Of this share, by the binomial distribution.
    """

    readout: str
    ridge: float
    images: str
    count: int
    training_images: int
    columns: int
    accuracy: float
    standard_error: float


def read_rows(file: Path) -> list[Row]:
    """Read a table that was kept."""
    types: dict[str, Any] = {field.name: field.type for field in fields(Row)}
    with file.open(newline="") as lines:
        return [Row(**{name: kind(row[name]) for name, kind in types.items()}) for row in csv.DictReader(lines)]


def rows(run: OpenRun, cut: int | None = None) -> Iterator[Row]:
    """Read the accuracies of a complete run, the test images cut in two where asked."""
    if not run.is_complete:
        raise ConfigError(f"{run.path} is not complete, so that rows would be missing: cntk resume it first")
    train, test = run.labels
    if test is None or test.ndim > 1 or run.directory.specification.data.task == "regression":
        raise ConfigError(f"{run.path} has no accuracy: that takes test images with one class each")
    if cut is not None and not 0 < cut < len(test):
        raise ConfigError(f"--cut lies between 0 and the {len(test)} test images, got {cut}")
    has_centres = run.directory.specification.centres is not None
    for each in run.metrics:
        for images, count, columns, accuracy in _accuracies(run, each, test, cut):
            error = (accuracy * (1 - accuracy) / count) ** 0.5
            size = len(train) if has_centres else columns
            yield Row(each.readout, each.ridge, images, count, size, columns, float(accuracy), error)


def _accuracies(run: OpenRun, solve: Any, test: np.ndarray, cut: int | None) -> Iterator[tuple[str, int, int, float]]:
    """Name the images, count them and the columns of the kernel, and give the accuracy, of each row of a system."""
    train, columns = run.directory.train_cut.count, run.directory.column_cut.count
    right = run.predictions(solve.readout, solve.ridge).argmax(axis=1) == test
    yield "test", len(test), columns, right.mean()
    if cut is not None:
        yield f"test before {cut}", cut, columns, right[:cut].mean()
        yield f"test from {cut}", len(test) - cut, columns, right[cut:].mean()
    found = {each.product: each.record for each in solve.inferred}
    if "leave_one_out" in found:
        yield "left out", train, columns, found["leave_one_out"].accuracy
    if "learning_curve" in found:
        curve = found["learning_curve"]
        for size, accuracy in zip(curve.sizes, curve.accuracy, strict=True):
            if size < columns:  # all of them are the first row
                yield "test", len(test), size, accuracy


def main() -> None:
    """Write the table to a file, or to the terminal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a run directory")
    parser.add_argument("--cut", type=int, metavar="N", help="give the first N test images and the others rows as well")
    parser.add_argument("--out", type=Path, metavar="FILE", help="a CSV file; read-outs of other runs stay in it")
    given = parser.parse_args()
    try:
        found = list(rows(open_run(given.run), given.cut))
    except PipelineError as error:
        sys.exit(f"error: {error}")
    if given.out and given.out.exists():
        own = {row.readout for row in found}
        try:
            found += [row for row in read_rows(given.out) if row.readout not in own]
        except (KeyError, ValueError):
            sys.exit(f"error: {given.out} is not a table of record.py: give another file")
    with given.out.open("w", newline="") if given.out else sys.stdout as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(field.name for field in fields(Row))
        table.writerows(
            [f"{value:.6g}" if isinstance(value, float) else value for value in astuple(row)] for row in found
        )


if __name__ == "__main__":
    main()
