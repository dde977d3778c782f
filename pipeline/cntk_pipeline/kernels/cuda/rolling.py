"""Equal runs of operations become loops of C."""

from collections.abc import Sequence
from dataclasses import dataclass

LONGEST_PERIOD = 12
"""Operations of a loop's body at most; those of a residual block of two convolutions are five."""


@dataclass(frozen=True)
class Call:
    """The lines of an operation, before its number is written into them."""

    lines: tuple[str, ...]
    guard: int | None


def roll(calls: Sequence[Call], first: int) -> list[str]:
    """Write operations one after the other; those that repeat as a loop."""
    lines: list[str] = []
    k = 0
    while k < len(calls):
        period, count = _longest_run(calls, k)
        if count > 1:
            lines.append("#pragma unroll 1")
            lines.append(f"for (int i = {first + k}; i < {first + k + period * count}; i += {period}) {{")
            for j in range(period):
                lines += [f"  {line}" for line in _write_call(calls[k + j], f"i + {j}" if j else "i")]
            lines.append("}")
        else:
            lines += _write_call(calls[k], str(first + k))
        k += period * count
    return lines


def _longest_run(calls: Sequence[Call], k: int) -> tuple[int, int]:
    """Find the period and the number of repetitions that cover most operations from the k-th on."""
    best = (1, 1)
    for period in range(1, LONGEST_PERIOD + 1):
        count = 1
        while calls[k + count * period : k + (count + 1) * period] == calls[k : k + period]:
            count += 1
        if count > 1 and period * count > best[0] * best[1]:
            best = (period, count)
    return best


def _write_call(call: Call, number_text: str) -> list[str]:
    lines = [line.replace("{i}", number_text) for line in call.lines]
    if call.guard is None:
        return lines
    return [f"if (any((marks >> {call.guard}) & 1)) {{", *(f"  {line}" for line in lines), "}"]
