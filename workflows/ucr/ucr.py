"""Time series of the UCR archive (Dau et al. 2019, arXiv:1810.07758): recurrent kernels beside 1-NN-DTW.

    python workflows/ucr/ucr.py FOLDER GunPoint ECG200 --out workflows/ucr/ucr.csv

FOLDER holds the archive's own files, NAME_TRAIN and NAME_TEST, .tsv or .ts, also in folders below; series may be of
unequal lengths, and of several channels. Options are chosen by leave-one-out on the training part alone, and scored
once on the test part.
"""

import argparse
import csv
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numba
import numpy as np

from cntk_pipeline.estimators import KernelClassifier
from cntk_pipeline.kernels import kernel_diagonal, kernel_matrices
from cntk_pipeline.layers import Dense, Flatten, GlobalAvgPool, LastState, Layer, Padded, Recurrent, Relu, Sequential
from cntk_pipeline.sequences import lengths, pad

READOUTS: dict[str, Layer] = {
    "last state": LastState(),
    "equal times": Flatten(),
    "all times": GlobalAvgPool(),
}
W_STDS, U_STDS, B_STDS = (1.0, 2**0.5), (0.25, 0.5, 1.0), (0.001, 0.1)
"""Of the recurrent layer, around those that Alemohammad et al. 2021 take."""

RIDGES = tuple(10.0**exponent for exponent in range(-6, 1))
"""Absolute, of kernels whose diagonal is 1."""


@dataclass(frozen=True)
class Series:
    """A data set: standardised series ``(n, steps, channels)``, NaN behind the ends of shorter ones, and classes."""

    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


def read_series(folder: Path, name: str) -> Series:
    """Read the two parts of a data set of the archive."""
    parts: list[tuple[list[np.ndarray], list[int]]] = []
    for part in ("TRAIN", "TEST"):
        found = [path for ending in (".tsv", ".ts") for path in sorted(folder.rglob(f"{name}_{part}{ending}"))]
        if not found:
            raise SystemExit(
                f"{folder}: expected {name}_{part}.tsv or .ts, got no such file; see workflows/ucr/README.md"
            )
        series, labels = map(list, zip(*_rows(found[0]), strict=True))
        if not all(np.isfinite(each).all() for each in series):
            raise SystemExit(f"{found[0]}: expected series without gaps, got missing values; leave {name} out")
        parts.append((series, labels))
    every = np.concatenate(parts[0][0])
    steps = max(len(each) for series, _ in parts for each in series)
    arrays = []
    for series, labels in parts:
        # Series of one channel each by itself, as is usual in the archive; channels by the whole training part.
        scaled = [_standardized(each, each if each.shape[1] == 1 else every) for each in series]
        arrays += [pad(scaled, steps), np.array(labels)]
    return Series(name, *arrays)


