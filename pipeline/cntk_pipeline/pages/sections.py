"""The parts of a page: a figure as an image, the tables of its numbers, and what a run lacks."""

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

from cntk_pipeline.errors import CorruptTile, NotFinite, PipelineError
from cntk_pipeline.inference import Shown
from cntk_pipeline.models import Json
from cntk_pipeline.opened import OpenRun
from cntk_pipeline.plots import DISPLAYS, Display
from cntk_pipeline.plots.base import Chart
from cntk_pipeline.plots.style import svg_of
from cntk_pipeline.units import shell_word


@dataclass(frozen=True)
class Picture:
    """A figure of a page.

    Attributes
    ----------
    source : str
        The SVG as a data address, so that a browser saves it as a file.
    alt : str
        What it shows, for people who do not see it.
    """

    source: str
    alt: str


@dataclass(frozen=True)
class PagePart:
    """A part of a page.

    Attributes
    ----------
    key : str
        Names it in links.
    title : str
        Its heading.
    picture : Picture or None
        None where it has tables only.
    tables : tuple of Shown
        Of its numbers.
    numbers : Json
        The same for ``report.json``.
    """

    key: str
    title: str
    picture: Picture | None
    tables: tuple[Shown, ...]
    numbers: Json

    @classmethod
    def of(cls, chart: Chart) -> "PagePart":
        """Draw a chart."""
        source = f"data:image/svg+xml,{quote(svg_of(chart.plot()), safe=_SAFE)}"
        return cls(chart.key, chart.title, Picture(source, chart.alt), chart.tables(), chart.to_json())


_SAFE = " !$&'()*+,-./:;=?@[]^_`{|}~"
"""Characters that stay as they are in a data address between double quotes: a page is a third of its size in base64."""


@dataclass(frozen=True)
class Lacking:
    """A part that a page has not.

    Attributes
    ----------
    key : str
        Of the part.
    title : str
        Of the part.
    reason : str
        Why, and how to get it.
    """

    key: str
    title: str
    reason: str


def gather(
    run: OpenRun, displays: Sequence[type[Display]] = tuple(DISPLAYS.values())
) -> tuple[Sequence[PagePart], Sequence[Lacking]]:
    """Draw all figures that a run has; each other one is named with its reason: it was not asked for, or is damaged.

    A run at work changes between two figures; each shows what is there when it is drawn.
    """
    sections, lacking = [], []
    for display in displays:
        try:
            sections.append(PagePart.of(display.from_run(run)))
        except PipelineError as error:
            lacking.append(Lacking(display.key, display.title, reason(run, error)))
    return sections, lacking


def reason(run: OpenRun, error: PipelineError) -> str:
    """Say why a part of a page is not there, and what to do."""
    said = short(run, str(error))
    if isinstance(error, CorruptTile | NotFinite) and "cntk resume --verify" not in said:
        said += f". `cntk resume --verify {shell_word(run.path)}` computes it again"
    return said


def short(run: OpenRun, message: str) -> str:
    """Leave the path of a run out of a message about it: its page has it once, at the top."""
    for lead in (f"{run.path}: ", f"{run.path} has ", f"{run.path} was "):
        if message.startswith(lead):
            word = lead.removeprefix(str(run.path)).strip(": ")
            return f"the run {word} {message.removeprefix(lead)}" if word else message.removeprefix(lead)
    return message
