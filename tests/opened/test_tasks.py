"""Runs of regressions and of several classes an image, and of tables and pictures, predict new samples alike."""

import csv
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.problems import Recorder
from typer.testing import CliRunner

import cntk_pipeline
from cntk_pipeline.cli import main as cli
from cntk_pipeline.datasets.unlabelled import open_images
from cntk_pipeline.errors import ConfigError, DataError
from cntk_pipeline.opened import OpenRun
from cntk_pipeline.opened.new_images import like_of
from cntk_pipeline.opened.predict_on_cluster import Question, predict_images

Start = Callable[..., OpenRun]

VECTORS = {"network": {"preset": "fully_connected"}, "readouts": {"depths": [2]}, "cluster": {"kind": "serial"}}
RNG = np.random.default_rng(0)
X = RNG.standard_normal((30, 4))
TARGETS = np.stack([X @ [1.0, 2.0, 0.0, 0.5] + 7, X[:, 0] ** 2], 1)


@pytest.fixture
def start(tmp_path: Path) -> Start:
    def begin(data: dict[str, Any] | None, **overrides: Any) -> OpenRun:
        place = {"store__path": tmp_path / "run", "solve__ridges": [0.1], "progress": False}
        return cntk_pipeline.run(VECTORS, data=data, **(place | overrides))

    return begin


def predict(run: OpenRun, place: Path) -> Any:
    images = open_images(place, like_of(run.directory))
    return predict_images(run.directory, images, Question(), Recorder(), threading.Event())


def exported(run: OpenRun, folder: Path) -> list[dict[str, str]]:
    done = CliRunner().invoke(cli.app, ["export", str(run.path), "--out", str(folder), "--format", "csv"])
    assert done.exit_code == 0, done.exception
    (path,) = folder.glob("predictions-*.csv")
    return list(csv.DictReader(path.open()))


def test_a_regression_predicts_numbers(start: Start, tmp_path: Path) -> None:
    data = {"x_train": X[:20], "y_train": TARGETS[:20], "x_test": X[20:], "y_test": TARGETS[20:]}
    run = start(data)
    np.testing.assert_array_equal(run.labels.test, TARGETS[20:])
    means = run.predictions()
    np.testing.assert_array_equal(run.decision_function(X[20:], say=None), means)
    np.testing.assert_array_equal(run.predict(X[20:], say=None), means)
    assert abs(means[:, 0].mean() - 7) < 3  # the mean of the targets is in it
    assert run.metrics[0].r2 == pytest.approx(
        1 - np.mean(((means - TARGETS[20:]) ** 2).sum(0) / ((TARGETS[20:] - TARGETS[20:].mean(0)) ** 2).sum(0))
    )
    np.save(tmp_path / "new.npy", X[20:])
    np.testing.assert_array_equal(predict(run, tmp_path / "new.npy").scores, means)
    out = tmp_path / "out.csv"
    assert (
        CliRunner().invoke(cli.app, ["predict", str(run.path), str(tmp_path / "new.npy"), "--out", str(out)]).exit_code
        == 0
    )
    rows = list(csv.DictReader(out.open()))
    assert list(rows[0]) == ["image", "0", "1"]
    assert [[float(row["0"]), float(row["1"])] for row in rows] == means.tolist()
    rows = exported(run, tmp_path / "csv")
    assert list(rows[0]) == ["image", "0", "1", "predicted_0", "predicted_1"]
    assert [float(row["predicted_1"]) for row in rows] == means[:, 1].tolist()
    assert run.to_xarray()["predictions"].dims[-1] == "target"
    assert "2 targets" in repr(run)
    with pytest.raises(ConfigError, match="has no probabilities: they are of a classification"):
        run.predict_proba(X, say=None)


def test_several_classes_an_image_are_each_predicted(start: Start, tmp_path: Path) -> None:
    labels = (TARGETS > [7, 1]).astype(int)
    data = {"x_train": X[:20], "y_train": labels[:20], "x_test": X[20:], "classes": np.array(["big", "far"])}
    run = start(data)
    assert run.labels.test is None
    means = run.predictions()
    np.testing.assert_array_equal(run.predict(X[20:], say=None), means > 0.5)
    rows = exported(run, tmp_path / "csv")
    assert list(rows[0]) == ["image", "predicted", "score_big", "score_far"]
    names = np.array(["big", "far"])
    assert [row["predicted"] for row in rows] == [";".join(names[mean > 0.5]) for mean in means]
    assert "test_label" not in run.to_xarray().coords


