"""The loops of kernels of graphs: a pass through a network for all pairs of nodes of one left and some right graphs.

A register is a matrix of S and one of T, a row a node of the left graph, a column a node of the right ones, which are
numbered through. Activations go down the rows of 16 columns at a time (`kernels.weighing`). No column looks at those of
another graph, and sums have one order, so that a pair has the same bits beside any others.
"""

from typing import NamedTuple

import numpy as np

from cntk_pipeline.kernels.jit import jit, jit_inner
from cntk_pipeline.kernels.lanes import LANES, address, call
from cntk_pipeline.kernels.node_program import NodeEntry
from cntk_pipeline.kernels.program import Array, Code
from cntk_pipeline.kernels.variances import TINY, least_variance
from cntk_pipeline.kernels.weighing import Place

(_INPUT, _WEIGH, _ADD, _MULTIPLY, _AGGREGATE, _REDUCE, _OUTPUT) = (
    int(code) for code in (Code.INPUT, Code.WEIGH, Code.ADD, Code.MULTIPLY, Code.AGGREGATE, Code.REDUCE, Code.OUTPUT)
)
(_CODE, _SOURCE, _OTHER, _TARGET, _JOINED, _AVERAGE, _STATISTIC, _COUNT, _TERMS, _SLOT, _OF_TANGENT, _BARE) = (
    int(entry) for entry in NodeEntry
)
(_STRIDE, _TANGENT, _HEIGHT, _WIDTH, _LEFT_ROW, _RIGHT_ROW, _LEFT_STATISTIC, _RIGHT_STATISTIC, _SERIES_TERMS) = (
    int(place)
    for place in (
        Place.STRIDE,
        Place.TANGENT,
        Place.HEIGHT,
        Place.WIDTH,
        Place.LEFT_ROW,
        Place.RIGHT_ROW,
        Place.LEFT_STATISTIC,
        Place.RIGHT_STATISTIC,
        Place.TERMS,
    )
)


SLOT_GROUP = 4
"""Neighbours of a column that are added up at once."""


class Left(NamedTuple):
    """Graphs whose nodes are rows.

    Attributes
    ----------
    features : float64 array, (nodes, F)
    starts, neighbours : int64 array
        Of each node, (nodes + 1,) and by number within the graph.
    statistics : float64 array, (statistics nodes,)
        Graph by graph, those of an activation one behind the other, each of all nodes of the graph; behind the sum over
        nodes there is one of each.
    """

    features: Array
    starts: Array
    neighbours: Array
    statistics: Array


class Right(NamedTuple):
    """Some graphs whose nodes are columns.

    Attributes
    ----------
    features : float64 array, (F, columns)
        Columns are whole lanes, those without a node are 0.
    offsets : int64 array, (graphs + 1,)
        The first column of each graph.
    slots : uint64 array, (slots, columns)
        The first neighbours of each column; the number of columns where it has fewer. There are a multiple of
        `SLOT_GROUP`.
    degrees : int64 array, (columns,)
    starts, neighbours : int64 array
        The first neighbour of each column, and all of them by column.
    crowded : int64 array
        Columns that have more neighbours than slots.
    statistics : float64 array, (statistics, columns)
        Behind the sum over nodes a graph is a column.
    """

    features: Array
    offsets: Array
    slots: Array
    degrees: Array
    starts: Array
    neighbours: Array
    crowded: Array
    statistics: Array


class NodeMemory(NamedTuple):
    """What a pass writes to.

    Attributes
    ----------
    registers : float64 array, (registers, 1 or 2, rows columns)
        S and, where a read-out needs it, T.
    buffer : float64 array, (columns + 1,)
        Scratch; it may be longer.
    place : array
        `Place`, scratch.
    lost : int64 array, (1,)
        Becomes 1 where the variances of a graph with itself lose their digits, see `_loses_digits`.
    """

    registers: Array
    buffer: Array
    place: Array
    lost: Array


class Passes(NamedTuple):
    """A program as compiled code reads it: see `NodeProgram`.

    Attributes
    ----------
    params : array
        Those of all operations, and once more those of activations behind weights of 1.
    """

    codes: Array
    params: Array
    addresses: Array


@jit_inner
def _start(left: Left, right: Right, scale: float, width: int, target_out: Array) -> None:
    """Write ``S = scale sum_c x z`` and ``T = 0``."""
    columns = right.features.shape[1]
    for i in range(len(left.features)):
        row = i * columns
        for k in range(target_out.shape[0]):
            for m in range(width):
                target_out[k, row + m] = 0.0
        for c in range(left.features.shape[1]):
            value = scale * left.features[i, c]
            if value != 0.0:  # most features are classes of nodes
                for m in range(width):
                    target_out[0, row + m] += value * right.features[c, m]


