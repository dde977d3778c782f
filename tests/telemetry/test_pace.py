"""Rates and times left, against processes whose end is known.

Seen to fail: with ranges of half an error and with ranges of the whole rate, with a window that keeps all changes, and
with a stall that is not seen.
"""

import itertools

import numpy as np
import pytest

from cntk_pipeline.telemetry.pace import WINDOW_CHANGES, Pace, Range, rate_text


def observed(moments: "np.ndarray | list[float]") -> Pace:
    """Return the pace of tiles that are finished at some moments, the first one at the beginning."""
    pace = Pace()
    for done, moment in enumerate(moments):
        pace.observe(float(moment), done)
    return pace


def test_an_even_pace_has_no_spread() -> None:
    pace = observed(np.arange(0, 50, 0.5))
    assert pace.rate == pytest.approx(2.0)
    left = pace.seconds_left(100)
    assert left is not None
    assert (left.low, left.high) == (pytest.approx(50.0), pytest.approx(50.0))


def test_nothing_is_said_before_the_third_change() -> None:
    assert observed([0, 1, 2]).rate is None
    assert observed([0, 1, 2]).seconds_left(5) is None
    assert observed([0, 1, 2, 3]).rate == pytest.approx(1.0)


def test_workers_in_step_are_no_spread() -> None:
    """Two workers finish at almost the same time; pieces between single changes would differ sixty times."""
    pace = observed(sorted(itertools.chain.from_iterable((3 * k, 3 * k + 0.05) for k in range(30))))
    left = pace.seconds_left(20)
    assert left is not None
    assert 24 < left.low < 30 < left.high < 40


def test_the_end_is_within_the_range_as_often_as_two_errors_promise() -> None:
    """Four workers with tiles of random length, 300 times; the truth is when they end, and one in ten may miss it."""
    rng, hits, widths = np.random.default_rng(3), 0, []
    for _ in range(300):
        ends = np.sort(np.concatenate([np.cumsum(rng.gamma(4.0, 1.0, 60)) for _ in range(4)]))[:200]
        pace = observed([0.0, *ends[:100]])
        left = pace.seconds_left(100)
        assert left is not None
        truth = ends[199] - ends[99]
        hits += left.low <= truth <= left.high
        widths.append((left.high - left.low) / truth)
    assert hits / 300 > 0.9
    assert np.median(widths) < 0.4


def test_the_pace_is_that_of_the_last_two_minutes() -> None:
    pace = observed([*np.arange(0, 1000, 10.0), *np.arange(1000, 1200, 1.0)])
    assert pace.rate == pytest.approx(1.0, rel=0.05)


def test_slow_tiles_are_counted_over_the_last_changes() -> None:
    pace = observed(np.arange(0, 100 * 600, 600.0))
    assert pace.rate == pytest.approx(1 / 600)
    assert len(pace._changes) == WINDOW_CHANGES + 1


def test_a_stall_slows_the_pace() -> None:
    pace = observed(np.arange(0, 50, 1.0))
    before = pace.rate
    pace.observe(149.0, 49)
    assert before == pytest.approx(1.0)
    assert pace.rate == pytest.approx(WINDOW_CHANGES / (149 - 29))


def test_an_amount_that_falls_begins_anew() -> None:
    pace = observed(np.arange(0, 50, 1.0))
    pace.observe(51.0, 10)
    assert pace.rate is None


@pytest.mark.parametrize(
    ("left", "text"),
    [
        (Range(40, 55), "40 to 55 s"),
        (Range(200, 201), "about 3 min"),
        (Range(240, 360), "4 to 6 min"),
        (Range(3600, 7200), "1.0 to 2.0 h"),
        (Range(86400, 3 * 86400), "1.0 to 3.0 days"),
    ],
)
def test_a_range_is_written_in_one_unit(left: Range, text: str) -> None:
    assert str(left) == text


def test_a_rate_is_written_in_tiles_of_a_suitable_time() -> None:
    assert [rate_text(rate) for rate in (None, 0.0, 28.7, 0.5, 1 / 600)] == [
        "",
        "",
        "28.7 tiles/s",
        "30 tiles/min",
        "6 tiles/h",
    ]
