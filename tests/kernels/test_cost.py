"""What a pair costs: counted, and measured on a part of it."""

import time

import numpy as np
import pytest

from cntk_pipeline.kernels import CpuEvaluator, cost, lower, measure_pair, quick_part
from cntk_pipeline.kernels.cost import SAMPLE_SECONDS, guess_pair_seconds, part_of
from cntk_pipeline.kernels.timing import time_pairs
from cntk_pipeline.layers import presets


@pytest.fixture(autouse=True)
def samples_of_users(monkeypatch):
    monkeypatch.setattr("cntk_pipeline.kernels.timing.SAMPLE_SECONDS", SAMPLE_SECONDS)


def program(size, depth=3, pooling="gap"):
    return lower([(presets.cntk(depth, pooling), "ntk")], (size, size, 1))


@pytest.mark.parametrize("share", [0, 0.01, 0.3, 1])
@pytest.mark.parametrize("pooling", ["gap", "lap2", "flatten"])
def test_a_part_has_about_its_share_of_the_entries_and_always_offset_zero(share, pooling):
    whole = program(20, pooling=pooling)
    part = part_of(whole, share)
    first = part.stages[0].visits
    assert first.offsets[0].tolist() == [0, 0]
    assert first.marks.shape == (len(part.stages[0].operations), len(first.offsets))
    assert len(np.unique(first.offsets, axis=0)) == len(first.offsets)
    least = part_of(whole, 0).plane_entries
    expected = least + share * (whole.plane_entries - least)
    assert part.plane_entries == pytest.approx(expected, rel=0.35, abs=3 * 20 * 20)  # some planes
    assert (part.plane_entries == whole.plane_entries) == (share == 1 or pooling == "flatten")


def test_a_part_computes_without_an_error_and_less():
    images = np.random.default_rng(0).standard_normal((3, 20, 20, 1))
    whole, part = (CpuEvaluator(some).evaluate(images)[0] for some in (program(20), part_of(program(20), 0.1)))
    assert np.all(np.abs(part) < np.abs(whole))


@pytest.mark.slow
def test_a_pair_of_large_pooled_images_is_forecast_in_a_moment():
    # 16 pairs of 224 x 224 images, which are computed at once, take half an hour with 11 layers.
    images = np.random.default_rng(0).standard_normal((2, 224, 224, 3)).astype(np.float32)
    large = lower([(presets.cntk(11, "gap"), "ntk")], (224, 224, 3))
    measure_pair(program(8, 11), "float32", False, images[:, :8, :8, :1])  # compiles
    began = time.thread_time()  # of this core: other programs have theirs
    found = measure_pair(large, "float32", False, images)
    assert time.thread_time() - began < 15
    assert 0 < found.share < 0.01
    guess = guess_pair_seconds(large, "float32", False)
    assert guess / 10 < found.seconds < 10 * guess


@pytest.mark.slow
def test_parts_that_show_no_planes_leave_the_rest_to_counting(monkeypatch):
    images = np.random.default_rng(0).standard_normal((2, 8, 8, 1)).astype(np.float32)
    small = program(8)
    for name, value in (("LONGEST_WHOLE_SECONDS", 0), ("SAMPLE_SECONDS", 1e-15), ("CLEARLY_MORE", 0)):
        monkeypatch.setattr(cost, name, value)
    found = measure_pair(small, "float32", False, images)
    least = part_of(small, 0).plane_entries
    assert found.share == least / small.plane_entries
    counted = (1 - found.share) * guess_pair_seconds(small, "float32", False)
    assert counted < found.seconds < counted + 0.1


@pytest.mark.slow
def test_the_forecast_from_a_part_is_that_of_the_whole():
    images = np.random.default_rng(0).standard_normal((2, 48, 48, 1)).astype(np.float32)
    net = program(48)
    assert quick_part(net, "float32", False) is net
    assert quick_part(net, "float64", True) is not net
    whole = measure_pair(net, "float64", False, images)  # measured in part
    assert whole.share < 1
    engine = CpuEvaluator(net, "float64")
    seconds = []
    for _ in range(2):
        began = time.thread_time()
        engine.evaluate(images[:1], images[np.zeros(16, int)])
        seconds.append((time.thread_time() - began) / 16)
    assert min(seconds) / 2 < whole.seconds < 2 * min(seconds)


def test_small_pairs_are_measured_whole():
    images = np.ones((2, 8, 8, 1), np.float32)
    assert measure_pair(program(8), "float32", False, images).share == 1


def test_right_images_lack_what_the_left_ones_lack() -> None:
    sample = np.random.default_rng(0).standard_normal((3, 1, 6, 2))
    sample[1, 0, 4:] = sample[2, 0, 1:] = np.nan
    pairs: list[tuple[np.ndarray, np.ndarray]] = []
    time_pairs(lambda left, right: pairs.append((left, right)) or left, sample, 4, 8)
    right = pairs[-1][1]
    rows = np.arange(len(right)) % 3
    np.testing.assert_array_equal(np.isnan(right), np.isnan(sample)[rows])
    assert 0.5 < np.nanstd(right) / np.nanstd(sample) < 2