@jit_inner
def _aggregate(
    left: Left, right: Right, average: bool, width: int, source: Array, line: Array, target_out: Array
) -> None:
    """Write ``A_x S A_z^T``: rows are added up into a line, then columns of it."""
    columns = right.features.shape[1]
    slot_count = right.slots.shape[0]
    line[columns] = 0.0
    for i in range(len(left.features)):
        row = i * columns
        for m in range(width):
            line[m] = source[row + m]
        for e in range(left.starts[i], left.starts[i + 1]):
            other = left.neighbours[e] * columns
            for m in range(width):
                line[m] += source[other + m]
        for d in range(0, slot_count, SLOT_GROUP):
            # Not one by one: each look at the target costs as much as a neighbour.
            one, two, three, four = right.slots[d], right.slots[d + 1], right.slots[d + 2], right.slots[d + 3]
            for m in range(width):
                total = line[m] if d == 0 else target_out[row + m]
                total += line[one[m]]
                total += line[two[m]]
                total += line[three[m]]
                total += line[four[m]]
                target_out[row + m] = total
        for m in right.crowded:
            for e in range(right.starts[m] + slot_count, right.starts[m] + right.degrees[m]):
                target_out[row + m] += line[right.neighbours[e]]
        if average:
            share = 1.0 / (1 + left.starts[i + 1] - left.starts[i])
            for m in range(width):
                target_out[row + m] *= share / (1 + right.degrees[m])


@jit_inner
def _join(
    right: Right, rows: int, count: int, average: bool, scale: float, source: Array, buffer: Array, target_out: Array
) -> None:
    """Write the sums over all nodes of both graphs, a number for each right graph."""
    columns, width = right.features.shape[1], right.offsets[count]
    for m in range(width):
        buffer[m] = 0.0
    for i in range(rows):
        for m in range(width):
            buffer[m] += source[i * columns + m]
    for g in range(count):
        total = 0.0
        for m in range(right.offsets[g], right.offsets[g + 1]):
            total += buffer[m]
        if average:
            total /= rows * (right.offsets[g + 1] - right.offsets[g])
        buffer[g] = scale * total
    for g in range(count):
        target_out[g] = buffer[g]


@jit_inner
def _fill_place(place: Array, columns: int, tangent: int, rows: int, terms: int) -> None:
    """Write where a strip of 16 columns lies, for the loops of `kernels.weighing`."""
    place[_STRIDE], place[_TANGENT] = columns, tangent
    place[_HEIGHT], place[_WIDTH] = rows, 1
    place[_LEFT_ROW], place[_RIGHT_ROW] = 1, 0
    place[_LEFT_STATISTIC], place[_RIGHT_STATISTIC] = rows, columns // LANES
    place[_SERIES_TERMS] = terms


@jit_inner
def _activate(
    passes: Passes,
    p: int,
    loop: int,
    factors: int,
    source: int,
    rows: int,
    width: int,
    left: Left,
    right: Right,
    memory: NodeMemory,
) -> None:
    """Run weights and an activation of operation p, or weights alone, strip by strip, from the register ``source``."""
    op, columns = passes.codes[p], right.features.shape[1]
    _fill_place(memory.place, columns, memory.registers.shape[2], rows, op[_TERMS])
    of_left = address(left.statistics, op[_STATISTIC] * len(left.features))
    numbers, place = address(passes.params, factors * passes.params.shape[1]), address(memory.place, 0)
    size = memory.registers.shape[1] * memory.registers.shape[2]
    for m in range(0, width, LANES):
        begin, end = address(memory.registers, source * size + m), address(memory.registers, op[_TARGET] * size + m)
        of_right = address(right.statistics, op[_STATISTIC] * columns + m)
        call(passes.addresses[p, loop], (begin, end, begin, of_left, of_right, place, numbers))


@jit_inner
def _know(passes: Passes, p: int, rows: int, width: int, left: Left, right: Right, memory: NodeMemory) -> None:
    """Compute what a closed form must know of a graph, from its variances before it."""
    op, columns = passes.codes[p], right.features.shape[1]
    for i in range(width):
        memory.buffer[i] = memory.registers[op[_TARGET], 0, i * columns + i] if i < rows else 0.0
    _fill_place(memory.place, columns, memory.registers.shape[2], 1, 0)
    memory.place[_WIDTH] = width // LANES
    variances, place = address(memory.buffer, 0), address(memory.place, 0)
    numbers = address(passes.params, p * passes.params.shape[1])
    call(passes.addresses[p, 2], (variances, address(right.statistics, op[_STATISTIC] * columns), place, numbers))
    for k in range(op[_COUNT]):
        for i in range(rows):
            left.statistics[op[_STATISTIC] * len(left.features) + k * rows + i] = right.statistics[
                op[_STATISTIC] + k, i
            ]