def test_a_table_is_encoded_like_that_of_the_run(start: Start, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    lines = [
        f"{size:.3f},{street},{kind},{'dear' if size > 0 else 'cheap'}"
        for size, street, kind in zip(
            rng.standard_normal(30), rng.choice(["elm", "oak", "ash"], 30), rng.integers(0, 9, 30), strict=True
        )
    ]
    (tmp_path / "houses.csv").write_text("size,street,kind,label\n" + "\n".join(lines) + "\n")
    run = start(None, data__source="table", data__path=tmp_path / "houses.csv", data__train=20)
    # Other columns in another order, and no label; only two of the three streets.
    kept = [line.split(",") for line in lines[20:]]
    (tmp_path / "new.csv").write_text("kind,extra,street,size\n" + "".join(f"{k},0,{s},{z}\n" for z, s, k, _ in kept))
    found = predict(run, tmp_path / "new.csv")
    np.testing.assert_array_equal(found.scores, run.predictions())
    assert set(found.predicted) <= {"dear", "cheap"}
    for text, message in (
        ("street,size\nelm,1\n", "expected a column for the feature 'kind', got street, size"),
        ("street,size,kind\nelm,1,2\nbirch,1,2\n", r"column 'street': expected one of .*, got 'birch' in row 1"),
        ("street,size,kind\nelm,x,2\n", "column 'size': expected numbers, got string"),
        ("street,size,kind\nelm,1,2\nelm,,2\n", "expected finite pixels, got nan in image 1"),
    ):
        (tmp_path / "bad.csv").write_text(text)
        with pytest.raises(DataError, match=message):
            predict(run, tmp_path / "bad.csv")


def test_pictures_are_resized_like_those_of_the_run(start: Start, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    for part, count in (("train", 12), ("test", 6)):
        for number in range(count):
            path = tmp_path / f"pets/{part}/{'cat' if number % 2 else 'dog'}/{number:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (6 + number, 7, 3), np.uint8)).save(path)
    run = cntk_pipeline.run(
        {
            "data": {"source": "folder", "path": str(tmp_path / "pets"), "resize": [5, 4], "mode": "L"},
            "network": {"preset": "cntk"},
            "readouts": {"depths": [3], "poolings": ["gap"]},
            "solve": {"ridges": [0.1]},
            "cluster": {"kind": "serial"},
            "store": {"path": str(tmp_path / "pictures")},
        },
        progress=False,
    )
    found = predict(run, tmp_path / "pets/test")
    order = [f"{'dog' if number % 2 == 0 else 'cat'}/{number:02d}.png" for number in range(6)]
    assert sorted(found.names) == sorted(order)
    by_name = dict(zip(found.names, found.scores, strict=True))
    own = run.predictions()
    for scores in own:  # the run takes the classes in turn
        assert any(np.allclose(scores, mine, atol=1e-12) for mine in by_name.values())


def test_channels_come_first_where_they_do_in_the_run(tmp_path: Path) -> None:
    images = np.random.default_rng(4).standard_normal((30, 3, 6, 5))
    tables = VECTORS | {"network": {"preset": "cntk"}, "readouts": {"depths": [3], "poolings": ["gap"]}}
    data = {"x_train": images[:20], "y_train": np.arange(20) % 2, "x_test": images[20:]}
    run = cntk_pipeline.run(
        tables,
        data=data,
        progress=False,
        data__layout="channels_first",
        store__path=tmp_path / "run",
        solve__ridges=[0.1],
    )
    np.testing.assert_array_equal(run.decision_function(images[20:], say=None), run.predictions())
    np.save(tmp_path / "new.npy", images[20:])
    np.testing.assert_array_equal(predict(run, tmp_path / "new.npy").scores, run.predictions())
