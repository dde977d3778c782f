"""Runs of images with absent pixels: from an archive to predictions for new ones."""

from pathlib import Path

import numpy as np
import pytest
from support.figures import dense, workflow

import cntk_pipeline
from cntk_pipeline import kernel_matrix
from cntk_pipeline.errors import DataError
from cntk_pipeline.layers import LAYERS, spelling
from cntk_pipeline.opened.pictures import as_picture, read_samples

TABLES = [
    {"layer": "Masked"},
    {"layer": "Conv", "filter_shape": 3, "b_std": 0.2},
    {"layer": "Relu"},
    {"layer": "AvgPool", "window_shape": 2, "normalize_edges": True},
    {"layer": "Conv", "filter_shape": 3, "strides": 2},
    {"layer": "Relu"},
    {"layer": "GlobalAvgPool"},
    {"layer": "Dense"},
]


def draw_images(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw waves of two directions, a region cut out of each."""
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 2, count)
    x = rng.normal(0, 0.3, (count, 9, 8, 2))
    rows, columns = np.mgrid[:9, :8]
    x += np.where(labels[:, None, None], np.sin(rows), np.sin(columns))[..., None]
    for image in x:
        row, column = rng.integers(0, 5, 2)
        image[row : row + 4, column : column + 3] = np.nan
    return x, labels


def table_of(folder: Path, parts: dict[str, np.ndarray], layers: list[dict[str, object]]) -> dict[str, object]:
    np.savez(folder / "images.npz", **parts)
    table = workflow(
        data={"source": "npz", "path": str(folder / "images.npz")},
        network={"layers": layers},
        store={"path": str(folder / "run")},
    )
    del table["network"]["preset"], table["readouts"]["depths"]
    return table


def test_a_run_of_images_with_absent_pixels_has_the_kernel_of_its_network_and_predicts_new_ones(tmp_path: Path) -> None:
    x, labels = draw_images(30)
    parts = {"x_train": x[:20], "y_train": labels[:20], "x_test": x[20:], "y_test": labels[20:]}
    run = cntk_pipeline.run(table_of(tmp_path, parts, TABLES), progress=False)
    # Mean and deviation are of the pixels that are there.
    mean, std = np.nanmean(x[:20], (0, 1, 2)), np.nanstd(x[:20], (0, 1, 2))
    expected = kernel_matrix(spelling.read(TABLES, LAYERS), (x[:20] - mean) / std, dtype="float64")
    (readout,) = run.readouts
    np.testing.assert_allclose(dense(run, readout), expected, rtol=1e-12)
    found = run.decision_function(x[20:], readout, say=None)
    np.testing.assert_array_equal(found, run.predictions(readout))
    assert run.directory.stored_data.damaged() == []
    (sample,) = read_samples(run.directory, "train", [0])
    picture = as_picture(sample)
    assert (picture[np.isnan(x[0]).all(-1)] == 255).all()
    assert picture.std() > 1


def test_a_run_refuses_absent_pixels_that_its_network_does_not_take_with_the_place(tmp_path: Path) -> None:
    x, labels = draw_images(12)
    whole = np.nan_to_num(x)
    broken = whole.copy()
    broken[2, 3, 1] = np.nan
    parts = {"x_train": whole, "y_train": labels, "x_test": np.roll(broken, 1, 0), "y_test": np.roll(labels, 1)}
    table = table_of(tmp_path, parts, TABLES[1:])
    said = r"test images: .* got nan in image 3 at \(row, column, channel\) = \(3, 1, 0\); .*Masked.* first in"
    with pytest.raises(DataError, match=said):
        cntk_pipeline.run(table, progress=False)
    assert not (tmp_path / "run").exists()
    parts["x_test"] = np.roll(whole, 1, 0)
    run = cntk_pipeline.run(table_of(tmp_path, parts, TABLES[1:]), progress=False)
    with pytest.raises(DataError, match=r"got nan in image 2 at index \(3, 1, 0\)"):
        run.decision_function(broken, *run.readouts, say=None)