@jit_inner
def _loses_digits(passes: Passes, p: int, rows: int, columns: int, memory: NodeMemory) -> bool:
    """Tell whether operation p makes numbers without digits, or zeros, of all variances of a graph that are not 0."""
    op, code = passes.codes[p], passes.codes[p, _CODE]
    source, other, is_product = memory.registers[op[_SOURCE], 0], memory.registers[op[_OTHER], 0], code == _MULTIPLY
    largest, is_there = 0.0, False
    for i in range(rows):
        value = source[i * columns + i]
        factor = other[i * columns + i] if is_product else 1.0
        is_there |= (value > 0.0) & (factor > 0.0)
        largest = max(largest, value * factor)
    least = TINY
    if code == _WEIGH:
        least = least_variance(passes.params[p, 0], passes.params[p, 1], TINY)
    elif code == _REDUCE:
        least = least_variance(passes.params[p, 0], 0.0, TINY)
    return is_there and largest < least


@jit_inner
def _run(
    passes: Passes,
    first: int,
    last: int,
    left: Left,
    right: Right,
    count: int,
    of_self: bool,
    resumes: bool,
    memory: NodeMemory,
    values_out: Array,
) -> None:
    """Run a few operations for one graph against the first ``count`` right ones; see `run_self`."""
    columns, nodes = right.features.shape[1], len(left.features)
    whole = -(-right.offsets[count] // LANES) * LANES
    matrices = memory.registers.shape[1]
    for p in range(first, last):
        op, code = passes.codes[p], passes.codes[p, _CODE]
        source, target = memory.registers[op[_SOURCE]], memory.registers[op[_TARGET]]
        rows = 1 if op[_JOINED] else nodes
        width = -(-count // LANES) * LANES if op[_JOINED] else whole
        is_read = code != _INPUT and code != _ADD and code != _OUTPUT and not (resumes and p == first)
        if of_self and is_read and _loses_digits(passes, p, rows, columns, memory):
            memory.lost[0] = 1
        if code == _INPUT:
            _start(left, right, passes.params[p, 0], whole, target)
        elif code == _AGGREGATE:
            for k in range(1 if op[_BARE] else matrices):
                _aggregate(left, right, op[_AVERAGE] != 0, whole, source[k], memory.buffer, target[k])
            if op[_BARE] and matrices == 2:
                for m in range(nodes * columns):
                    target[1, m] = 0.0
        elif code == _REDUCE:
            for k in range(matrices):
                _join(right, nodes, count, op[_AVERAGE] != 0, passes.params[p, 0], source[k], memory.buffer, target[k])
        elif code == _ADD:
            other = memory.registers[op[_OTHER]]
            for k in range(matrices):
                for i in range(rows):
                    for m in range(i * columns, i * columns + width):
                        target[k, m] = source[k, m] + other[k, m]
        elif code == _MULTIPLY:
            other = memory.registers[op[_OTHER]]
            for i in range(rows):
                for m in range(i * columns, i * columns + width):
                    if matrices == 2:
                        target[1, m] = source[1, m] * other[0, m] + source[0, m] * other[1, m]
            for i in range(rows):
                for m in range(i * columns, i * columns + width):
                    target[0, m] = source[0, m] * other[0, m]
        elif code == _WEIGH and of_self and op[_COUNT] != 0:
            if not (resumes and p == first):
                _activate(passes, p, 1, p, op[_SOURCE], rows, width, left, right, memory)
                if op[_TERMS] > 0:
                    return
                _know(passes, p, rows, width, left, right, memory)
            _activate(passes, p, 0, len(passes.codes) + p, op[_TARGET], rows, width, left, right, memory)
        elif code == _WEIGH:
            _activate(passes, p, 0, p, op[_SOURCE], rows, width, left, right, memory)
        elif code == _OUTPUT:
            for g in range(count):
                values_out[op[_SLOT], g] = source[op[_OF_TANGENT], g]


@jit_inner
def _graph(lefts: Left, offsets: Array, number: int) -> Left:
    """Take one graph of all."""
    known = len(lefts.statistics) // len(lefts.features)
    begin, end = offsets[number], offsets[number + 1]
    statistics = lefts.statistics[known * begin : known * end]
    return Left(lefts.features[begin:end], lefts.starts[begin : end + 1], lefts.neighbours, statistics)


@jit
def lay_out(lefts: Left, offsets: Array, first: int, right_out: Right) -> None:
    """Lay some graphs, from ``first`` on, side by side as columns; statistics are 0, and ``crowded`` stays."""
    columns = right_out.features.shape[1]
    right_out.features[:] = 0.0
    right_out.slots[:] = columns
    right_out.degrees[:] = 0
    right_out.starts[:] = 0
    right_out.statistics[:] = 0.0
    begin = offsets[first]
    for g in range(len(right_out.offsets)):
        right_out.offsets[g] = offsets[first + g] - begin
    edge = 0
    for g in range(len(right_out.offsets) - 1):
        for m in range(right_out.offsets[g], right_out.offsets[g + 1]):
            for c in range(right_out.features.shape[0]):
                right_out.features[c, m] = lefts.features[begin + m, c]
            right_out.starts[m] = edge
            for e in range(lefts.starts[begin + m], lefts.starts[begin + m + 1]):
                other = right_out.offsets[g] + lefts.neighbours[e]
                if right_out.degrees[m] < right_out.slots.shape[0]:
                    right_out.slots[right_out.degrees[m], m] = np.uint64(other)
                right_out.neighbours[edge] = other
                right_out.degrees[m] += 1
                edge += 1


@jit
def run_self(
    passes: Passes,
    first: int,
    last: int,
    left: Left,
    right: Right,
    resumes: bool,
    memory: NodeMemory,
    values_out: Array,
) -> None:
    """Run a few operations for a graph with itself; write what activations must know of it.

    Parameters
    ----------
    first, last : int
        The operations to run, the last excluded.
    left, right
        The graph, twice. Their statistics are written, but for those of a series: Python expands it, so the last
        operation is left before it, and ``resumes`` begins behind the weights of the first one.
    values_out : array, (readouts, 1)
    """
    _run(passes, first, last, left, right, 1, True, resumes, memory, values_out)


@jit
def know_graphs(passes: Passes, lefts: Left, offsets: Array, slots: int, memory: NodeMemory, values_out: Array) -> int:
    """Run each graph with itself, of a program without series; write what activations must know of it.

    Parameters
    ----------
    lefts, offsets
        All graphs, one behind the other, and their first nodes; their statistics are written.
    slots : int
        Of `Right`.
    values_out : array, (readouts, 1)
        Scratch.

    Returns
    -------
    int
        The number of the first graph whose variances lose their digits, which is the last one then; else -1.
    """
    known = len(lefts.statistics) // len(lefts.features)
    for g in range(len(offsets) - 1):
        left = _graph(lefts, offsets, g)
        nodes = len(left.features)
        columns, edges = -(-nodes // LANES) * LANES, left.starts[nodes] - left.starts[0]
        degrees = np.zeros(columns, np.int64)
        crowded = np.empty(nodes, np.int64)
        count = 0
        for m in range(nodes):
            if left.starts[m + 1] - left.starts[m] > slots:
                crowded[count] = m
                count += 1
        right = Right(
            np.empty((left.features.shape[1], columns)),
            np.empty(2, np.int64),
            np.empty((slots, columns), np.uint64),
            degrees,
            np.empty(columns, np.int64),
            np.empty(edges, np.int64),
            crowded[:count],
            np.empty((known, columns)),
        )
        lay_out(lefts, offsets, g, right)
        _run(passes, 0, len(passes.codes), left, right, 1, True, False, memory, values_out)
        if memory.lost[0] != 0:
            return g
    return -1


@jit
def run_block(
    passes: Passes,
    lefts: Left,
    offsets: Array,
    rows: tuple[int, int],
    right: Right,
    triangle: int,
    stop: Array,
    memory: NodeMemory,
    values_out: Array,
) -> None:
    """Run the whole program for some left graphs against some right ones.

    Parameters
    ----------
    lefts, offsets
        All left graphs, one behind the other, and their first nodes.
    rows : (int, int)
        The first left graph to run, and one past the last.
    triangle : int
        The number of the left graph that is the first right one, where only pairs on and below the diagonal count; else
        -1.
    stop : array, (1,)
        A number other than 0 ends the run.
    values_out : array, (left graphs, readouts, right graphs)
    """
    for row in range(rows[0], rows[1]):
        if stop[0] != 0:
            return
        left = _graph(lefts, offsets, row)
        count = len(right.offsets) - 1
        if triangle >= 0:
            count = min(count, row - triangle + 1)
        _run(passes, 0, len(passes.codes), left, right, count, False, False, memory, values_out[row])


@jit
def gather_statistics(codes: Array, lefts: Left, offsets: Array, first: int, right: Right) -> None:
    """Write what activations must know of right graphs, from what is known of them as left ones, from ``first`` on."""
    known = len(lefts.statistics) // len(lefts.features)
    for g in range(len(right.offsets) - 1):
        begin, nodes = offsets[first + g], offsets[first + g + 1] - offsets[first + g]
        for p in range(len(codes)):
            rows = 1 if codes[p, _JOINED] else nodes
            column = g if codes[p, _JOINED] else right.offsets[g]
            for k in range(codes[p, _COUNT]):
                place = known * begin + codes[p, _STATISTIC] * nodes + k * rows
                for i in range(rows):
                    right.statistics[codes[p, _STATISTIC] + k, column + i] = lefts.statistics[place + i]
