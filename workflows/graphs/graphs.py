"""Graph neural tangent kernels on graphs of the TUDataset collection, as in Du et al. 2019 (arXiv:1905.13192).

    python workflows/graphs/graphs.py MUTAG PROTEINS --out graphs.csv   # folders with the text files

For each network of a grid, a support vector machine with its kernel is cross-validated in ten stratified folds. The
paper, as others before it, gives the accuracy of the penalty that is best on the validation folds themselves, which is
too high: it was chosen by them. So the table also has that of a penalty chosen within the training folds alone.
"""

import argparse
import csv
import itertools
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.svm import SVC

from cntk_pipeline import kernel_matrices
from cntk_pipeline.datasets import load
from cntk_pipeline.layers.presets import gntk

PENALTIES = np.logspace(-2, 4, 13)
"""The range of the authors, of kernels as they are: with sums over nodes, their diagonals are ten thousands."""

MOST_STEPS = 200_000
"""Of the solver of a support vector machine; large penalties on kernels without structure would take hours."""

DEPTHS, DENSE_LAYERS, SCALINGS = (1, 2, 3, 4), (1, 2), ("sum", "degree")


@dataclass(frozen=True)
class Row:
    """The accuracies of a network on a data set.

    Attributes
    ----------
    folds_seed : of the folds.
    best : percent, of the penalty that is best on the validation folds.
    best_deviation : over the folds.
    nested : percent, of penalties that are chosen within the training folds.
    kernel_seconds : processor time of the kernels of all networks, which come out of one pass.
    """

    data: str
    graphs: int
    depth: int
    dense_layers: int
    scaling: str
    jump: bool
    folds_seed: int
    best: float
    best_deviation: float
    nested: float
    kernel_seconds: float


def score(kernel: np.ndarray, labels: np.ndarray, seed: int) -> tuple[float, float, float]:
    """Cross-validate a kernel: mean and deviation of the best penalty, and the mean with nested choice, in percent."""
    outer = StratifiedKFold(10, shuffle=True, random_state=seed)
    machine = SVC(kernel="precomputed", cache_size=500, max_iter=MOST_STEPS)
    grid = {"C": PENALTIES}
    search = GridSearchCV(machine, grid, cv=outer, refit=False).fit(kernel, labels)
    best = int(search.cv_results_["mean_test_score"].argmax())
    nested = []
    for train, test in outer.split(kernel, labels):
        inner = GridSearchCV(machine, grid, cv=StratifiedKFold(3, shuffle=True, random_state=seed))
        inner.fit(kernel[np.ix_(train, train)], labels[train])
        nested.append(inner.score(kernel[np.ix_(test, train)], labels[test]))
    deviation = search.cv_results_["std_test_score"][best]
    return 100 * search.cv_results_["mean_test_score"][best], 100 * deviation, 100 * float(np.mean(nested))


def measure(folder: Path, seeds: int, jump: bool) -> list[Row]:
    """Cross-validate all networks of the grid on one data set."""
    data = load("tudataset", str(folder)).train
    grid = list(itertools.product(DEPTHS, DENSE_LAYERS, SCALINGS))
    networks = [gntk(depth, dense_layers=dense, scaling=scaling, jump=jump) for depth, dense, scaling in grid]
    kernel_matrices(networks, data.images[:2], dtype="float64")  # compiles
    began = time.process_time()
    kernels = kernel_matrices(networks, data.images, dtype="float64")[:, 0]
    seconds = time.process_time() - began
    rows = []
    for (depth, dense, scaling), kernel in zip(grid, kernels, strict=True):
        for seed in range(seeds):
            found = score(kernel, data.known_labels, seed)
            rows.append(Row(folder.name, len(data), depth, dense, scaling, jump, seed, *found, seconds))
            print(rows[-1], flush=True)
    return rows


def main() -> None:
    """Measure the data sets that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--seeds", type=int, default=3, help="divisions into folds")
    parser.add_argument("--jump", action="store_true", help="jumping knowledge")
    parser.add_argument("--out", type=Path, default=Path("graphs.csv"))
    asked = parser.parse_args()
    rows = [row for folder in asked.folders for row in measure(folder, asked.seeds, asked.jump)]
    with asked.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


if __name__ == "__main__":
    main()
