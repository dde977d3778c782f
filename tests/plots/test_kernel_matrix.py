"""The picture of a kernel, against the whole matrix, and the bytes that it reads."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgba
from support.figures import TRAIN, dense, drawn, numbers, pictures, run_of
from support.problems import stopped

from cntk_pipeline.config import RunConfig
from cntk_pipeline.errors import ConfigError, NotComputed
from cntk_pipeline.opened import OpenRun
from cntk_pipeline.plots import KernelMatrix, kernel_matrix
from cntk_pipeline.plots.style import MUTED
from cntk_pipeline.plots.tile_sample import Groups, choose_rows, group_sums
from cntk_pipeline.storage import LocalPath

NAME = "depth2-ntk"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> OpenRun:
    return run_of(tmp_path_factory.mktemp("kernel"), pictures())


def correlations(run: OpenRun, name: str = NAME) -> np.ndarray:
    kernel = dense(run, name)
    return kernel / np.sqrt(np.outer(np.diagonal(kernel), np.diagonal(kernel)))


def block_means(matrix: np.ndarray, groups: np.ndarray, count: int) -> np.ndarray:
    """Average over all pairs of different images, one group after the other."""
    means = np.full((count, count), np.nan)
    for row in range(count):
        for col in range(count):
            pairs = [(i, j) for i in np.flatnonzero(groups == row) for j in np.flatnonzero(groups == col) if i != j]
            if pairs:
                means[row, col] = np.mean([matrix[pair] for pair in pairs])
    return means


def test_rows_are_in_the_order_of_classes(run: OpenRun) -> None:
    display = KernelMatrix.from_run(run)
    labels = run.labels.train
    np.testing.assert_array_equal(display.rows, np.argsort(labels, kind="stable"))
    np.testing.assert_array_equal(display.row_groups, np.sort(labels))
    expected = correlations(run)[np.ix_(display.rows, display.rows)]
    np.testing.assert_allclose(display.reading.picture, expected, rtol=1e-6)
    assert (display.reading.missing, display.reading.tiles, display.images) == (0, 6, TRAIN)


def test_means_are_over_pairs_of_different_images(run: OpenRun) -> None:
    display = KernelMatrix.from_run(run)
    expected = block_means(correlations(run), run.labels.train, 3)
    np.testing.assert_allclose(display.reading.means, expected, rtol=1e-12)
    assert display.tables()[1].rows[1] == ("1", *(f"{mean:.3f}" for mean in expected[1]))


@pytest.mark.parametrize("strip", [1, 5, 16])
def test_tiles_are_taken_a_strip_at_a_time(run: OpenRun, monkeypatch: pytest.MonkeyPatch, strip: int) -> None:
    monkeypatch.setattr("cntk_pipeline.plots.tile_sample.STRIP_ROWS", strip)
    test_rows_are_in_the_order_of_classes(run)
    test_means_are_over_pairs_of_different_images(run)


def test_the_two_numbers_are_means_over_pairs(run: OpenRun) -> None:
    """Classes of unequal sizes: a mean of their means would be another one."""
    display, labels = KernelMatrix.from_run(run), np.asarray(run.labels.train)
    assert len(set(np.bincount(labels))) > 1
    same, below = labels[:, None] == labels, np.tri(TRAIN, k=-1, dtype=bool)
    expected = [correlations(run)[below & pairs].mean() for pairs in (same, ~same)]
    assert display.alike == pytest.approx(expected, rel=1e-12)
    rows = zip(("within a group", "between two groups"), (f"{mean:.4g}" for mean in expected), strict=True)
    assert display.tables()[0].rows == tuple(rows)


def test_the_picture_bears_the_names_of_the_classes(run: OpenRun) -> None:
    display = KernelMatrix.from_run(run)
    axes, bar = drawn(display).axes
    (image,) = axes.images
    np.testing.assert_allclose(np.asarray(image.get_array()), display.reading.picture)
    assert [text.get_text() for text in axes.get_yticklabels()] == ["0", "1", "2"]
    middles = [np.flatnonzero(display.row_groups == k).mean() for k in range(3)]
    assert list(axes.get_yticks()) == pytest.approx(middles)
    assert axes.get_xlabel() == f"{TRAIN} training images, by class"
    assert bar.get_ylabel() == "K(x, y) / sqrt(K(x, x) K(y, y))"
    assert len(kernel_matrix(run).axes) == 2


def read_bytes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the bytes that are read of chunks."""
    counts: list[int] = []
    read = LocalPath.read_bytes

    def counted(path: LocalPath, *arguments: int) -> bytes:
        content = read(path, *arguments)
        if "/kernel.zarr/" in str(path) and "/c/" in str(path):
            counts.append(len(content))
        return content

    monkeypatch.setattr(LocalPath, "read_bytes", counted)
    return counts


