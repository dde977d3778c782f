"""Small tables, as in Arora et al. 2020 (arXiv:1910.01663): the NTK beside a random forest and an RBF kernel.

    python workflows/uci/uci.py                         # scikit-learn's own tables, in a minute
    python workflows/uci/uci.py uci90.npz --jobs 2 --out workflows/uci/uci90.csv      # the 90 tables of the paper

With ``--out`` the scores of each table are written as soon as they are known, and the same command goes on after a
stop.

The protocol is that of the paper, and of Fernandez-Delgado et al. 2014 before it: options are chosen on one validation
split, and the accuracy is the mean over four folds of the table.
"""

import argparse
import csv
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import joblib
import numpy as np
from sklearn import datasets
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.model_selection import StratifiedKFold, train_test_split
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from cntk_pipeline import kernel_matrices
from cntk_pipeline.estimators import KernelClassifier
from cntk_pipeline.layers import Dense, Layer, Relu, Sequential

DEPTHS = range(1, 6)
PENALTIES = [10.0**exponent for exponent in range(-2, 5)]
WIDTHS = [4.0**exponent for exponent in range(-4, 3)]
"""Of the RBF kernel: gamma times the number of features."""

MOST_STEPS = 300_000
"""Of the solver of a support vector machine; some large penalties would take hours to the end."""

MOST_ROWS = 1000
"""Rows on which leave-one-out compares networks; the ridge is then chosen on all rows of a fold."""

METHODS = ("NTK, SVM", "NTK, ridge", "RBF, SVM", "random forest")

COLUMNS = ("table", "rows", "features", "seconds", *METHODS)
"""Of the file of scores."""

Rows = np.ndarray


@dataclass(frozen=True)
class Table:
    """A table with its splits: rows of the choice of options, then rows of training and test for each fold."""

    name: str
    x: np.ndarray
    y: np.ndarray
    choice: tuple[Rows, Rows]
    folds: tuple[tuple[Rows, Rows], ...]


def networks() -> list[Layer]:
    """Return the paper's networks: of 1 to 5 dense layers, of which the first 0, 1, ... are not trained."""
    found: list[Layer] = []
    for depth in DEPTHS:
        for fixed in range(depth):
            layers = [[Dense(trained=position >= fixed), Relu()] for position in range(depth)]
            found.append(Sequential(*[layer for pair in layers for layer in pair][:-1]))
    return found


def read_tables(path: Path) -> list[Table]:
    """Read tables from an archive with the keys NAME/x, y, train, valid, fold0_train, fold0_test, ..., fold3_test."""
    with np.load(path) as file:
        names = sorted({key.split("/")[0] for key in file})
        return [
            Table(
                name,
                file[f"{name}/x"],
                file[f"{name}/y"],
                (file[f"{name}/train"], file[f"{name}/valid"]),
                tuple((file[f"{name}/fold{k}_train"], file[f"{name}/fold{k}_test"]) for k in range(4)),
            )
            for name in names
        ]


def own_tables() -> list[Table]:
    """Cut scikit-learn's tables in the same way: half for each side of the choice, four folds."""
    found = []
    for name in ("iris", "wine", "breast_cancer"):
        x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
        first, second = train_test_split(np.arange(len(y)), test_size=0.5, random_state=0, stratify=y)
        folds = StratifiedKFold(4, shuffle=True, random_state=0).split(x, y)
        found.append(Table(name, StandardScaler().fit_transform(x), y, (first, second), tuple(folds)))
    return found


def support_vectors(kernels: np.ndarray, table: Table) -> tuple[float, str]:
    """Choose a kernel and a penalty on the validation split, and score them on the folds."""

    def score(kernel: np.ndarray, penalty: float, train: Rows, test: Rows) -> float:
        machine = SVC(C=penalty, kernel="precomputed", max_iter=MOST_STEPS, cache_size=1000)
        machine.fit(kernel[np.ix_(train, train)], table.y[train])
        return float(machine.score(kernel[np.ix_(test, train)], table.y[test]))

    choices = [(number, penalty) for number in range(len(kernels)) for penalty in PENALTIES]
    best = max(choices, key=lambda choice: score(kernels[choice[0]], choice[1], *table.choice))
    folds = [score(kernels[best[0]], best[1], *fold) for fold in table.folds]
    return float(np.mean(folds)), f"kernel {best[0]}, C = {best[1]:g}"


