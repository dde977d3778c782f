"""Parts of drawings: the ticks of a logarithmic axis, which may also have 0 and infinity, and a legend below."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

DRAWN = 6
"""Number of series in a figure: so many colours and markers can be told apart. Tables have all."""

_DIGITS: tuple[tuple[int, ...], ...] = ((1,), (1, 2, 5), tuple(range(1, 10)))

_LINE_INCHES = 0.21
"""Height of a line of a legend."""


def log_ticks(low: float, high: float) -> list[float]:
    """Choose the ticks of a logarithmic axis: powers of ten where there are three, otherwise more digits.

    Examples
    --------
    >>> log_ticks(8, 1200), log_ticks(20, 300)
    ([10.0, 100.0, 1000.0], [20.0, 50.0, 100.0, 200.0])
    """
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in _DIGITS:
        ticks = [float(f"{digit}e{decade}") for decade in decades for digit in digits]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) >= 3:
            return ticks
    from matplotlib.ticker import MaxNLocator

    return [float(tick) for tick in MaxNLocator(5).tick_values(low, high) if low <= tick <= high]


def number_text(value: float) -> str:
    """Write the number of a tick.

    Examples
    --------
    >>> number_text(20000), number_text(0.05), number_text(1e-05)
    ('20,000', '0.05', '1e-5')
    """
    if value == 0 or 0.001 <= abs(value) < 1e6:
        return f"{value:,.6g}"
    digits, exponent = f"{value:e}".split("e")
    return f"{float(digits):g}e{int(exponent)}"


def log_places(values: Sequence[float]) -> dict[float, float]:
    """Give values their places on a logarithmic axis: 0 a decade before all others, infinity a decade behind them.

    Examples
    --------
    >>> log_places([0.0, 3.0, 50.0, float("inf")])
    {0.0: 0.3, 3.0: 3.0, 50.0: 50.0, inf: 500.0}
    """
    inner = [value for value in values if 0 < value < math.inf] or [1.0]
    ends = {0.0: min(inner) / 10, math.inf: 10 * max(inner)}
    return {value: ends.get(value, value) for value in values}


def tick_log(
    axis: "Axis", places: Mapping[float, float] | None = None, text: Callable[[float], str] = number_text
) -> None:
    """Put readable ticks on a logarithmic axis on which everything is drawn.

    Parameters
    ----------
    axis : Axis
        ``axes.xaxis`` or ``axes.yaxis``.
    text : callable
        Writes the number of a tick.
    places : mapping of float to float, optional
        As of `log_places`, where 0 or infinity may be among the values.
    """
    low, high = sorted(axis.get_view_interval())
    ends = {place: value for value, place in (places or {}).items() if value in (0, math.inf)}
    inner = [place for place in (places or {}).values() if place not in ends]
    if ends:
        low, high = (min(inner), max(inner)) if inner else (high, low)
    labels = {tick: text(tick) for tick in (log_ticks(low, high) if low < high else inner)}
    labels |= {place: "0" if value == 0 else "end" for place, value in ends.items()}
    axis.set_ticks(list(labels), list(labels.values()))
    axis.set_minor_locator(_no_ticks())


def tick_at(axis: "Axis", values: Sequence[float]) -> None:
    """Put ticks at some values of a logarithmic axis, and nowhere else."""
    axis.set_ticks(list(values), [number_text(value) for value in values])
    axis.set_minor_locator(_no_ticks())


def _no_ticks() -> Any:
    from matplotlib.ticker import NullLocator

    return NullLocator()


def legend_below(figure: "Figure") -> None:
    """Name the series below the axes, where a legend hides no data."""
    handles: dict[str, Any] = {}
    for axes in figure.axes:
        found, labels = axes.get_legend_handles_labels()
        handles |= dict(zip(labels, found, strict=True))
    if handles:
        figure.legend(list(handles.values()), list(handles), loc="outside lower left")


def legend_inches(lines: int) -> float:
    """Return the height that a legend of so many lines takes."""
    return 0.1 + _LINE_INCHES * lines if lines else 0.0