@pytest.mark.parametrize(("limit_tiles", "pieces"), [(1.5, [0]), (3.5, [0, 2]), (6, [0, 2]), (6.5, [0, 1, 2])])
def test_no_more_bytes_are_read_than_the_limit(
    run: OpenRun, monkeypatch: pytest.MonkeyPatch, limit_tiles: float, pieces: list[int]
) -> None:
    counts, tile = read_bytes(monkeypatch), 16 * 16 * 8 + 4
    limit = int(limit_tiles * tile)
    display = KernelMatrix.from_run(run, limit_bytes=limit)
    assert sum(counts) <= limit
    assert len([count for count in counts if count == tile]) == len(pieces) * (len(pieces) + 1) // 2
    images = np.concatenate([np.arange(16 * piece, min(16 * piece + 16, TRAIN)) for piece in pieces])
    assert display.images == len(images)
    part, labels = correlations(run)[np.ix_(images, images)], run.labels.train[images]
    np.testing.assert_allclose(display.reading.means, block_means(part, labels, 3), rtol=1e-12)
    expected = correlations(run)[np.ix_(display.rows, display.rows)]
    np.testing.assert_allclose(display.reading.picture, expected, rtol=1e-6)
    assert set(display.rows) <= set(images)
    said = f"of {TRAIN} training images" if len(pieces) == 3 else f"of {len(images)} of {TRAIN} training images"
    assert said in display.alt


def test_a_limit_below_one_tile_is_refused(run: OpenRun) -> None:
    with pytest.raises(
        ConfigError, match=r"a tile of .*train has 2,184 bytes, and limit_bytes is 2,183: give at least"
    ):
        KernelMatrix.from_run(run, limit_bytes=2183)
    assert KernelMatrix.from_run(run, limit_bytes=2184).images == 16


def test_missing_tiles_are_gaps(small_config: Callable[..., RunConfig]) -> None:
    run = stopped(small_config(readouts={"poolings": ["gap"], "kinds": ["ntk"]}), 3)
    display = KernelMatrix.from_run(run)
    whole = np.asarray(run.kernel().compute())
    missing = 6 - sum(
        bool(np.isfinite(whole[16 * row : 16 * row + 16, 16 * col : 16 * col + 16]).all())
        for row in range(3)
        for col in range(row + 1)
    )
    assert 0 < display.reading.missing < 6
    assert display.reading.missing >= missing  # a tile without the variances of its images is a gap too
    gaps = np.isnan(display.reading.picture)
    assert gaps.any()
    np.testing.assert_array_equal(gaps, gaps.T)
    assert np.isnan(whole[np.ix_(display.rows, display.rows)])[~gaps].sum() == 0
    axes = drawn(display).axes[0]
    assert axes.get_title() == f"{display.reading.missing} of 6 tiles are not computed yet and are left grey"
    assert "left grey." in display.alt
    colours = axes.images[0].to_rgba(axes.images[0].get_array())
    assert (colours[gaps] == np.array(to_rgba(MUTED))).all()


def test_a_sample_is_taken_where_the_diagonal_is(tmp_path: Path) -> None:
    run = run_of(tmp_path, pictures())
    (tmp_path / "run" / "kernel.zarr" / NAME / "train" / "c" / "0" / "0").unlink()
    display = KernelMatrix.from_run(run, limit_bytes=4 * (16 * 16 * 8 + 4))
    assert display.rows.min() == 16
    assert display.reading.missing == 0


