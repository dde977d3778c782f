"""The workflow of trained networks: its networks, its training and its bookkeeping against small twins, and the script.

Seen to fail: without the falling step in the time of training, with a step that stays, with tested networks or another
depth in the choice of a step, with a validation part of another size, with rows of pixels for blocks, with another
deviation at the beginning, with a flow that is not divided by its eigenvalues, with errors that are no shares, with a
README of other numbers, with one network that deviates by 0, with ends that stay as they are,
with a grid of steps that ends at the best one, with tests of a step that is not chosen in the
table, and where the script trains again what it has.
"""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from support.scripts import load_script

import cntk_pipeline
from cntk_pipeline.datasets import Dataset, Split, one_hot_targets, standardize
from cntk_pipeline.regression import gradient_flow, maximal_learning_rate

torch = pytest.importorskip("torch")

FOLDER = Path(__file__).parents[2] / "workflows" / "cnn"


@pytest.fixture(scope="module")
def results() -> ModuleType:
    return load_script(FOLDER / "cnn_results.py")


@pytest.fixture(scope="module")
def cnn(results: ModuleType) -> ModuleType:
    return load_script(FOLDER / "cnn.py")  # it imports `cnn_results`, which is loaded by now


@pytest.fixture(scope="module")
def digits(cnn: ModuleType) -> Dataset:
    return standardize(cnn.read_images(cnn.DIGITS, None), "float32")[0]


def trial(cnn: ModuleType, **changes: object) -> object:
    values = vars(cnn.DIGITS) | {"pooling": "gap", "width": 16, "seed": 0, "share": 0.05, "part": "test"}
    return cnn.Trial(**(values | changes))


def test_pixels_are_means_of_blocks(cnn: ModuleType) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 6, 6, 3)).astype(np.uint8)
    found = cnn._shrink(Split(images, np.zeros(2, int)), 2).images
    assert found[1, 0, 1, 2] == pytest.approx(images[1, :3, 3:, 2].mean())
    assert (found.shape, found.dtype) == ((2, 2, 2, 3), np.float32)


@pytest.mark.parametrize("pooling", ["flatten", "gap"])
def test_outputs_begin_with_the_deviation_that_is_said(cnn: ModuleType, digits: Dataset, pooling: str) -> None:
    scale = cnn.output_scale(cnn.DIGITS, digits, pooling)
    images = digits.train.images[:40]
    found = [
        cnn.outputs(cnn.build(trial(cnn, pooling=pooling, width=64, seed=seed), digits, scale), images)
        for seed in range(12)
    ]
    assert np.sqrt(np.mean(np.square(found))) == pytest.approx(0.1, rel=0.15)


def test_training_is_gradient_descent_with_momentum_and_a_falling_step(cnn: ModuleType) -> None:
    rng = np.random.default_rng(1)
    x, y, start = rng.standard_normal((8, 3)), rng.standard_normal((8, 2)), rng.standard_normal((2, 3))
    network = torch.nn.Linear(3, 2, bias=False, dtype=torch.float64)
    with torch.no_grad():
        network.weight.copy_(torch.from_numpy(start))
    cnn.descend(network, torch.from_numpy(x), torch.from_numpy(y), step=0.1, epochs=5, seed=0)
    weight, speed = start, np.zeros((2, 3))
    for number in range(5):
        speed = 0.9 * speed + (x @ weight.T - y).T @ x / 16
        weight = weight - 0.1 * (1 - number / 5) * speed
    np.testing.assert_allclose(network.weight.detach().numpy(), weight, rtol=1e-12)