def _standardized(series: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """Bring channels to mean 0 and deviation 1, both of ``measured``, ``(steps, channels)``."""
    mean, deviation = measured.mean(0), measured.std(0)
    return (series - mean) / np.where(deviation > 0, deviation, 1)


def _rows(file: Path) -> Iterator[tuple[np.ndarray, int]]:
    """Read a series ``(steps, channels)`` and its class from each line.

    Files .ts have a head, channels one behind the other, and classes at the ends of lines; files .tsv have NaN behind
    the ends of shorter series.
    """
    for line in file.read_text().splitlines():
        if file.suffix == ".tsv":
            label, *texts = line.split("\t")
            values = np.array([[float(text)] for text in texts])
            present = np.flatnonzero(~np.isnan(values))
            yield values[: present[-1] + 1 if len(present) else 0], int(float(label))
        elif line and line[0] not in "#@":
            *channels, label = line.split(":")
            numbers = [[float(text) for text in channel.replace("?", "nan").split(",")] for channel in channels]
            yield np.array(numbers).T, int(float(label))


def networks(readout: Layer, padded: bool) -> list[Sequential]:
    """List recurrent networks of one layer with ReLU; ``padded`` tells whether series are of unequal lengths."""
    first = [Padded()] if padded else []
    return [
        Sequential(*first, Recurrent(Relu(), w_std=w, u_std=u, b_std=b), readout, Dense())
        for w, u, b in itertools.product(W_STDS, U_STDS, B_STDS)
    ]


def score_readout(data: Series, readout: Layer) -> tuple[float, str]:
    """Choose a network and a ridge by leave-one-out on the training part, and score them on the test part."""
    candidates = networks(readout, bool(np.isnan(data.x_train).any() or np.isnan(data.x_test).any()))
    kernels = kernel_matrices(candidates, data.x_train, dtype="float64", n_jobs=1)[:, 0]
    roots = [np.sqrt(np.diagonal(kernel)) for kernel in kernels]
    unit = [kernel / np.outer(root, root) for kernel, root in zip(kernels, roots, strict=True)]
    models = [
        KernelClassifier("precomputed", ridge=list(RIDGES), ridge_mode="absolute").fit(k, data.y_train) for k in unit
    ]
    best = min(range(len(models)), key=lambda number: float(models[number].ridge_path_.squared_error.min()))
    network = candidates[best]
    kernel = kernel_matrices([network], data.x_test, data.x_train, dtype="float64", n_jobs=1)[0, 0]
    own = np.sqrt(kernel_diagonal(network, data.x_test, dtype="float64"))
    accuracy = models[best].score(kernel / np.outer(own, roots[best]), data.y_test)
    layer = network.layers[-3]
    assert isinstance(layer, Recurrent)
    chosen = f"w = {layer.w_std:.3g}, u = {layer.u_std:g}, b = {layer.b_std:g}, ridge = {models[best].ridge_:g}"
    return float(accuracy), chosen


@numba.njit
def warping_distance(x: np.ndarray, z: np.ndarray) -> float:
    """Sum squared differences along the best alignment of two series, ``(steps, channels)``.

    This is dynamic time warping with a full window.
    """
    row = np.full(len(z) + 1, np.inf)
    row[0] = 0.0
    for i in range(len(x)):
        corner, row[0] = row[0], np.inf
        for j in range(len(z)):
            step = min(corner, row[j], row[j + 1])
            corner = row[j + 1]
            for channel in range(x.shape[1]):
                step += (x[i, channel] - z[j, channel]) ** 2
            row[j + 1] = step
    return row[-1]


def score_nearest(data: Series) -> tuple[float, str]:
    """Give each test series the class of the training series that is nearest by dynamic time warping."""
    known, new = (
        [each[:count] for each, count in zip(x, lengths(x), strict=True)] for x in (data.x_train, data.x_test)
    )
    distances = [[warping_distance(x, z) for z in known] for x in new]
    return float(np.mean(data.y_train[np.argmin(distances, 1)] == data.y_test)), "full window"


def score(data: Series) -> dict[str, tuple[float, str]]:
    """Score all methods on a data set."""
    found = {name: score_readout(data, readout) for name, readout in READOUTS.items()}
    return found | {"1-NN-DTW": score_nearest(data)}


def lines(scores: dict[str, dict[str, tuple[float, str]]]) -> Iterator[str]:
    """Write the accuracies as a table."""
    methods = list(next(iter(scores.values())))
    yield f"{'data set':<24}" + "".join(f"{method:>13}" for method in methods)
    for name, of_set in scores.items():
        yield f"{name:<24}" + "".join(f"{of_set[method][0]:>13.1%}" for method in methods)


def main() -> None:
    """Score data sets and print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="holds the files of the archive")
    parser.add_argument("names", nargs="+", help="data sets")
    parser.add_argument("--out", type=Path, help="CSV file for the accuracies")
    given = parser.parse_args()
    scores = {}
    for name in given.names:
        began, data = time.process_time(), read_series(given.folder, name)
        scores[name] = score(data)
        shown = "  ".join(f"{method} {accuracy:.1%} ({chosen})" for method, (accuracy, chosen) in scores[name].items())
        seconds = time.process_time() - began
        print(f"{name}: {len(data.x_train)} + {len(data.x_test)} x {data.x_train.shape[1]}  {shown}  {seconds:.1f} s")
    if given.out is not None:
        with given.out.open("w", newline="") as file:
            rows = csv.writer(file, lineterminator="\n")
            rows.writerow(["data_set", *READOUTS, "1-NN-DTW"])
            rows.writerows(
                [name, *(f"{accuracy:.4f}" for accuracy, _ in of_set.values())] for name, of_set in scores.items()
            )
    print("\n" + "\n".join(lines(scores)))


if __name__ == "__main__":
    main()