def test_a_run_without_a_tile_says_so(small_config: Callable[..., RunConfig]) -> None:
    run = stopped(small_config(), 1)
    for part in ("train", "train_variance"):
        for chunk in (Path(str(run.path)) / "kernel.zarr" / "depth3-gap-ntk" / part / "c").rglob("*"):
            if chunk.is_file():
                chunk.unlink()
    with pytest.raises(NotComputed, match=r"no tile of depth3-gap-ntk is computed yet. No driver is at work"):
        KernelMatrix.from_run(run, "depth3-gap-ntk")


def test_without_variances_the_kernel_itself_is_shown(tmp_path: Path) -> None:
    run = run_of(tmp_path, pictures())
    for chunk in (tmp_path / "run" / "kernel.zarr" / NAME / "train_variance" / "c").iterdir():
        chunk.unlink()
    display = KernelMatrix.from_run(run)
    expected = dense(run, NAME)[np.ix_(display.rows, display.rows)]
    np.testing.assert_allclose(display.reading.picture, expected, rtol=1e-6)
    assert drawn(display).axes[1].get_ylabel() == "K(x, y)"


def test_tiles_without_the_variances_of_their_images_are_gaps(tmp_path: Path) -> None:
    run = run_of(tmp_path, pictures())
    expected = correlations(run)
    (tmp_path / "run" / "kernel.zarr" / NAME / "train_variance" / "c" / "1").unlink()
    display = KernelMatrix.from_run(run)
    assert display.reading.missing == 3
    lost = (display.rows >= 16) & (display.rows < 32)
    expected[16:32, :] = expected[:, 16:32] = np.nan
    np.testing.assert_allclose(display.reading.picture, expected[np.ix_(display.rows, display.rows)], rtol=1e-6)
    assert np.isnan(display.reading.picture[lost]).all()


def test_a_regression_is_ordered_by_its_target(tmp_path: Path) -> None:
    run = run_of(tmp_path, numbers(2), data={"task": "regression"})
    display = KernelMatrix.from_run(run)
    target = run.labels.train[:, 0]
    assert (np.diff(target[display.rows]) >= 0).all()
    groups = np.argsort(np.argsort(target)) // 12
    np.testing.assert_array_equal(display.row_groups, groups[display.rows])
    np.testing.assert_allclose(display.reading.means, block_means(correlations(run), groups, 5), rtol=1e-12)
    assert display.groups[0] == f"{target.min():.2g} to {np.sort(target)[11]:.2g}"
    axes = drawn(display).axes[0]
    assert axes.get_xlabel() == "60 training images, by target"
    assert [text.get_text() for text in axes.get_xticklabels()] == [""] * 5


def test_several_classes_an_image_stay_in_their_order(tmp_path: Path) -> None:
    data = pictures()
    labels = np.random.default_rng(0).integers(0, 2, (TRAIN + len(data["x_test"]), 4))
    data |= {"y_train": labels[:TRAIN], "y_test": labels[TRAIN:]}
    run = run_of(tmp_path, data, data={"task": "multilabel"})
    display = KernelMatrix.from_run(run)
    np.testing.assert_array_equal(display.rows, np.arange(TRAIN))
    assert drawn(display).axes[0].get_xlabel() == f"{TRAIN} training images, in their stored order"
    assert len(display.tables()) == 1


def test_equally_many_images_of_each_group_are_chosen() -> None:
    of = np.array([0] * 50 + [1] * 3 + [2] * 20)
    rows = choose_rows(Groups(("a", "b", "c"), "by class", of, np.arange(73)), np.arange(73), 30)
    assert np.bincount(of[rows]).tolist() == [10, 3, 10]
    assert (np.diff(of[rows]) >= 0).all()
    assert (rows[0], rows[9]) == (0, 49)


def test_more_groups_than_rows_lose_some_groups() -> None:
    of = np.arange(1000)
    assert len(choose_rows(Groups(tuple(map(str, of)), "by class", of, of), of, 360)) == 360


def test_group_sums_are_those_of_masks() -> None:
    rng = np.random.default_rng(0)
    values, rows, cols = rng.standard_normal((7, 5)), rng.integers(0, 4, 7), np.array([0, 3, 3, 0, 1])
    expected = [[values[np.ix_(rows == a, cols == b)].sum() for b in range(4)] for a in range(4)]
    np.testing.assert_allclose(group_sums(values, rows, cols, 4), expected, atol=1e-12)