def test_the_time_of_training_is_that_of_gradient_flow(cnn: ModuleType) -> None:
    rng = np.random.default_rng(2)
    x, y = rng.standard_normal((50, 60)) * np.linspace(0.05, 1, 60), rng.standard_normal((50, 2))
    kernel = x @ x.T
    largest = maximal_learning_rate(kernel, 2)
    asked = replace(trial(cnn), train=50, epochs=400, share=0.02)
    network = torch.nn.Linear(60, 2, bias=False, dtype=torch.float64)
    torch.nn.init.zeros_(network.weight)
    cnn.descend(network, torch.from_numpy(x), torch.from_numpy(y), asked.share * largest, asked.epochs, seed=0)
    found = network(torch.from_numpy(x)).detach().numpy()
    expected = gradient_flow(kernel, y, kernel, asked.time * largest).train_mean
    assert np.square(expected - y).mean() / np.square(y).mean() > 0.1  # training is under way still
    assert np.linalg.norm(found - expected) / np.linalg.norm(expected) < 0.01


def test_the_flow_is_that_of_the_package(cnn: ModuleType) -> None:
    rng = np.random.default_rng(3)
    x, new, y = rng.standard_normal((12, 20)), rng.standard_normal((5, 20)), rng.standard_normal((12, 2))
    times = [1.0, 30.0]
    for time, (train, test) in zip(times, cnn.follow(x @ x.T, new @ x.T, y, times), strict=True):
        expected = gradient_flow(x @ x.T, y, new @ x.T, time)
        np.testing.assert_allclose(train, expected.train_mean, rtol=1e-9)
        np.testing.assert_allclose(test, expected.mean, rtol=1e-9)


def test_a_step_is_chosen_without_the_images_that_judge(cnn: ModuleType, digits: Dataset) -> None:
    kept, held = cnn.parts_of(trial(cnn, part="validation"), digits)
    assert (len(kept), len(held)) == (400, 100)
    together = np.concatenate([kept.images, held.images]).reshape(500, -1)
    own = digits.train.images.reshape(500, -1)
    np.testing.assert_array_equal(together[np.lexsort(together.T)], own[np.lexsort(own.T)])
    assert cnn.parts_of(trial(cnn), digits) == (digits.train, digits.test)

    def result(accuracy: float) -> object:
        return cnn.Result(accuracy, 1.0, 0.0, 1.0)

    done = {trial(cnn, part="validation", share=share): result(share) for share in (0.1, 0.3, 0.2)}
    done |= {
        trial(cnn, share=0.4): result(1.0),
        trial(cnn, part="validation", pooling="flatten", share=0.5): result(1.0),
        trial(cnn, part="validation", depth=4, share=0.6): result(1.0),
    }
    assert cnn.choose(done, cnn.DIGITS, "gap") == 0.3


def test_steps_are_tried_until_the_best_has_a_worse_one_on_both_sides(results: ModuleType, cnn: ModuleType) -> None:
    def tried(**accuracies: float) -> list[float]:
        """List the steps in their order; those that are not named are worse, the smaller ones most."""
        done: dict[object, object] = {}
        while (share := results.next_share(done, cnn.DIGITS, "gap")) is not None:
            accuracy = accuracies.get(f"share_{share}".replace(".", "_"), share / 100)
            error = 0.5 if np.isfinite(accuracy) else np.nan
            named = cnn.Result(accuracy if np.isfinite(accuracy) else 0.99, 1.0, error, 1.0)
            done[trial(cnn, part="validation", share=share)] = named
        return [each.share for each in done]

    assert tried(share_0_1=0.5) == [0.03, 0.1, 0.3]
    assert tried(share_0_03=0.5) == [0.03, 0.1, 0.3, 0.01]
    assert tried(share_0_3=0.5, share_1_0=0.6, share_3_0=0.4) == [0.03, 0.1, 0.3, 1.0, 3.0]
    assert tried(share_0_3=0.5, share_1_0=np.nan) == [0.03, 0.1, 0.3, 1.0]  # what diverges is worse
    assert tried(share_0_03=np.nan, share_0_1=np.nan, share_0_3=np.nan)[3:] == [0.01, 0.003]
    assert tried() == [0.03, 0.1, 0.3, 1.0, 3.0, 10.0]


