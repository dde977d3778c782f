"""A kernel in pieces that each take a moment: computed on all cores, stopped at once, shared out evenly.

A call into compiled code cannot be interrupted, so a piece must be short; and every piece prepares its images anew, so
it must not be shorter than need be. How large that is follows from what pairs have cost so far. A pair's bits do not
depend on the piece that it is in.
"""

import math
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cntk_pipeline.kernels.base import Engine, Evaluator
from cntk_pipeline.kernels.lanes import LANES
from cntk_pipeline.kernels.program import Array

PIECE_SECONDS = 0.3
"""How long a piece should take: Ctrl-C waits for the pieces under way."""

SHORTEST_SECONDS = 0.1
"""Pieces shrink towards the end, so that all cores end together, but not below this."""

PIECES_TO_KNOW = 8
"""How many pieces it takes to foretell the rest."""

BAND = 64
"""Rows of a piece at most: its right images are prepared once for all of them."""

STOP_SECONDS = 0.8
"""How long a stop waits for pieces under way, which are interrupted too: only a compiler is not."""

Tell = Callable[[int, int, float | None], object]
"""Is told of pairs: how many are done, of how many in all, and the seconds that are left, None where nobody knows."""


@dataclass(frozen=True)
class Piece:
    """A rectangle of a kernel: rows against columns, each from the first sample to one past the last.

    Where rows are among the columns, as on the diagonal of a symmetric kernel, columns end with the rows, and only
    the pairs on and below the diagonal count.
    """

    rows: tuple[int, int]
    cols: tuple[int, int]
    symmetric: bool = False

    @property
    def pairs(self) -> int:
        """The number of pairs."""
        height, width = self.rows[1] - self.rows[0], self.cols[1] - self.cols[0]
        return height * width - (height * (height - 1) // 2 if self.symmetric else 0)


class Cutter:
    """Cuts a kernel into pieces of a wanted number of pairs, from the last rows to the first.

    Parameters
    ----------
    row_count : int
        Left images.
    col_count : int or None
        Right images; None cuts the triangle on and below the diagonal of a symmetric kernel.
    """

    def __init__(self, row_count: int, col_count: int | None) -> None:
        self._symmetric = col_count is None
        self._rows_left, self._col_count = row_count, col_count or 0
        self._rows, self._cols = (0, 0), (0, 0)
        self.pairs_left = row_count * (row_count + 1) // 2 if col_count is None else row_count * col_count

    def take(self, pairs: float) -> Piece | None:
        """Cut the next piece, of about so many pairs; None where all is cut."""
        if self._cols[0] == self._cols[1]:
            if self._rows_left == 0:
                return None
            piece = self._begin_band(_height(pairs))
            if piece is not None:
                self.pairs_left -= piece.pairs
                return piece
        (top, bottom), (left, right) = self._rows, self._cols
        width = max(LANES, int(pairs / (bottom - top)) // LANES * LANES)
        end = min(left + width, right)
        self._cols = (end, right)
        piece = Piece(self._rows, (left, end))
        self.pairs_left -= piece.pairs
        return piece

    def _begin_band(self, height: int) -> Piece | None:
        """Begin the next rows; of a symmetric kernel cut the piece on the diagonal first.

        There, columns of whole lanes from the first on are left over: no lane is computed twice or in vain.
        """
        bottom = self._rows_left
        if not self._symmetric:
            self._rows, self._cols = (max(0, bottom - height), bottom), (0, self._col_count)
            self._rows_left = self._rows[0]
            return None
        block = (bottom - 1) // LANES * LANES
        if height >= LANES:
            top = first = max(0, block + LANES - height)
        else:
            top, first = max(block, bottom - height), block
        self._rows, self._cols, self._rows_left = (top, bottom), (0, first), top
        return Piece((top, bottom), (first, bottom), symmetric=True)


def _height(pairs: float) -> int:
    """Choose how many rows a piece has: the most whose triangle is about as many pairs as wanted.

    Whole lanes, or a fraction of them that leaves no rest.
    """
    for height in range(BAND, 0, -LANES):
        if height * (height + LANES) <= 2.5 * pairs:
            return height
    return max(1, min(LANES // 2, 2 ** int(math.log2(max(pairs / LANES, 1)))))


class CostSoFar:
    """What a pair costs: first as it was measured or only guessed, then the least that pieces have shown.

    The first piece of a thread may have waited for the compiler, so a few are needed to know.

    Parameters
    ----------
    pair_seconds : float
        Of a pair, at first.
    is_known : bool
        Whether a forecast may be told from it at once, as from a measurement, or from a guess of little work.
    """

    def __init__(self, pair_seconds: float, is_known: bool) -> None:
        self._pair_seconds, self._is_known = pair_seconds, is_known
        self._pieces = 0

    def learn(self, pairs: int, seconds: float) -> None:
        """Learn from a piece."""
        found = seconds / pairs
        self._pair_seconds = found if self._pieces == 0 else min(found, self._pair_seconds)
        self._pieces += 1

    def pairs(self, share: float) -> float:
        """Return how many pairs the next piece should have, where each core's share of those left is this."""
        longest = PIECE_SECONDS / (1 if self._pieces else 8)
        seconds = min(max(share * self._pair_seconds / 2, SHORTEST_SECONDS), longest)
        return seconds / self._pair_seconds

    def seconds_left(self, share: float) -> float | None:
        """Forecast the rest, where each core's share of it is so many pairs; None as long as nobody knows."""
        is_known = self._is_known or self._pieces >= PIECES_TO_KNOW
        return share * self._pair_seconds if is_known else None


def compute(
    engine: Engine,
    left: Array,
    right: Array | None,
    cost: CostSoFar,
    thread_count: int,
    tell: Tell,
) -> Array:
    """Compute a kernel on so many threads; stop within a moment where the caller is interrupted.

    Parameters
    ----------
    engine : Engine
        Shared by the threads, with an evaluator each.
    left, right : array
        Images; without ``right``, ``left`` against itself.
    cost : CostSoFar
        What a pair costs, as far as that is known; learns from every piece.
    tell : callable
        Is called in the calling thread, before the first piece and after each.

    Returns
    -------
    array, (readouts, n_left, n_right)
    """
    question = engine.question
    values = np.empty((len(question.readouts), len(left), len(left if right is None else right)), question.dtype)
    cutter = Cutter(len(left), None if right is None else len(right))
    total, done = cutter.pairs_left, 0
    lock, stop = threading.Lock(), threading.Event()
    evaluators: list[Evaluator] = []
    ended: queue.SimpleQueue[Piece | BaseException] = queue.SimpleQueue()

    def work() -> None:
        evaluator = None
        while not stop.is_set():
            with lock:
                share = cutter.pairs_left / thread_count if thread_count > 1 else math.inf
                piece = cutter.take(cost.pairs(share))
            if piece is None:
                return
            try:
                if evaluator is None:
                    evaluator = engine.evaluator()
                    evaluators.append(evaluator)
                began = time.perf_counter()
                _fill(evaluator, piece, left, right, values)
                cost.learn(piece.pairs, time.perf_counter() - began)
            except BaseException as error:  # the calling thread raises it
                ended.put(error)
                return
            ended.put(piece)

    threads = [threading.Thread(target=work, name=f"kernel-{k}", daemon=True) for k in range(thread_count)]
    tell(done, total, cost.seconds_left(total / thread_count))
    try:
        for thread in threads:
            thread.start()
        while done < total:
            found = _wait(ended)
            if isinstance(found, BaseException):
                raise found
            done += found.pairs
            tell(done, total, cost.seconds_left((total - done) / thread_count))
    finally:
        stop.set()
        for evaluator in evaluators:
            evaluator.interrupt()
        deadline = time.monotonic() + STOP_SECONDS
        for thread in filter(threading.Thread.is_alive, threads):
            thread.join(max(0.0, deadline - time.monotonic()))
    return values


def _wait(ended: "queue.SimpleQueue[Piece | BaseException]") -> Piece | BaseException:
    while True:
        try:
            return ended.get(timeout=0.2)  # some systems hear no Ctrl-C in a wait without an end
        except queue.Empty:
            pass


def _fill(evaluator: Evaluator, piece: Piece, left: Array, right: Array | None, values_out: Array) -> None:
    """Evaluate a piece; of a symmetric kernel mirror it as well."""
    (top, bottom), (first, last) = piece.rows, piece.cols
    images, corner = left[top:bottom], (top, first)
    if right is not None:
        values_out[:, top:bottom, first:last] = evaluator.evaluate(images, right[first:last], first=corner)
        return
    if not piece.symmetric:
        found = evaluator.evaluate(images, left[first:last], first=corner)
        values_out[:, top:bottom, first:last], values_out[:, first:last, top:bottom] = found, found.mT
        return
    if first == top:
        values_out[:, top:bottom, top:bottom] = evaluator.evaluate(images, first=corner)
        return
    found = evaluator.evaluate(images, left[first:last], first=corner)
    if evaluator.is_masked:  # a sample with itself is more than two equal images
        rows = np.arange(bottom - top)
        found[:, rows, top - first + rows] = evaluator.evaluate_pairs(images, first=(top, top))
    upper = np.triu_indices(bottom - top, 1)
    own = found[:, :, top - first :]
    own[:, upper[0], upper[1]] = own[:, upper[1], upper[0]]
    values_out[:, top:bottom, first:last] = found
    values_out[:, first:top, top:bottom] = found[:, :, : top - first].mT
