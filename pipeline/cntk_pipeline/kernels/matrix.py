"""The in-memory door: kernels of a few thousand inputs, without a store."""

import contextlib
import datetime
import logging
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cntk_pipeline.errors import ConfigError, DataError, LayerError
from cntk_pipeline.inputs import is_whole_number, short_repr
from cntk_pipeline.kernels.base import Engine, Question, read_dtype
from cntk_pipeline.kernels.engines import find_engine
from cntk_pipeline.kernels.pieces import PIECE_SECONDS, CostSoFar, Tell, compute
from cntk_pipeline.kernels.program import Array
from cntk_pipeline.layers import Layer
from cntk_pipeline.layers.reading import fill_up, require_inputs
from cntk_pipeline.resources import core_count

logger = logging.getLogger(__name__)

ESTIMATE_ABOVE_SECONDS = 10.0
"""A kernel that will take longer is announced, where no progress is asked for."""


def kernel_matrix(
    network: Layer,
    x1: Array,
    x2: Array | None = None,
    *,
    kind: str = "ntk",
    dtype: str = "float32",
    flips: bool = False,
    progress: bool | Callable[[int, int], object] = False,
    engine: str = "cpu",
    n_jobs: int | None = None,
) -> Array:
    """Evaluate the exact kernel of a network in memory.

    Ctrl-C stops it within a second. Above ten seconds, and without ``progress``, a warning of the logger
    ``cntk_pipeline.kernels.matrix`` tells how long it will take.

    Parameters
    ----------
    network : Layer
        A layer, or a `Sequential` of layers, that ends in a vector.
    x1, x2 : array
        Inputs, ``(n, H, W, C)`` or ``(n, features)``, graphs as `cntk_pipeline.graphs.pack` makes them, or sequences
        ``(n, T, C)``, also of unequal lengths; see `Padded`. Absent pixels hold NaN; see `Masked`. None for ``x2``
        means ``x1``.
    kind : str
        "ntk", or "nngp" for the kernel of the network with only its last layer trained.
    dtype : str
        "float32" or "float64", of the computation and the result.
    flips : bool
        Average over x2 and its images flipped left to right; vectors have none.
    progress : bool or callable
        True shows a bar on stderr; a function is called in this thread with the pairs that are done and those in all,
        again and again. What it raises stops the computation.
    engine : str
        What computes it, a name in `kernels.ENGINES`; docs/extending.md shows how to add one.
    n_jobs : int, optional
        Number of threads; None means all cores that this process may use.

    Returns
    -------
    array, (n1, n2)

    Raises
    ------
    LayerError
        If the network does not accept the inputs' shape, kind or dtype are unknown, or flips are asked of vectors.
    DataError
        If the inputs are not finite numbers or differ in shape.
    ConfigError
        If there is no such engine, n_jobs is not a number of at least 1, or progress is neither True, False nor a
        function.

    Examples
    --------
    >>> import numpy as np
    >>> from cntk_pipeline import kernel_matrix
    >>> from cntk_pipeline.layers import presets
    >>> x = np.random.default_rng(0).standard_normal((3, 8, 8, 1))
    >>> k = kernel_matrix(presets.cntk(3), x, dtype="float64")
    >>> k.shape, bool(np.all(np.linalg.eigvalsh(k) > 0))
    ((3, 3), True)
    """
    asked = kernel_matrices(
        [network], x1, x2, kinds=(kind,), dtype=dtype, flips=flips, progress=progress, engine=engine, n_jobs=n_jobs
    )
    return asked[0, 0]


