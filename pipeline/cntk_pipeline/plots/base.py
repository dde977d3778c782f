"""What each figure of a run has: its numbers, a drawing of them, a text in the drawing's place, and tables."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from cntk_pipeline.errors import ConfigError
from cntk_pipeline.inference import Shown
from cntk_pipeline.inputs import short_repr
from cntk_pipeline.models import Json
from cntk_pipeline.opened import OpenRun
from cntk_pipeline.opened.systems import AskedReadout
from cntk_pipeline.plots.style import new_figure, styled
from cntk_pipeline.units import python_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH = 6.4
"""Width of a figure in inches: 640 points of a screen, which a phone shows at half its size."""


@dataclass(frozen=True)
class Chart(ABC):
    """The numbers of a figure, and how it is drawn.

    Subclasses are frozen dataclasses whose fields are numbers, texts, arrays, and tuples of these.

    Attributes
    ----------
    key : str
        Names the chart in ``report.json`` and in links to its section.
    title : str
        Its heading.
    """

    key: ClassVar[str]
    title: ClassVar[str]

    @property
    @abstractmethod
    def alt(self) -> str:
        """What the figure shows, in a sentence or two, for people who do not see it."""

    @property
    def height(self) -> float:
        """The height of the figure in inches."""
        return 3.6

    @abstractmethod
    def draw(self, figure: "Figure") -> None:
        """Draw into an empty figure of the width `WIDTH` and the height `height`."""

    def tables(self) -> tuple[Shown, ...]:
        """Return the tables beside the figure: the numbers that it shows."""
        return ()

    def plot(self) -> "Figure":
        """Return a new figure.

        Raises
        ------
        ConfigError
            If matplotlib is not installed.
        """
        with styled():
            figure = new_figure(WIDTH, self.height)
            self.draw(figure)
            return figure

    def to_json(self) -> Json:
        """Return the numbers as plain values; a number that is not finite is None."""
        return {field.name: plain(getattr(self, field.name)) for field in fields(self)}


@dataclass(frozen=True)
class Display(Chart):
    """A chart of one run, in the manner of scikit-learn's displays."""

    def __init_subclass__(cls) -> None:
        """Have every display refuse what is no open run, such as its path, before it reads from it."""
        super().__init_subclass__()
        if "from_run" not in cls.__dict__:  # it inherits one that refuses already
            return
        read = cls.__dict__["from_run"].__func__

        @wraps(read)
        def of_open_run(kind: type[Self], run: Any, *values: Any, **named: Any) -> Any:
            if not isinstance(run, OpenRun):
                path = run if isinstance(run, str | Path) else "runs/name"
                raise ConfigError(
                    f"expected an open run, got {short_repr(run)}: give cntk_pipeline.open_run({python_text(path)})"
                )
            return read(kind, run, *values, **named)

        cls.from_run = classmethod(of_open_run)  # type: ignore[assignment, method-assign]

    @classmethod
    @abstractmethod
    def from_run(cls, run: OpenRun, readout: AskedReadout = None, ridge: float | None = None) -> Self:
        """Read the numbers of a run.

        Parameters
        ----------
        run : OpenRun
            An open run.
        readout, ridge
            As in `OpenRun.predictions`. A display of all read-outs shows one only where it is given; a display of one
            system takes `OpenRun.best` by default.

        Raises
        ------
        ConfigError
            If it is no open run, or has no such figure, with the reason, and with what to ask for.
        NotComputed
            If the numbers are not computed yet.
        """


def plain(value: Any) -> Any:
    """Turn arrays, tuples and dataclasses into values that JSON has."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    if isinstance(value, tuple | list):
        return [plain(each) for each in value]
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    if hasattr(value, "__dataclass_fields__"):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    return value


def counted(number: int, noun: str) -> str:
    """Write a number with a noun: "1 image", "2 images"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def shortened(names: Sequence[str], letters: int = 18) -> list[str]:
    """Shorten names for an axis."""
    return [name if len(name) <= letters else f"{name[: letters - 1]}…" for name in names]
