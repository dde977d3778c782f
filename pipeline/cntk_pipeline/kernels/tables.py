"""Programs as plain arrays of numbers, as compiled code reads them."""

from dataclasses import dataclass
from enum import IntEnum, unique
from typing import NamedTuple

import numpy as np

from cntk_pipeline.errors import NotFinite
from cntk_pipeline.kernels.attention import pair_index
from cntk_pipeline.kernels.program import Array, Code, Operation, Program, Stage, Visits
from cntk_pipeline.kernels.weighing import CONSTANTS
from cntk_pipeline.layers import ClosedForm, Series


@unique
class Kind(IntEnum):
    """How WEIGH sums windows."""

    PIXEL = 0
    PLAIN_3X3 = 1
    WINDOWS = 2
    CIRCULAR = 3


@unique
class Entry(IntEnum):
    """The columns of an operation's numbers; see `Operation`."""

    CODE = 0
    SOURCE = 1
    OTHER = 2
    TARGET = 3
    SLOT = 4
    TANGENT = 5
    HEIGHT = 6
    WIDTH = 7
    STEP_ROWS = 8
    STEP_COLUMNS = 9
    TO_HEIGHT = 10
    TO_WIDTH = 11
    TO_STEP_ROWS = 12
    TO_STEP_COLUMNS = 13
    KIND = 14
    ROW_WINDOW = 15
    ROW_STRIDE = 16
    ROWS_BEFORE = 17
    COLUMN_WINDOW = 18
    COLUMN_STRIDE = 19
    COLUMNS_BEFORE = 20
    CLEAR = 21
    """Whether the rim of the source must be set to zero: its planes are not those of the stage."""
    BEGINS = 22
    LEFT = 23
    RIGHT = 24
    """Where the statistics of left and right images begin, in pixels."""
    AREA = 25
    RIGHT_AREA = 26
    """Pixels from a statistic to the next."""
    TERMS = 27
    """Coefficients of a series."""
    ROW_TABLE = 28
    COLUMN_TABLE = 29
    """Where the bounds of POOL, or the weights of REDUCE and EMBED, begin; of ATTEND, the places of pairs."""
    BACKWARD = 30
    """Whether RECUR runs from the last position to the first."""
    PRESENT = 31
    """Of RECUR, the statistics before that of present steps; 0 where all steps are."""


@unique
class StageEntry(IntEnum):
    """The columns of a stage's numbers; see `Stage`."""

    HEIGHT = 0
    WIDTH = 1
    CIRCULAR = 2
    HALO = 3
    REGISTERS = 4
    FIRST = 5
    LAST = 6
    """Its operations: the first, and the one behind the last."""
    FIRST_VISIT = 7
    LAST_VISIT = 8
    FIRST_MARK = 9


@unique
class TensorEntry(IntEnum):
    """The columns of a tensor's numbers; see `Tensor`."""

    BEGIN = 0
    """Pixels before its S; T follows S."""
    SIZE = 1
    STARTS = 2
    WIDTHS = 3
    """Where its starts and widths begin."""
    ROW_COUNT = 4
    COLUMN_COUNT = 5
    HEIGHT = 6
    WIDTH = 7


class Tables(NamedTuple):
    """A program's numbers.

    Attributes
    ----------
    codes : int64 array, (operations, `Entry`)
    params : array, (operations, 5 + constants)
        Scale, bias, own, the constants of the activation, extra, and recurrence.
    exact_params : array
        The same in float64.
    bounds, terms, term_weights : array
        Of POOL, all of them one behind the other.
    weights : array
        Of REDUCE and EMBED, likewise.
    tensors : int64 array, (tensors, `TensorEntry`)
    starts, widths : array
        Those of the tensors, one behind the other.
    pairs : array
        Of ATTEND, where the tensors hold each pair of positions.
    input_channels : int
        Of the images.
    """

    codes: Array
    params: Array
    exact_params: Array
    bounds: Array
    terms: Array
    term_weights: Array
    weights: Array
    tensors: Array
    starts: Array
    widths: Array
    pairs: Array
    input_channels: int


