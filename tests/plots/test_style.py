"""How figures look in a page."""

import sys
import xml.etree.ElementTree as ElementTree

import matplotlib
import pytest

from cntk_pipeline.errors import ConfigError
from cntk_pipeline.opened import OpenRun
from cntk_pipeline.plots import Accuracy, ConfusionMatrix
from cntk_pipeline.plots.style import COLOURS, DARK_INK, DARK_PAPER, INK, MUTED, PAPER, styled, svg_of


def luminance(colour: str) -> float:
    """WCAG 2.1's relative luminance."""
    channels = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("colour", [*COLOURS, MUTED])
def test_lines_are_seen_on_a_light_and_on_a_dark_page(colour: str) -> None:
    assert contrast(colour, PAPER) >= 3
    assert contrast(colour, DARK_PAPER) >= 3


def test_text_is_read_on_a_light_and_on_a_dark_page() -> None:
    assert contrast(INK, PAPER) >= 7
    assert contrast(DARK_INK, DARK_PAPER) >= 7


def test_a_figure_of_a_page_is_text_without_a_background_and_always_the_same(pictured_run: OpenRun) -> None:
    display = Accuracy.from_run(pictured_run)
    svg = svg_of(display.plot())
    assert svg == svg_of(display.plot())
    root = ElementTree.fromstring(svg)
    words = {text.text for text in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {"depth", "gap-ntk"} <= words
    assert INK not in svg.partition("</style>")[2]
    assert "prefers-color-scheme:dark" in svg


def test_names_of_classes_are_no_formulas_and_no_markup(pictured_run: OpenRun) -> None:
    found = ConfusionMatrix.from_run(pictured_run)
    names = ("<script>alert(1)</script>", "$x^2$ \\frac", "&amp;\"'")
    svg = svg_of(ConfusionMatrix(found.system, names, found.counts).plot())
    assert "<script" not in svg
    words = {text.text for text in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")}
    assert {"$x^2$ \\frac", "&amp;\"'"} <= words


def test_settings_of_a_user_are_left_alone(pictured_run: OpenRun) -> None:
    before = dict(matplotlib.rcParams)
    Accuracy.from_run(pictured_run).plot()
    assert dict(matplotlib.rcParams) == before


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigError, match=r"figures need matplotlib: pip install 'cntk-pipeline\[report\]'"), styled():
        pass
