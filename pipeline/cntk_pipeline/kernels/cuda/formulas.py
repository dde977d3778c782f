"""Dual activations as C: the formulas of the layers and of `kernels.duals` are run once on names instead of numbers.

So a dual has one source on all engines. Each operation that a formula carries out becomes a line of C.
"""

import struct
from collections.abc import Callable, Sequence
from types import FunctionType, ModuleType
from typing import Any

import numpy as np

from cntk_pipeline.kernels import lanes
from cntk_pipeline.kernels.duals import CODE
from cntk_pipeline.layers import ClosedForm

_CALLED = (
    lanes.absolute,
    lanes.square_root,
    lanes.copy_sign,
    lanes.multiply_add,
    lanes.minimum,
    lanes.where_negative,
    lanes.where_positive,
    lanes.nearest,
    lanes.power_of_two,
)
"""What is a function of the same name in C."""


class Value:
    """A number of each lane, known by its name in C."""

    def __init__(self, lines: "Lines", name: str) -> None:
        self.lines = lines
        self.name = name

    def __add__(self, other: "Value | float") -> "Value":
        return self.lines.combine(self, "+", other)

    def __radd__(self, other: float) -> "Value":
        return self.lines.combine(other, "+", self)

    def __sub__(self, other: "Value | float") -> "Value":
        return self.lines.combine(self, "-", other)

    def __rsub__(self, other: float) -> "Value":
        return self.lines.combine(other, "-", self)

    def __mul__(self, other: "Value | float") -> "Value":
        return self.lines.combine(self, "*", other)

    def __rmul__(self, other: float) -> "Value":
        return self.lines.combine(other, "*", self)

    def __truediv__(self, other: "Value | float") -> "Value":
        return self.lines.combine(self, "/", other)

    def __rtruediv__(self, other: float) -> "Value":
        return self.lines.combine(other, "/", self)

    def __neg__(self) -> "Value":
        return self.lines.keep(f"-{self.name}")


class Lines:
    """The lines of C that a formula becomes.

    Parameters
    ----------
    dtype : dtype
        Of the numbers.
    table : str
        The name of a table for numbers of float64. An instruction takes the upper half of such a number alone, or all
        of it from memory for constants; else two more instructions would build it up each time.

    Attributes
    ----------
    text : list of str
        One line an operation.
    listed : mapping of float to int
        The numbers of the table, with their places.
    """

    def __init__(self, dtype: np.dtype, table: str) -> None:
        self.text: list[str] = []
        self.listed: dict[float, int] = {}
        self._dtype = dtype
        self._table = table

    def keep(self, expression: str) -> Value:
        """Write an expression into a line and return its name."""
        name = f"v{len(self.text)}"
        self.text.append(f"const lane_real {name} = {expression};")
        return Value(self, name)

    def combine(self, a: Value | float, operator: str, b: Value | float) -> Value:
        """Write an operation of two numbers."""
        return self.keep(f"{self._name(a)} {operator} {self._name(b)}")

    def call(self, name: str, *values: Value | float) -> Value:
        """Write a call of a function of C."""
        return self.keep(f"{name}({', '.join(map(self._name, values))})")

    def polynomial(self, coefficients: Sequence[float], x: Value) -> Value:
        """Write a polynomial; see `lanes.polynomial`."""

        def chain(terms: Sequence[float], power: Value) -> Value | float:
            total: Value | float = terms[-1]
            for term in reversed(terms[:-1]):
                total = self.call("multiply_add", total, power, term)
            return total

        if len(coefficients) <= 8:
            found = chain(coefficients, x)
        else:
            square = x * x
            found = self.call("multiply_add", x, chain(coefficients[1::2], square), chain(coefficients[::2], square))
        return found if isinstance(found, Value) else self.keep(self._name(found))

    def run(self, formula: Callable[..., Any], *arguments: Any) -> Any:
        """Run a formula with the functions of C in place of those that it names."""
        return self._rewrite(formula)(*arguments)

    def _name(self, value: Value | float) -> str:
        if isinstance(value, Value):
            return value.name
        if self._dtype == np.float64 and struct.unpack("<I", struct.pack("<d", value)[:4])[0]:
            return f"spread({self._table}[{self.listed.setdefault(float(value), len(self.listed))}])"
        return f"spread({number(value, self._dtype)})"

    def _rewrite(self, formula: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function of Python whose names mean the functions of C."""
        names = {name: self._replaced(value) for name, value in formula.__globals__.items()}  # type: ignore[attr-defined]
        return FunctionType(
            formula.__code__,
            names,
            formula.__name__,
            formula.__defaults__,  # type: ignore[attr-defined]
            formula.__closure__,  # type: ignore[attr-defined]
        )

    def _replaced(self, value: Any) -> Any:
        if value is lanes:
            return _Namespace(self)
        if value is lanes.polynomial:
            return self.polynomial
        if any(value is called for called in _CALLED):
            return lambda *arguments: self.call(value.__name__, *arguments)
        if isinstance(value, FunctionType) and value in CODE:
            return lambda *arguments: self.run(CODE[value](self._dtype == np.float32), *arguments)
        return value


class _Namespace(ModuleType):
    """`kernels.lanes` as formulas see it."""

    def __init__(self, lines: Lines) -> None:
        super().__init__("lanes")
        for called in _CALLED:
            self.__dict__[called.__name__] = lines._replaced(called)


def number(value: float, dtype: np.dtype) -> str:
    """Write a number as a literal of C."""
    return f"{float(np.float32(value))!r}f" if dtype == np.float32 else repr(float(value))


def print_dual(function: type[ClosedForm], name: str, dtype: np.dtype) -> str:
    """Print a dual activation as a struct of C with one function, ``at``.

    Parameters
    ----------
    name : str
        Of the struct.
    dtype : dtype
        Of planes.
    """
    table = f"numbers_of_{name}"
    lines, count = Lines(dtype, table), function.statistic_count
    x, z = (tuple(Value(lines, f"{side}[{k}]") for k in range(count)) for side in "xz")
    constants = tuple(Value(lines, f"spread(constants[{k}])") for k in range(3))
    value, slope = lines.run(function.dual, Value(lines, "covariance"), x, z, constants)
    body = "\n".join(f"    {line}" for line in lines.text)
    numbers = ", ".join(number(value, dtype) for value in lines.listed or [0.0])
    return f"""PARAMETERS real {table}[{max(1, len(lines.listed))}] = {{{numbers}}};
struct {name} {{  // {function.__name__}
  static const int count = {count};
  static DEVICE void at(lane_real covariance, const lane_real (&x)[{count}], const lane_real (&z)[{count}],
                        const real* constants, lane_real& value, lane_real& slope) {{
{body}
    value = {value.name};
    slope = {slope.name};
  }}
}};
"""