class VisitTables(NamedTuple):
    """The stages' numbers: (stages, `StageEntry`), the offsets and the marks of all stages one behind the other."""

    stages: Array
    offsets: Array
    marks: Array


@dataclass(frozen=True)
class Statistics:
    """Where the statistics of an operation lie.

    Attributes
    ----------
    operation : int
        Its index in the program.
    start, right_start : int
        Pixels before the first statistic, of left images and of right ones.
    count : int
        Statistics.
    height, width : int
        Of a statistic's image.
    circular : bool
        Right images hold theirs twice in each direction, so that offsets need not wrap.
    """

    operation: int
    start: int
    right_start: int
    count: int
    height: int
    width: int
    circular: bool

    @property
    def area(self) -> int:
        """Pixels of a statistic."""
        return self.height * self.width

    @property
    def right_area(self) -> int:
        """Pixels of a statistic of right images."""
        return self.area * (4 if self.circular else 1)


def lay_out_statistics(program: Program) -> tuple[Statistics, ...]:
    """Give each activation, attention and gate room for what it needs to know of an image."""
    found: list[Statistics] = []
    index, start, right_start = 0, 0, 0
    for stage in program.stages:
        for op in stage.operations:
            count = _statistic_count(op)
            if count:
                height, width = op.target_grid.height, op.target_grid.width
                if op.code is Code.ATTEND:
                    height, width = height * width, height * width
                found.append(Statistics(index, start, right_start, count, height, width, stage.circular))
                start += count * found[-1].area
                right_start += count * found[-1].right_area
            index += 1
    return tuple(found)


def _statistic_count(op: Operation) -> int:
    if op.code in (Code.ATTEND, Code.GATE):
        return 1
    present = op.code is Code.RECUR and op.present is not None  # the last statistic
    if isinstance(op.function, ClosedForm):
        return op.function.statistic_count + present
    return 2 + op.function.terms + present if isinstance(op.function, Series) else 0


def make_tables(program: Program, dtype: np.dtype) -> Tables:
    """Write a program's operations and tensors as numbers; ``dtype`` is that of planes."""
    operations = [(stage, op) for stage in program.stages for op in stage.operations]
    statistics = {s.operation: s for s in lay_out_statistics(program)}
    codes = np.zeros((len(operations), len(Entry)), np.int64)
    params = np.zeros((len(operations), 5 + CONSTANTS))
    bounds, terms, term_weights, weights, pairs = (_Columns() for _ in range(5))
    for k, (stage, op) in enumerate(operations):
        codes[k, : Entry.KIND] = (
            op.code,
            op.source,
            op.other,
            op.target,
            op.slot,
            op.tangent,
            op.grid.height,
            op.grid.width,
            *op.grid.step,
            op.target_grid.height,
            op.target_grid.width,
            *op.target_grid.step,
        )
        codes[k, Entry.KIND] = _kind(op)
        if op.windows is not None:
            codes[k, Entry.ROW_WINDOW : Entry.CLEAR] = [
                value for w in op.windows for value in (w.window, w.stride, w.before)
            ]
        codes[k, Entry.BEGINS], codes[k, Entry.BACKWARD] = op.begins, op.backward
        codes[k, Entry.PRESENT] = statistics[k].count - 1 if op.code is Code.RECUR and op.present is not None else 0
        codes[k, Entry.CLEAR] = (op.grid.height, op.grid.width) != (stage.height, stage.width)
        constants = op.function.constants if isinstance(op.function, ClosedForm) else ()
        params[k, : 3 + len(constants)] = (op.scale, op.bias, op.own, *constants)
        params[k, 3 + CONSTANTS :] = op.extra, op.recurrence
        if k in statistics:
            found = statistics[k]
            codes[k, Entry.LEFT : Entry.TERMS] = (found.start, found.right_start, found.area, found.right_area)
        if isinstance(op.function, Series):
            codes[k, Entry.TERMS] = op.function.terms
        # The weight of a pooling is that of its rows times that of its columns.
        for entry, axis, scale in zip(_TABLES, op.terms or (), (op.scale, 1.0), strict=False):
            codes[k, entry] = bounds.add(axis.bounds + terms.length)
            terms.add(axis.terms)
            term_weights.add(axis.weights * scale)
        for entry, table in zip(_TABLES, op.weights or (), strict=False):
            codes[k, entry] = weights.add(table.ravel())
        if op.code is Code.ATTEND:
            for entry, slot in zip(_TABLES, (op.other, op.slot), strict=True):
                codes[k, entry] = pairs.add(pair_index(program.tensors[slot]).ravel())
    return Tables(
        codes,
        _in_dtype(params, dtype),
        params,
        bounds.joined(np.int64),
        terms.joined(np.int64, 4),
        term_weights.joined(dtype),
        weights.joined(dtype),
        _tensor_rows(program),
        _join([tensor.starts.ravel() for tensor in program.tensors], np.int64),
        _join([tensor.widths for tensor in program.tensors], np.int64),
        pairs.joined(np.int64),
        program.input_shape[2],
    )