def test_a_network_learns_and_its_error_is_that_of_its_outputs(cnn: ModuleType, digits: Dataset) -> None:
    few = replace(digits, train=Split(digits.train.images[:100], digits.train.known_labels[:100]))
    asked = trial(cnn, pooling="flatten", train=100, epochs=30, width=8)
    scale = cnn.output_scale(cnn.DIGITS, few, "flatten")
    found = cnn.train(asked, few, 1429.0, scale)
    assert found.accuracy > 0.6
    assert 0.05 < found.train_error < 0.6
    assert cnn.train(asked, few, 1429.0, scale).accuracy == found.accuracy  # the seed says all
    network = cnn.build(asked, few, scale)
    targets = one_hot_targets(few.train.known_labels, 10)
    untrained = cnn.outputs(network, few.train.images)
    assert np.square(untrained - targets).mean() > np.square(targets).mean()


def test_lines_of_files_come_back(results: ModuleType, cnn: ModuleType, tmp_path: Path) -> None:
    of = {name: value for name, value in vars(cnn.DIGITS).items() if name != "epochs"}
    kernels = [results.Kernel(**of, pooling="gap", accuracy=0.97, ridge=1e-2, train_error=0.25, seconds=3.0)]
    flows = [
        results.Flow(**of, pooling="gap", time=time, accuracy=accuracy, train_error=1 / time)
        for time, accuracy in ((10, 0.05), (100, 0.5), (np.inf, 0.9))
    ]
    done = {trial(cnn, seed=seed): results.Result(0.5 + seed / 10, 0.7, 0.25, 2.0) for seed in range(2)}
    done[trial(cnn, part="validation")] = results.Result(0.4, 0.7, 0.25, 2.0)
    done[trial(cnn, share=0.1)] = results.Result(0.1, 0.2, 0.9, 2.0)  # of a step that is not chosen: not in the table
    results.write_kernels(tmp_path, kernels, flows)
    results.write_networks(tmp_path, done)
    assert results.read_kernels(tmp_path) == kernels
    assert results.read_flows(tmp_path) == flows
    assert results.read_networks(tmp_path) == done
    assert results.read_networks(tmp_path / "nowhere") == {}
    (mean,) = results.means(done, cnn.DIGITS, "gap")
    assert (mean.width, mean.count, mean.seconds) == (16, 2, 2.0)
    assert (mean.accuracy, mean.deviation) == pytest.approx((0.55, 0.1 / np.sqrt(2)))
    accuracy, error = results.stopped(flows, np.sqrt(1000))
    assert (accuracy, error) == pytest.approx((0.275, 0.055))
    table = list(results.lines(kernels, flows, done, cnn.DIGITS))
    assert table[1].split() == ["CNN-GAP", "16", "2", "55.0%", "+-", "7.1", "25.0%", "2.0"]
    assert table[-2].split() == ["CNTK-GAP", "infinite", "90.0%", "0.0%", "at", "the", "end", "of", "training"]
    assert table[-1].split() == ["CNTK-GAP", "infinite", "97.0%", "25.0%", "3.0", "ridge", "1e-02"]
    alone = {asked: result for asked, result in done.items() if asked.seed == 0}
    assert np.isnan(results.means(alone, cnn.DIGITS, "gap")[0].deviation)  # not 0: it is not known
    trained = replace(cnn.DIGITS, trained_ends=True)
    results.write_networks(tmp_path, {replace(asked, trained_ends=True): done[asked] for asked in done} | done)
    both = results.read_networks(tmp_path)
    assert len(both) == 2 * len(done)
    assert len(results.means(both, trained, "gap")) == len(results.means(both, cnn.DIGITS, "gap")) == 1