def kernel_matrices(
    networks: Sequence[Layer],
    x1: Array,
    x2: Array | None = None,
    *,
    kinds: Sequence[str] = ("ntk",),
    dtype: str = "float32",
    flips: bool = False,
    progress: bool | Callable[[int, int], object] = False,
    engine: str = "cpu",
    n_jobs: int | None = None,
) -> Array:
    """Evaluate the kernels of several networks in one pass, bit for bit those of `kernel_matrix`.

    Where one of the networks needs float64 within, as recurrent layers and large biases of the standard
    parameterization do, all are computed so: float32 values of the others may differ in their last bits then, and are
    no less exact.

    What networks have in common from the inputs on is computed once: all depths and poolings of one body, and both
    kinds, cost little more than the deepest alone.

    Parameters
    ----------
    networks : sequence of Layer
        Each as of `kernel_matrix`.
    kinds : sequence of str
        "ntk", "nngp" or both; of every network.
    x1, x2, dtype, flips, progress, engine, n_jobs
        As of `kernel_matrix`.

    Returns
    -------
    array, (networks, kinds, n1, n2)

    Raises
    ------
    LayerError, DataError, ConfigError
        As of `kernel_matrix`.

    Examples
    --------
    >>> import numpy as np
    >>> from cntk_pipeline import kernel_matrices
    >>> from cntk_pipeline.layers import presets
    >>> x = np.random.default_rng(0).standard_normal((5, 8, 8, 1))
    >>> k = kernel_matrices([presets.cntk(depth) for depth in (3, 4, 6)], x, kinds=("ntk", "nngp"))
    >>> k.shape
    (3, 2, 5, 5)
    """
    if isinstance(networks, Layer):
        raise LayerError(f"kernel_matrices takes a list of networks, got one {type(networks).__name__}: put it in []")
    if isinstance(kinds, str):
        raise LayerError(f'kinds is a list, got {short_repr(kinds)}: write kinds=("{kinds}",)')
    if not (callable(progress) or progress is None or isinstance(progress, int | np.bool_)):
        raise ConfigError(f"progress must be True, False, or a function of two numbers, got {short_repr(progress)}")
    networks, kinds = tuple(networks), tuple(kinds)  # generators end
    left = require_inputs("x1", x1, networks)
    right = None if x2 is None else require_inputs("x2", x2, networks)
    if right is not None:
        left, right = fill_up(networks, left, right)
    if right is not None and right.shape[1:] != left.shape[1:]:
        raise DataError(f"x1 and x2 must hold inputs of one shape, got {left.shape[1:]} and {right.shape[1:]}")
    threads = _thread_count(n_jobs)
    asked = tuple((network, kind) for network in networks for kind in kinds)
    computing = _ask(Question(asked, left.shape[1:], read_dtype(dtype).name, flips), engine)
    cost = _first_cost(computing, left)
    with _told(progress) as tell:
        values = compute(computing, left, right, cost, threads, tell)
    return values.reshape(len(networks), len(kinds), *values.shape[1:])


def kernel_diagonal(
    network: Layer, x: Array, *, kind: str = "ntk", dtype: str = "float32", flips: bool = False, engine: str = "cpu"
) -> Array:
    """Evaluate the kernel of each input with itself: the diagonal of `kernel_matrix`, bit for bit.

    Parameters
    ----------
    network, x, kind, dtype, flips, engine
        As of `kernel_matrix`.

    Returns
    -------
    array, (n,)

    Raises
    ------
    LayerError, DataError, ConfigError
        As of `kernel_matrix`.

    Examples
    --------
    >>> import numpy as np
    >>> from cntk_pipeline.layers import presets
    >>> kernel_diagonal(presets.fully_connected(1), np.array([[3.0, 4.0], [0.0, 1.0]]))
    array([12.5,  0.5], dtype=float32)
    """
    inputs = require_inputs("x", x, [network])
    computing = _ask(Question(((network, kind),), inputs.shape[1:], read_dtype(dtype).name, flips), engine)
    return computing.evaluator().evaluate_pairs(inputs)[0]


def _ask(question: Question, engine: str) -> Engine:
    if question.flips and len(question.input_shape) == 1:
        raise LayerError(
            "flips average over images flipped left to right, and these inputs are vectors: leave flips out, or give "
            "images (n, H, W, C)"
        )
    chosen = find_engine(engine)
    return chosen.ask(question, None if chosen.options_type is None else chosen.options_type())


def _thread_count(n_jobs: int | None) -> int:
    if n_jobs is None:
        return core_count()
    if not is_whole_number(n_jobs) or n_jobs < 1:
        raise ConfigError(
            f"n_jobs must be a whole number of at least 1, or None for all cores, got {short_repr(n_jobs)}"
        )
    return int(n_jobs)


def _first_cost(engine: Engine, left: Array) -> CostSoFar:
    """Say what a pair costs, by a guess where pieces will soon tell, else by a measurement."""
    guessed = engine.guessed_pair_seconds
    if guessed is not None and engine.lane_width * guessed < PIECE_SECONDS:
        return CostSoFar(guessed, is_known=False)
    # The first pieces would come too late to tell.
    return CostSoFar(engine.measure(left[: engine.lane_width]).seconds, is_known=True)


@contextlib.contextmanager
def _told(progress: bool | Callable[[int, int], object]) -> Iterator[Tell]:
    """Choose who is told how far it is."""
    if callable(progress):
        yield lambda done, total, seconds_left: progress(done, total)
    elif progress:
        columns = (TextColumn("kernel"), BarColumn(), MofNCompleteColumn(), TextColumn("pairs"), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task("kernel", total=None)
            yield lambda done, total, seconds_left: bar.update(task, completed=done, total=total)
    else:
        yield _Announcement()


class _Announcement:
    """Says once how long it will take, where that is long."""

    def __init__(self) -> None:
        self._said = False

    def __call__(self, done: int, total: int, seconds_left: float | None) -> None:
        if self._said or seconds_left is None or seconds_left < ESTIMATE_ABOVE_SECONDS:
            return
        self._said = True
        left = datetime.timedelta(seconds=round(seconds_left))
        logger.warning(
            f"kernel: {total - done:,} of {total:,} pairs left, about {left} (h:mm:ss); progress=True shows a bar"
        )