_TABLES = (Entry.ROW_TABLE, Entry.COLUMN_TABLE)


class _Columns:
    """Tables of all operations, one behind the other."""

    def __init__(self) -> None:
        self._parts: list[Array] = []
        self.length = 0

    def add(self, table: Array) -> int:
        """Add a table; return where it begins."""
        begin = self.length
        self._parts.append(table)
        self.length += len(table)
        return begin

    def joined(self, dtype: object, *width: int) -> Array:
        """Return all tables as one; ``width`` is that of tables of several columns."""
        return _join(self._parts, dtype, *width)


def _tensor_rows(program: Program) -> Array:
    rows, begin, start, width = [], 0, 0, 0
    for tensor in program.tensors:
        rows.append((begin, tensor.size, start, width, *tensor.starts.shape, tensor.height, tensor.width))
        begin += 2 * tensor.size
        start += tensor.starts.size
        width += len(tensor.widths)
    return np.array(rows, np.int64).reshape(-1, len(TensorEntry))


def _in_dtype(params: Array, dtype: np.dtype) -> Array:
    """Return the factors of operations in the dtype of planes; refuse those of S that overflow there.

    Those of T make the NTK infinite, which is refused where it is read out.
    """
    largest = float(np.finfo(dtype).max)
    beyond = params[:, :2][params[:, :2] > largest]
    if len(beyond):
        raise NotFinite(
            f"a layer multiplies covariances by {beyond[0]:.0e}, or adds that, which is above {largest:.0e}, the "
            f"largest number of {dtype}: take a smaller w_std or b_std, or use float64"
        )
    with np.errstate(over="ignore"):
        return params.astype(dtype)


def make_visit_tables(program: Program, of_self: bool) -> VisitTables:
    """Write the stages and their visits as numbers; ``of_self`` for those of an image with itself."""
    rows = []
    offsets: list[Array] = []
    marks: list[Array] = []
    operation, visit, mark = 0, 0, 0
    for stage in program.stages:
        visits = _visits(stage, of_self)
        count, visit_count = len(stage.operations), len(visits.offsets)
        rows.append(
            (
                stage.height,
                stage.width,
                stage.circular,
                stage.halo,
                stage.register_count,
                operation,
                operation + count,
                visit,
                visit + visit_count,
                mark,
            )
        )
        offsets.append(visits.offsets)
        marks.append(np.ascontiguousarray(visits.marks.T).ravel())
        operation, visit, mark = operation + count, visit + visit_count, mark + count * visit_count
    return VisitTables(
        np.array(rows, np.int64),
        np.concatenate(offsets).astype(np.int64),
        np.concatenate(marks),
    )


def _visits(stage: Stage, of_self: bool) -> Visits:
    return stage.self_visits if of_self else stage.visits


def _kind(op: Operation) -> Kind:
    if op.windows is None:
        return Kind.PIXEL
    if op.is_circular:
        return Kind.CIRCULAR
    return Kind.PLAIN_3X3 if op.is_plain_3x3 else Kind.WINDOWS


def _join(arrays: list[Array], dtype: object, *width: int) -> Array:
    return np.concatenate([np.zeros((0, *width)), *arrays]).astype(dtype)  # type: ignore[call-overload,no-any-return]
