"""The workflow of graphs: accuracies of kernels whose answers are known, and the script on a small set."""

import csv
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from support.scripts import load_script

from cntk_pipeline import kernel_matrix
from cntk_pipeline.graphs import pack

SCRIPT = Path(__file__).parents[2] / "workflows" / "graphs" / "graphs.py"


@pytest.fixture(scope="module")
def graphs() -> ModuleType:
    return load_script(SCRIPT)


def test_a_kernel_of_the_labels_is_right_and_chance_is_flattered_by_the_folds(graphs: ModuleType) -> None:
    labels = np.arange(60) % 2
    signs = 2.0 * labels - 1
    assert graphs.score(np.outer(signs, signs) + np.eye(60), labels, 0) == (100, 100, 100, 0)
    noise = np.random.default_rng(0).normal(size=(60, 5))
    by_fold, best, nested, _ = graphs.score(noise @ noise.T, labels, 0)
    assert by_fold > best > nested


def test_rings_are_told_from_paths(graphs: ModuleType, tmp_path: Path) -> None:
    edges: list[tuple[int, int]] = []
    owners: list[int] = []
    for graph in range(24):
        first, size = len(owners) + 1, 4 + graph // 2 % 4
        pairs = [(first + k, first + (k + 1) % size) for k in range(size - graph % 2)]  # every second one is open
        edges += pairs + [(b, a) for a, b in pairs]
        owners += [graph + 1] * size
    folder = tmp_path / "RINGS"
    folder.mkdir()
    files = {
        "A": [f"{a}, {b}" for a, b in edges],
        "graph_indicator": owners,
        "graph_labels": [k % 2 for k in range(24)],
    }
    for name, lines in files.items():
        (folder / f"RINGS_{name}.txt").write_text("".join(f"{line}\n" for line in lines))
    (row,) = graphs.measure(folder, [(2, 1, "sum", "gntk")], seeds=1)
    assert (row.data, row.graphs, row.depth) == ("RINGS", 24, 2)
    assert row.nested > 90


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("mutag", [("1", "1", "sum"), ("2", "1", "sum"), ("2", "2", "sum"), ("4", "1", "sum"), ("2", "1", "degree")]),
        ("proteins", [("1", "1", "sum"), ("2", "1", "sum")]),
    ],
)
def test_the_table_of_a_data_set_is_that_of_the_page(name: str, shown: list[tuple[str, str, str]]) -> None:
    with (SCRIPT.parent / f"{name}.csv").open() as file:
        rows = list(csv.DictReader(file))
    page = (SCRIPT.parent / "README.md").read_text().partition(f"### {name.upper()}")[2].partition("###")[0]
    for depth, dense, scaling in shown:
        own = [row for row in rows if (row["depth"], row["dense_layers"], row["scaling"]) == (depth, dense, scaling)]
        means = [np.mean([float(row[key]) for row in own]) for key in ("best_by_fold", "best", "nested")]
        assert f"| {depth} | {dense} | {scaling} | {' | '.join(f'{mean:.1f}%' for mean in means)} |" in page
    assert page.count("sum |") + page.count("degree |") == len(shown)


def test_the_table_of_other_networks_is_that_of_the_page() -> None:
    with (SCRIPT.parent / "mutag_others.csv").open() as file:
        rows = list(csv.DictReader(file))
    page = (SCRIPT.parent / "README.md").read_text().partition("### MUTAG")[2].partition("###")[0]
    for network in ("gntk-mean", "gntk-jump", "convolutions"):
        own = [row for row in rows if row["network"] == network]
        assert {(row["depth"], row["dense_layers"], row["scaling"]) for row in own} == {("2", "1", "sum")}
        means = [np.mean([float(row[key]) for row in own]) for key in ("best_by_fold", "best", "nested")]
        assert f"| {network} | {' | '.join(f'{mean:.1f}%' for mean in means)} |" in page


def test_each_network_of_the_script_has_a_kernel_of_graphs(graphs: ModuleType) -> None:
    x = pack(
        [np.ones((2, 2), int) - np.eye(2, dtype=int), np.eye(3, k=1, dtype=int) + np.eye(3, k=-1, dtype=int)],
        [np.eye(2), [[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]]],
    )
    values = [kernel_matrix(build(2, 2, "degree"), x, dtype="float64") for build in graphs.NETWORKS.values()]
    assert all((np.linalg.eigvalsh(each) > 0).all() for each in values)
    assert len({float(each[0, 1]) for each in values}) == 4
