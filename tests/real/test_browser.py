"""Pages as people see them, in Debian's Chromium, on a phone and on a screen, light and dark."""

from pathlib import Path
from typing import Any

import pytest
from support import pictured
from support.browser import SCHEMES, WIDTHS, look

from cntk_pipeline.opened import OpenRun
from cntk_pipeline.pages import make_comparison, make_report_page


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[OpenRun]:
    """A run with all results of inference, and a smaller one."""
    folder = tmp_path_factory.mktemp("runs")
    everything = {
        "leave_one_out": True, "learning_curve": True, "posterior_variance": True, "spectrum": 3,
        "ensemble": [1.0, 10.0],
    }  # fmt: skip
    names = ("a class with a long name", "bar", "dot")
    readouts = {"kinds": ["ntk", "nngp"], "poolings": ["flatten"]}
    big = pictured.start(folder / "everything", pictured.picture_data(names), inference=everything, readouts=readouts)
    return [big, pictured.start(folder / "small", pictured.picture_data(names), readouts={"depths": [3]})]


@pytest.fixture(scope="module")
def pages(runs: list[OpenRun], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    made = {"report": make_report_page(runs[0]), "compare": make_comparison(runs)}
    for name, page in made.items():
        (folder / f"{name}.html").write_text(page.html)
    return {name: folder / f"{name}.html" for name in made}


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["report", "compare"])
def test_a_page_is_whole_and_readable(
    chromium: Any, pages: dict[str, Path], name: str, width: int, scheme: str
) -> None:
    assert look(chromium, pages[name].as_uri(), width, scheme, name).faults == []


def test_faults_of_a_page_are_seen(chromium: Any, tmp_path: Path) -> None:
    page = tmp_path / "faulty.html"
    page.write_text(
        "<!doctype html><html lang=en><title>x</title><main><h1>x</h1>"
        "<img src='data:image/png;base64,xx' alt='broken'><p style='color:#bbb;background:#fff'>pale</p>"
        "<div style='width:5em;overflow:hidden;white-space:nowrap'>a text that is cut at its end</div>"
        "<div style='width:2000px'>wide</div></main><script>throw new Error('thrown')</script>"
    )
    seen = look(chromium, page.as_uri(), 390, "light", "faulty")
    assert any("thrown" in each for each in seen.console)
    assert {each.partition(":")[0] for each in seen.unfit} == {"the page is wider than the screen", "cut", "no image"}
    assert any(each.startswith("color-contrast") for each in seen.barriers)


def test_a_figure_is_enlarged_by_keyboard_and_closed_again(chromium: Any, pages: dict[str, Path]) -> None:
    page = chromium.new_page(viewport={"width": 390, "height": 800})
    page.goto(pages["report"].as_uri())
    page.locator("figure button").first.focus()
    page.keyboard.press("Enter")
    assert page.locator("dialog[open] img").count() == 1
    page.keyboard.press("Escape")
    page.locator("dialog").wait_for(state="detached")  # browsers tell of a close a moment later
    page.close()
