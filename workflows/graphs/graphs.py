"""Graph neural tangent kernels on graphs of the TUDataset collection, as in Du et al. 2019 (arXiv:1905.13192).

    python workflows/graphs/graphs.py MUTAG --out mutag.csv   # folders with the text files
    python workflows/graphs/graphs.py PROTEINS --depths 1 2 --dense-layers 1 --scalings sum --seeds 1 --out proteins.csv
    python workflows/graphs/graphs.py MUTAG --networks gntk-mean gntk-jump convolutions --depths 2 --dense-layers 1 \\
        --scalings sum --out others.csv

For each network of a grid, a support vector machine with its kernel is cross-validated in ten stratified folds, in
three ways: with the penalty that is best on each validation fold, with the one that is best on all of them, and with
penalties that are chosen within the training folds. The first two are too high: what is measured has chosen them.
"""

import argparse
import csv
import itertools
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.svm import SVC

from cntk_pipeline import kernel_matrices
from cntk_pipeline.datasets import load
from cntk_pipeline.layers import Dense, GlobalSumPool, GraphConv, Relu, Sequential
from cntk_pipeline.layers.presets import gntk

PENALTIES = np.logspace(-6, 2, 17)
"""For kernels as they are: with sums over nodes, their diagonals are ten thousands."""

MOST_STEPS = 20_000
"""Of the solver of a support vector machine; large penalties on kernels without structure would take hours."""


def convolutions(depth: int, dense_layers: int, scaling: str) -> Sequential:
    """Build blocks of a graph convolution (Kipf and Welling 2017, arXiv:1609.02907) and ReLU, and a sum over nodes."""
    more = (Dense(w_std=2**0.5), Relu()) * (dense_layers - 1)
    return Sequential(*(GraphConv(scaling, w_std=2**0.5), Relu(), *more) * depth, GlobalSumPool(), Dense())


NETWORKS: dict[str, Callable[[int, int, str], Sequential]] = {
    "gntk": lambda depth, dense, scaling: gntk(depth, dense_layers=dense, scaling=scaling),
    "gntk-mean": lambda depth, dense, scaling: gntk(depth, "mean", dense_layers=dense, scaling=scaling),
    "gntk-jump": lambda depth, dense, scaling: gntk(depth, dense_layers=dense, scaling=scaling, jump=True),
    "convolutions": convolutions,
}
"""The paper's with a sum and with a mean over nodes, and with jumping knowledge; and one of `GraphConv`."""

DEPTHS, DENSE_LAYERS, SCALINGS = (1, 2, 3, 4), (1, 2), ("sum", "degree")


@dataclass(frozen=True)
class Row:
    """The accuracies of a network on a data set.

    Attributes
    ----------
    network : str
        A name in `NETWORKS`.
    folds_seed : int
        Of the folds.
    best_by_fold : float
        Percent, of the penalty that is best on each validation fold.
    best : float
        Percent, of the penalty that is best on all validation folds.
    nested : float
        Percent, of penalties that are chosen within the training folds.
    nested_deviation : float
        Of the last, over the folds.
    kernel_seconds : float
        Processor time of the kernels of all networks, which come out of one pass.
    """

    data: str
    graphs: int
    depth: int
    dense_layers: int
    scaling: str
    network: str
    folds_seed: int
    best_by_fold: float
    best: float
    nested: float
    nested_deviation: float
    kernel_seconds: float


def score(kernel: np.ndarray, labels: np.ndarray, seed: int) -> tuple[float, float, float, float]:
    """Cross-validate a kernel, in percent: see the accuracies of `Row`."""
    machine = SVC(kernel="precomputed", max_iter=MOST_STEPS)
    by_fold, nested = [], []
    for train, test in StratifiedKFold(10, shuffle=True, random_state=seed).split(kernel, labels):
        inner = StratifiedKFold(3, shuffle=True, random_state=seed)
        search = GridSearchCV(machine, {"C": PENALTIES}, cv=inner)
        search.fit(kernel[np.ix_(train, train)], labels[train])
        nested.append(search.score(kernel[np.ix_(test, train)], labels[test]))
        fitted = (clone(machine).set_params(C=c).fit(kernel[np.ix_(train, train)], labels[train]) for c in PENALTIES)
        by_fold.append([each.score(kernel[np.ix_(test, train)], labels[test]) for each in fitted])
    found = np.array(by_fold)
    return (
        100 * float(found.max(axis=1).mean()),
        100 * float(found.mean(axis=0).max()),
        100 * float(np.mean(nested)),
        100 * float(np.std(nested)),
    )


def measure(folder: Path, grid: Sequence[tuple[int, int, str, str]], seeds: int) -> list[Row]:
    """Cross-validate all networks of a grid of depths, dense layers, scalings and names on one data set."""
    data = load("tudataset", str(folder)).train
    networks = [NETWORKS[name](depth, dense, scaling) for depth, dense, scaling, name in grid]
    kernel_matrices(networks, data.images[:2], dtype="float64")  # compiles
    began = time.process_time()
    kernels = kernel_matrices(networks, data.images, dtype="float64")[:, 0]
    seconds = time.process_time() - began
    rows = []
    for setting, kernel in zip(grid, kernels, strict=True):
        for seed in range(seeds):
            found = score(kernel, data.known_labels, seed)
            rows.append(Row(folder.name, len(data), *setting, seed, *found, seconds))
            print(rows[-1], flush=True)
    return rows


def main() -> None:
    """Measure the data sets that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--depths", nargs="+", type=int, default=DEPTHS)
    parser.add_argument("--dense-layers", nargs="+", type=int, default=DENSE_LAYERS)
    parser.add_argument("--scalings", nargs="+", choices=SCALINGS, default=SCALINGS)
    parser.add_argument("--seeds", type=int, default=3, help="divisions into folds")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=["gntk"])
    parser.add_argument("--out", type=Path, default=Path("graphs.csv"))
    asked = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)  # large penalties, which do not win
    grid = list(itertools.product(asked.depths, asked.dense_layers, asked.scalings, asked.networks))
    rows = [row for folder in asked.folders for row in measure(folder, grid, asked.seeds)]
    with asked.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(
            {key: round(value, 3) if isinstance(value, float) else value for key, value in asdict(row).items()}
            for row in rows
        )


if __name__ == "__main__":
    main()