@pytest.mark.parametrize("pooling", ["flatten", "gap"])
def test_trained_ends_are_trained_and_their_kernel_is_another_one(
    cnn: ModuleType, digits: Dataset, tmp_path: Path, pooling: str
) -> None:
    few = Split(digits.train.images[:30], digits.train.known_labels[:30])
    dataset = replace(digits, train=few, test=few)
    kernels, trained = [], []
    for ends in (False, True):
        study = replace(cnn.DIGITS, train=30, test=30, trained_ends=ends)
        kernel, flows = cnn.solve_kernel(study, dataset, pooling, 1.0, tmp_path / f"{ends}")
        assert kernel.trained_ends == ends
        run = cntk_pipeline.open_run(tmp_path / f"{ends}")
        kernels.append(run.kernel(part="train", missing="raise").compute())
        network = cnn.build(trial(cnn, pooling=pooling, trained_ends=ends), dataset, 1.0)
        trained.append(sum(each.requires_grad for each in network.parameters()))
        targets = one_hot_targets(few.known_labels, 10)
        ridge = kernel.ridge * np.trace(kernels[-1]) / 30
        reached = kernels[-1] @ np.linalg.inv(kernels[-1] + ridge * np.eye(30)) @ targets
        assert kernel.train_error == pytest.approx(
            np.square(reached - targets).mean() / np.square(targets).mean(), abs=1e-3
        )
        assert kernel.ridge == run.best.ridge
        assert (flows[-1].time, flows[-1].train_error) == (np.inf, 0.0)
    assert trained == ([6, 6] if pooling == "flatten" else [2, 6])  # weights and biases
    assert np.array_equal(*kernels) == (pooling == "flatten")


def test_the_readme_and_the_figure_show_the_results_of_the_repository(results: ModuleType) -> None:
    folder = FOLDER / "results"
    kernels, flows, done = results.read_kernels(folder), results.read_flows(folder), results.read_networks(folder)
    readme = (FOLDER / "README.md").read_text().splitlines()
    studies = [
        results.Study("digits", 8, 500, 500, 3, 30),
        *(results.Study("cifar10", pixels, 2000, 1017, 3, epochs) for pixels, epochs in ((8, 500), (16, 40), (8, 40))),
    ]
    for study in studies:
        table = [line.rstrip() for line in results.lines(kernels, flows, done, study)]
        assert len(table) >= (13 if study.epochs < 500 else 6)
        assert set(table) <= set(readme)
        for pooling in ("flatten", "gap"):
            if results.means(done, study, pooling):
                assert results.next_share(done, study, pooling) is None  # the best step is not the last one tried
    figure = results.draw(kernels, flows, done, study)
    left, middle, right = figure.axes
    assert {text.get_text() for text in left.get_legend().texts} == {
        *("CNN-V", "CNTK-V, at the end", "CNTK-V, ridge"),
        *("CNN-GAP", "CNTK-GAP, at the end", "CNTK-GAP, ridge"),
    }
    assert len(middle.lines) == 8  # flow, networks, end and ridge, of two architectures
    assert [axes.get_xlabel() for axes in (left, right)] == ["width", "width"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--pixels", "8"], "--pixels is the side of the images of CIFAR-10: give their folder as --data"),
        (["--data", "nowhere", "--pixels", "12"], "argument --pixels: invalid choice: 12"),
    ],
)
def test_pixels_belong_to_cifar10(
    cnn: ModuleType,
    options: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "argv", ["cnn.py", *options])
    with pytest.raises(SystemExit):
        cnn.main()
    assert message in capsys.readouterr().err


def test_the_script_compares_and_goes_on_where_it_was(tmp_path: Path) -> None:
    command = [sys.executable, str(FOLDER / "cnn.py"), "--epochs", "2", "--seeds", "1", "--out", str(tmp_path)]

    def call(*widths: str) -> str:
        return subprocess.run(
            [*command, "--widths", *widths], capture_output=True, text=True, timeout=280, check=True
        ).stdout

    first = call("4")
    assert first.count("part='test'") == 2  # one network of two architectures
    assert 6 <= first.count("part='validation'") <= 12
    lines = (tmp_path / "networks.csv").read_text().splitlines()
    second = call("4", "8")
    assert second.count("Trial(") == 2
    assert (tmp_path / "networks.csv").read_text().splitlines()[: len(lines)] == lines
    assert second.count("CNN-V ") == 2
    assert (tmp_path / "digits-8-500-500-3-2.svg").read_text().startswith("<svg")
    rows = [row.split(",") for row in (tmp_path / "kernels.csv").read_text().splitlines()]
    assert [row[6] for row in rows] == ["pooling", "flatten", "gap"]
    assert all(float(row[7]) > 0.9 for row in rows[1:])