def ridge(kernels: np.ndarray, table: Table) -> tuple[float, str]:
    """Choose a kernel and a ridge by leave-one-out, without the validation split, and score them on the folds."""
    rows = table.choice[0]
    rows = rows[:: -(-len(rows) // MOST_ROWS)]  # spread over the table, which may be sorted by class

    def error(kernel: np.ndarray) -> float:
        model = KernelClassifier("precomputed").fit(kernel[np.ix_(rows, rows)], table.y[rows])
        return float(model.ridge_path_.squared_error.min())

    best = min(range(len(kernels)), key=lambda number: error(kernels[number]))
    folds = []
    for train, test in table.folds:
        model = KernelClassifier("precomputed").fit(kernels[best][np.ix_(train, train)], table.y[train])
        folds.append(model.score(kernels[best][np.ix_(test, train)], table.y[test]))
    return float(np.mean(folds)), f"kernel {best}, ridge = {model.ridge_:g} in the last fold"


def forest(table: Table) -> tuple[float, str]:
    """Score a random forest of 500 trees on the folds."""
    folds = []
    for train, test in table.folds:
        model = RandomForestClassifier(500, random_state=0).fit(table.x[train], table.y[train])
        folds.append(model.score(table.x[test], table.y[test]))
    return float(np.mean(folds)), "500 trees"


@dataclass(frozen=True)
class Scored:
    """The accuracy of each method on a table, and the table's size.

    Attributes
    ----------
    seconds : float
        By the clock, of one job.
    """

    rows: int
    features: int
    seconds: float
    accuracies: dict[str, float]


def score_table(table: Table) -> tuple[Scored, dict[str, str]]:
    """Score all methods on a table, and say what each chose; a kernel is computed once, for all rows."""
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of the largest penalties
        kernels = kernel_matrices(networks(), table.x, dtype="float64" if len(table.x) <= 3000 else "float32", n_jobs=1)
        scores = {"NTK, SVM": support_vectors(kernels[:, 0], table), "NTK, ridge": ridge(kernels[:, 0], table)}
        del kernels
        by_width = np.stack([rbf_kernel(table.x, gamma=width / table.x.shape[1]) for width in WIDTHS])
        scores["RBF, SVM"] = support_vectors(by_width, table)
        del by_width
        scores["random forest"] = forest(table)
    accuracies = {method: accuracy for method, (accuracy, _) in scores.items()}
    scored = Scored(*table.x.shape, time.perf_counter() - began, accuracies)
    return scored, {method: chosen for method, (_, chosen) in scores.items()}


def read_scores(path: Path) -> dict[str, Scored]:
    """Read what `write_scores` has written, by the tables' names; nothing where there is no file."""
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        found = csv.DictReader(file)
        if tuple(found.fieldnames or ()) != COLUMNS:
            raise SystemExit(f"{path}: expected the columns {', '.join(COLUMNS)}, got others; give another file")
        return {
            row["table"]: Scored(
                int(row["rows"]),
                int(row["features"]),
                float(row["seconds"]),
                {method: float(row[method]) for method in METHODS},
            )
            for row in found
        }


def write_scores(path: Path, scores: dict[str, Scored]) -> None:
    """Write a row a table; a stop at any moment leaves the old file or the new one."""
    aside = path.with_name(f"{path.name}.partial")
    with aside.open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(COLUMNS)
        for name, of_table in sorted(scores.items()):
            accuracies = [of_table.accuracies[method] for method in METHODS]
            rows.writerow([name, of_table.rows, of_table.features, f"{of_table.seconds:.1f}", *accuracies])
    aside.replace(path)


@dataclass(frozen=True)
class Summary:
    """A method over all tables, as in the paper's table 1.

    Attributes
    ----------
    accuracy : float
        Mean.
    rank : float
        Mean over tables of the place among the methods, 1 the best; equals share their mean place (Friedman).
    p90, p95 : float
        Share of tables with at least 90 or 95 % of the best method's accuracy.
    pma, pma_deviation : float
        Mean and deviation over tables of the share of the best method's accuracy.
    """

    accuracy: float
    rank: float
    p90: float
    p95: float
    pma: float
    pma_deviation: float


def summarise(accuracies: dict[str, np.ndarray]) -> dict[str, Summary]:
    """Compare methods by their accuracies on the same tables, each ``(tables,)``."""
    values = np.stack(list(accuracies.values()))
    better = (values[None] > values[:, None]).sum(1)
    equal = (values[None] == values[:, None]).sum(1)
    ranks = (better + (equal + 1) / 2).mean(1)
    shares = values / values.max(0)
    return {
        name: Summary(
            float(own.mean()),
            float(rank),
            float((share >= 0.9).mean()),
            float((share >= 0.95).mean()),
            float(share.mean()),
            float(share.std()),
        )
        for name, own, rank, share in zip(accuracies, values, ranks, shares, strict=True)
    }


def lines(summaries: dict[str, Summary]) -> Iterator[str]:
    """Write the comparison as a table."""
    yield f"{'method':<14} {'accuracy':>9} {'rank':>6} {'P90':>7} {'P95':>7} {'PMA':>15}"
    for name, s in summaries.items():
        pma = f"{s.pma:.2%} +- {100 * s.pma_deviation:.2f}"
        yield f"{name:<14} {s.accuracy:>9.2%} {s.rank:>6.2f} {s.p90:>7.1%} {s.p95:>7.1%} {pma:>15}"


def accuracies_of(scores: dict[str, Scored]) -> dict[str, np.ndarray]:
    """Collect the accuracies of each method over all tables."""
    return {method: np.array([of_table.accuracies[method] for of_table in scores.values()]) for method in METHODS}


def main() -> None:
    """Score the tables and print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="?", type=Path, help="archive of tables; without it scikit-learn's own")
    parser.add_argument("--jobs", type=int, default=1, help="tables at a time")
    parser.add_argument("--most-rows", type=int, default=None, help="leave out larger tables")
    parser.add_argument("--out", type=Path, help="CSV file for the scores; tables that it holds are not scored again")
    given = parser.parse_args()
    began = time.perf_counter()
    tables = own_tables() if given.tables is None else read_tables(given.tables)
    tables = [table for table in tables if given.most_rows is None or len(table.y) <= given.most_rows]
    tables.sort(key=lambda table: -len(table.y))  # the largest first, so that no job is left over
    known = {} if given.out is None else read_scores(given.out)
    for table in tables:
        if table.name in known and (known[table.name].rows, known[table.name].features) != table.x.shape:
            raise SystemExit(f"{given.out}: {table.name} is of another size there; give another file")
    left = [table for table in tables if table.name not in known]
    if given.out is not None:
        write_scores(given.out, known)  # a place that cannot be written is known at once
    found = joblib.Parallel(n_jobs=given.jobs, return_as="generator")(
        joblib.delayed(score_table)(each) for each in left
    )
    for table, (scored, choices) in zip(left, found, strict=True):
        known[table.name] = scored
        if given.out is not None:
            write_scores(given.out, known)
        shown = "  ".join(f"{method} {scored.accuracies[method]:.2%} ({choices[method]})" for method in METHODS)
        print(f"{table.name}: {scored.rows} x {scored.features}  {shown}", flush=True)
    scores = {table.name: known[table.name] for table in tables}
    print(f"\n{len(tables)} tables, {len(left)} of them in {time.perf_counter() - began:.0f} s")
    print("\n".join(lines(summarise(accuracies_of(scores)))))


if __name__ == "__main__":
    main()
