"""A graph that writes down what layers ask of it."""

from typing import Any

from cntk_pipeline.layers import Graph, Layer, Shape


class Tape(Graph):
    """Records operations as ``(name, argument, ...)`` in order; node 0 is the input."""

    def __init__(self) -> None:
        self.operations: list[tuple[Any, ...]] = []

    def _record(self, *operation: Any) -> int:
        self.operations.append(operation)
        return len(self.operations)

    def rescale(self, source, factor):
        return self._record("rescale", source, factor)

    def weigh(self, source, rows, columns, scale, bias=0.0, own=0.0, extra=0.0):
        return self._record("weigh", source, rows, columns, scale, bias, own, *([extra] if extra else []))

    def pool(self, source, rows, columns, scale=1.0, normalize_edges=False):
        return self._record("pool", source, rows, columns, scale, normalize_edges)

    def total(self, source):
        return self._record("total", source)

    def trace(self, source, scale):
        return self._record("trace", source, scale)

    def apply(self, source, function):
        return self._record("apply", source, function)

    def recur(self, source, function, recurrence, scale, bias=0.0, own=0.0, backward=False, padded=False):
        numbers = (recurrence, scale, bias, own, backward)
        return self._record("recur", source, function, *numbers, *([padded] if padded else []))

    def add(self, first, second):
        return self._record("add", first, second)

    def multiply(self, first, second):
        return self._record("multiply", first, second)

    def mask(self, source, factor):
        return self._record("mask", source, factor)

    def embed(self, source, correlation, variance, own):
        return self._record("embed", source, correlation, variance, own)

    def attend(self, source, gain, keys=None, mechanism="softmax", plus_identity=False, padded=False):
        others = (keys, mechanism, plus_identity, padded)
        shown = others if others != (None, "softmax", False, False) else ()
        return self._record("attend", source, gain, *(shown if padded else shown[:3]))

    def pad(self, source, present):
        return self._record("pad", source, present)

    def gate(self, source, weights):
        return self._record("gate", source, weights)

    def aggregate(self, source, average):
        return self._record("aggregate", source, average)


def lowered(layer: Layer, shape: Shape) -> list[tuple[Any, ...]]:
    """List the operations of a layer."""
    tape = Tape()
    assert layer.lower(tape, shape, 0) == len(tape.operations)
    return tape.operations
