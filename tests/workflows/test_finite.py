"""The studies of finite networks: their figures by hand and by other formulas, what is committed, and the scripts."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import scipy
from support.figures import drawn, legend_of
from support.scripts import load_script

from cntk_pipeline import kernel_matrix

FOLDER = Path(__file__).parents[2] / "workflows" / "finite"


@pytest.fixture(scope="module")
def convergence() -> ModuleType:
    sys.path.insert(0, str(FOLDER))
    return load_script(FOLDER / "convergence.py")


@pytest.fixture(scope="module")
def training() -> ModuleType:
    sys.path.insert(0, str(FOLDER))
    return load_script(FOLDER / "training.py")


@pytest.fixture(scope="module")
def torch() -> ModuleType:
    return pytest.importorskip("torch")


# Convergence.


def test_every_activation_is_among_the_architectures(convergence: ModuleType, torch: ModuleType) -> None:
    from cntk_pipeline.finite.activations import ACTIVATIONS, ELEMENTWISE

    layers = [layer for network in convergence.NETWORKS.values() for layer in network.flattened()]
    assert ACTIVATIONS.keys() <= {type(layer) for layer in layers}
    assert {*ELEMENTWISE} <= {getattr(layer, "function", None) for layer in layers}


def row(convergence: ModuleType, width: int, error: float, deviation: float) -> object:
    return convergence.Row("CNTK-V, depth 3", "ntk", width, 8, error, deviation, error / 3, 1.0)


def test_the_slope_of_a_power_law_is_its_exponent(convergence: ModuleType) -> None:
    rows = [row(convergence, width, 3 * width**-0.43, 0.1) for width in (32, 64, 128, 256)]
    found = convergence.fit(rows)
    assert found.value == pytest.approx(-0.43)
    # The variance of a slope is the variance of a point over the sum of squares of the abscissae.
    across = np.log(2) * np.arange(4)
    assert found.deviation == pytest.approx(0.1 / np.sqrt(np.sum((across - across.mean()) ** 2)))


def test_points_of_a_slope_count_by_their_deviations(convergence: ModuleType) -> None:
    rows = [row(convergence, width, width**-0.5, 1e-4) for width in (32, 64)]
    assert convergence.fit([*rows, row(convergence, 128, 1.0, 10.0)]).value == pytest.approx(-0.5, abs=1e-4)


def test_the_error_of_an_error_is_that_of_a_sum_of_squares(convergence: ModuleType) -> None:
    errors = np.abs(np.random.default_rng(1).standard_normal(5000))
    size, deviation = convergence.root_mean_square(errors)
    assert size == pytest.approx(1, abs=0.03)
    assert deviation == pytest.approx(np.sqrt(2 / 5000) / 2, rel=0.15)  # of half the logarithm of a mean of chi squares


def test_errors_are_of_the_kernels_of_the_networks(convergence: ModuleType, torch: ModuleType) -> None:
    from cntk_pipeline.finite import build, empirical_kernel

    name = "ReLU, 1 hidden layer"
    nngp, ntk = convergence.measure(name, 1024)
    assert (nngp.kind, ntk.kind, ntk.draws) == ("nngp", "ntk", 8)
    seed = 10**5 * list(convergence.NETWORKS).index(name) + 1024
    x, network = convergence.inputs(name), convergence.NETWORKS[name]
    for found in (nngp, ntk):
        exact = kernel_matrix(network, x, kind=found.kind, dtype="float64")
        outputs = 1 if found.kind == "ntk" else None
        modules = [build(network, 1024, (10,), outputs=outputs, seed=(seed, draw)) for draw in range(8)]
        errors = np.array([empirical_kernel(module, x, kind=found.kind) for module in modules]) - exact
        size = np.linalg.norm(exact)
        assert found.error == pytest.approx(np.linalg.norm(errors) / 8**0.5 / size, rel=1e-4)
        assert found.mean_error == pytest.approx(np.linalg.norm(errors.mean(0)) / size, rel=1e-4)


@pytest.mark.parametrize("name", ["erf, 1 hidden layer", "CNTK-GAP, depth 3"])
def test_rows_that_are_committed_come_out_again(convergence: ModuleType, torch: ModuleType, name: str) -> None:
    kept = convergence.read(FOLDER / "convergence.csv", convergence.Row)
    again = convergence.measure(name, 32)
    for found in again:
        (before,) = [each for each in kept if (each.network, each.kind, each.width) == (name, found.kind, 32)]
        assert (found.error, found.mean_error) == pytest.approx((before.error, before.mean_error), rel=2e-3)


def test_all_committed_slopes_are_near_one_half(convergence: ModuleType) -> None:
    rows = convergence.read(FOLDER / "convergence.csv", convergence.Row)
    assert {(each.network, each.width) for each in rows} == {
        (name, width)
        for name, widest in convergence.WIDEST.items()
        for width in 2 ** np.arange(5, 14)
        if width <= widest
    }
    assert min(each.draws for each in rows) >= 8
    found = convergence.slopes(rows)
    kinds = [kind for _, kind in found]
    assert (kinds.count("nngp"), kinds.count("ntk")) == (len(convergence.NETWORKS), len(convergence.NETWORKS) - 1)
    assert {key: slope for key, slope in found.items() if abs(slope.value + 0.5) > 0.15} == {}
    # The mean of eight matrices is about the root of 8 nearer.
    ratios = [each.error / each.mean_error for each in rows]
    assert 2.4 < np.exp(np.mean(np.log(ratios))) < 3.2


def test_the_figures_of_convergence(convergence: ModuleType) -> None:
    rows = tuple(convergence.read(FOLDER / "convergence.csv", convergence.Row))
    errors = drawn(convergence.Errors(rows))
    assert [len(axes.lines) - 1 for axes in errors.axes[:2]] == [
        len(convergence.by_network(each for each in rows if each.network in family))
        for family in (convergence.DENSE, convergence.IMAGES)
    ]
    assert legend_of(errors) == ["NNGP", "NTK", "width to the power -1/2"]
    (axes,) = drawn(convergence.Slopes(rows)).axes
    assert [text.get_text() for text in axes.get_yticklabels()] == list(convergence.NETWORKS)


def test_the_script_of_convergence_goes_on_where_it_was(tmp_path: Path, torch: ModuleType) -> None:
    table = tmp_path / "table.csv"
    networks = ["--networks", "sign, 1 hidden layer", "attention", "--out", str(table)]

    def run(*options: str) -> str:
        command = [sys.executable, str(FOLDER / "convergence.py"), *networks, *options]
        return subprocess.run(command, capture_output=True, text=True, timeout=280, check=True).stdout

    first = run("--widest", "32")
    assert first.count("width 32:") == 3  # there is no NTK behind sign
    before = table.read_text()
    assert len(before.splitlines()) == 4
    second = run("--widest", "64", "--figures", str(tmp_path))
    assert (second.count("width 32:"), second.count("width 64:")) == (0, 3)
    assert table.read_text().startswith(before)
    assert second.count(" +- ") == 3
    assert all((tmp_path / f"{name}.svg").stat().st_size > 10_000 for name in ("errors", "slopes"))


# Training.


def outputs_by_exponentials(training: ModuleType, starts: np.ndarray) -> np.ndarray:
    """Solve df/dt = -K (f - Y) / (n c) by the exponential of a matrix: (networks, times, digits, 10)."""
    data, n = training.digits(), training.TRAIN
    k_train = data.ntk[:n, :n]
    learned = [np.eye(n) - scipy.linalg.expm(-k_train * t / (10 * n)) for t in training.TIMES]
    responses = np.array([data.ntk[:, :n] @ np.linalg.solve(k_train, each) for each in learned])
    return starts[:, None] + np.einsum("tdn,snc->stdc", responses, data.targets - starts[:, :n])


def test_flows_begin_at_the_outputs_of_networks_and_go_to_the_targets(training: ModuleType) -> None:
    starts = np.random.default_rng(0).standard_normal((3, training.TRAIN + training.TEST, 10))
    expected = outputs_by_exponentials(training, starts)[:, :, training.TRAIN :]
    np.testing.assert_allclose(training.flows(starts), expected, atol=1e-7)


def test_steps_are_small(training: ModuleType) -> None:
    (still,) = training.flows(np.zeros((1, training.TRAIN + training.TEST, 10)))
    distances = training.relative(training.descent_at_infinite_width(), still, still)
    assert 0.001 < distances.max() < 0.015
    assert sum(count * size for count, size in training.steps()) == pytest.approx(training.TIMES[-1])


def test_networks_of_infinite_width_would_be_at_distance_zero(training: ModuleType) -> None:
    """Draws of the NNGP that follow the flow stand for infinitely wide networks."""
    nngp = training.digits().nngp
    root = np.linalg.cholesky(nngp + 1e-10 * np.eye(len(nngp)))
    starts = root @ np.random.default_rng(0).standard_normal((30, len(root), 10))
    rows = training.compare(7, outputs_by_exponentials(training, starts), 1.0)
    assert [each.time for each in rows] == list(training.TIMES)
    for each in rows:
        assert each.distance < 1e-6
        assert each.mean_ratio == pytest.approx(1, abs=0.25)
        assert each.variance == pytest.approx(each.exact_variance, rel=0.15)
    assert rows[-1].loss < 0.02 < rows[0].loss


def test_a_network_is_trained_once_and_is_near_the_flow(
    training: ModuleType, torch: ModuleType, tmp_path: Path
) -> None:
    outputs, seconds = training.trained(tmp_path, 256, 0)
    again, same = training.trained(tmp_path, 256, 0)
    np.testing.assert_array_equal(outputs, again)
    assert seconds == same
    assert [path.name for path in tmp_path.iterdir()] == ["width256-start0.npz"]
    (flow,) = training.flows(outputs[:1])
    distances = training.relative(outputs[:, training.TRAIN :], flow, flow - flow[0])
    assert 0.05 < distances[1:].max() < 0.25
    # Against twice the time it would be as far as the flow goes in it.
    later = np.concatenate([flow[:1], flow[2:]])
    assert training.relative(outputs[:-1, training.TRAIN :], later, later - flow[0])[1] > 0.3


def test_committed_distances_halve_with_a_fourfold_width(training: ModuleType) -> None:
    rows = training.read(FOLDER / "training.csv", training.Row)
    assert [(each.width, each.time) for each in rows] == [
        (width, t) for width in training.STARTS for t in training.TIMES
    ]
    assert all(each.starts == training.STARTS[each.width] for each in rows)
    for t in training.TIMES[1:]:
        distances = np.array([each.distance for each in rows if each.time == t])
        ratios = distances[:-1] / distances[1:]
        assert ((ratios > 1.5) & (ratios < 2.6)).all(), (t, distances)


def test_the_figure_of_training(training: ModuleType) -> None:
    rows = tuple(training.read(FOLDER / "training.csv", training.Row))
    figure = drawn(training.WideNetworks(rows))
    assert [len(axes.get_lines()) for axes in figure.axes] == [4, 4, 4, 4]
    assert "width 4,096, 1 network" in legend_of(figure)


def test_rows_of_other_widths_stay_in_a_table(training: ModuleType, tmp_path: Path) -> None:
    whole, table = (FOLDER / "training.csv").read_text(), tmp_path / "table.csv"
    table.write_text(whole)
    rows = training.read(table, training.Row)
    of_width = [replace(each, starts=3) for each in rows if each.width == 256]
    found = training.write(table, of_width)
    # As text, since nan is unequal to itself.
    assert str(found) == str([replace(each, starts=3) if each.width == 256 else each for each in rows])
    training.write(table, [each for each in rows if each.width == 256])
    assert table.read_text() == whole
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]


def test_the_script_of_training_compares_networks(tmp_path: Path, torch: ModuleType) -> None:
    command = [sys.executable, str(FOLDER / "training.py"), "--widths", "64", "--starts", "2"]
    study = (FOLDER / "training.csv").read_bytes()
    places = ["--work", str(tmp_path / "work"), "--figures", str(tmp_path)]
    said = subprocess.run([*command, *places], capture_output=True, text=True, timeout=280, check=True).stdout
    assert said.count(" +- ") == 10
    assert (tmp_path / "work" / "training.csv").read_text().count("\n64,") == 10
    assert (FOLDER / "training.csv").read_bytes() == study
    assert (tmp_path / "training.svg").stat().st_size > 10_000
