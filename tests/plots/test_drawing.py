"""Ticks of logarithmic axes, and legends below the axes."""

import math

import pytest
from matplotlib.figure import Figure
from support.figures import legend_of, ticks_of

from cntk_pipeline.plots.drawing import legend_below, log_places, log_ticks, number_text, tick_at, tick_log


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (1e-7, 1.0, [1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.1, 1.0]),
        (0.02, 0.5, [0.02, 0.05, 0.1, 0.2, 0.5]),
        (0.31, 0.92, [0.4, 0.5, 0.6, 0.7, 0.8, 0.9]),
        (0.0531, 0.0572, [0.054, 0.055, 0.056, 0.057]),
    ],
)
def test_ticks_are_round_numbers_in_any_range(low: float, high: float, ticks: list[float]) -> None:
    assert log_ticks(low, high) == pytest.approx(ticks)


def test_zero_and_infinity_alone_have_places() -> None:
    assert log_places([0.0, math.inf]) == {0.0: 0.1, math.inf: 10.0}


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (0.25, "0.25"), (5e-7, "5e-7"), (1e6, "1e6"), (12345.0, "12,345")]
)
def test_numbers_are_short(value: float, text: str) -> None:
    assert number_text(value) == text


def test_a_logarithmic_axis_has_its_ticks_and_no_others() -> None:
    axes = Figure().add_subplot()
    axes.set_xscale("log")
    places = log_places([0.0, 1.0, 1000.0])
    axes.plot(list(places.values()), [1, 2, 3])
    tick_log(axes.xaxis, places)
    assert ticks_of(axes, "x") == {0.1: "0", 1.0: "1", 10.0: "10", 100.0: "100", 1000.0: "1,000"}
    assert list(axes.xaxis.get_minorticklocs()) == []


def test_a_logarithmic_axis_has_ticks_at_given_values_alone() -> None:
    axes = Figure().add_subplot()
    axes.set_xscale("log")
    axes.plot([32, 2048], [1, 2])
    tick_at(axes.xaxis, [32, 256, 2048])
    assert ticks_of(axes, "x") == {32: "32", 256: "256", 2048: "2,048"}
    assert list(axes.xaxis.get_minorticklocs()) == []


def test_a_legend_names_each_series_once() -> None:
    figure = Figure()
    for axes in figure.subplots(2):
        axes.plot([1, 2], label="a")
        axes.plot([2, 1], label="b")
    legend_below(figure)
    assert legend_of(figure) == ["a", "b"]
    empty = Figure()
    empty.add_subplot()
    legend_below(empty)
    assert empty.legends == []
