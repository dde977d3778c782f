"""Kernels from a memory: each pair of samples is computed once, for all folds, ridges and kinds of a search.

A request is filled from the kept values first. The pairs that are missing form blocks: samples that lack the same
others are one block.
"""

import contextlib
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cntk_pipeline import kernels  # whose names load the compiler when they are used, which is in `fit`
from cntk_pipeline.errors import LayerError, StoreError
from cntk_pipeline.estimators.folder_memory import FolderMemory
from cntk_pipeline.estimators.kept import Found, Kept, digests
from cntk_pipeline.estimators.question import KernelQuestion, as_samples, image_shape_of, memory_of, thread_count
from cntk_pipeline.estimators.run_memory import RunMemory
from cntk_pipeline.graphs import is_graph
from cntk_pipeline.inputs import short_repr
from cntk_pipeline.kernels.program import Array
from cntk_pipeline.layers import Layer
from cntk_pipeline.layers.kinds import kinds_of, require_kind
from cntk_pipeline.layers.normalization import find_dropout
from cntk_pipeline.layers.spelling import Table, spell

Places = npt.NDArray[np.intp]


def remembered_matrix(memory: str | Path, question: KernelQuestion, x1: Array, x2: Array | None) -> Array:
    """Return a kernel as `KernelQuestion.matrix`, from kept values as far as they go.

    A kernel with ``flips`` counts as symmetric, as in a run. `Dropout` tells a sample from an equal one, which digests
    cannot: its kernels are computed anew each time. So are those of samples out of the range of the dtype, which the
    kernel itself refuses.

    Parameters
    ----------
    memory : str or Path
        A run directory, which is only read; or a folder, which is made, and keeps what is computed.
    question : KernelQuestion
        What is asked.
    x1, x2 : array
        Inputs; None for ``x2`` means ``x1``.

    Raises
    ------
    LayerError
        If the network has no such kernel, or holds a Python function, by which no file can name it.
    DataError
        If a kept file is damaged.
    StoreError
        If the folder cannot be written. Where that shows only when computed values are to be kept, as on a full disk, a
        warning says so instead.
    SpecificationMismatch
        If the run holds kernels of other samples.
    """
    if find_dropout(question.network) is not None or not all(_is_in_range(x, question.dtype) for x in (x1, x2)):
        return question.matrix(x1, x2)
    require_kind(question.network, question.kind, x1.shape[1:])
    wanted = _Wanted(question.dtype, x1, x2)
    network = _spelt(question)
    if RunMemory.is_run(memory):
        kept: Kept = RunMemory(memory, question, x1.shape[1:])
    else:
        kept = _folder(memory, question, network, x1)
    with kept.held():
        found = kept.load(question.kind, wanted.samples)
        for rows, columns in wanted.missing_blocks(found):
            values = _compute([question], wanted.inputs, rows, columns)[0]
            found.put(rows, columns, values[question.kind])
            try:
                kept.keep(wanted.named(rows), wanted.named(columns), values)
            except StoreError as error:  # the values are in hand, and the fit needs no more
                warnings.warn(f"{error}. The fit goes on, and its values are not kept", RuntimeWarning, stacklevel=2)
    return found.values[np.ix_(wanted.rows, wanted.columns)]


def fill_memory(
    memory: str | Path,
    networks: Sequence[Layer],
    x: npt.ArrayLike,
    *,
    dtype: str = "float32",
    flips: bool = False,
    image_shape: tuple[int, ...] | None = None,
    n_jobs: int | None = None,
) -> None:
    """Compute the kernels of several networks in one pass, for estimators with the same ``memory``.

    What networks have in common from the inputs on is computed once, so all depths of one body cost little more than
    the deepest alone. Pairs that are kept already are not computed again. Networks with `Dropout` are left out, since
    their kernels are computed anew each time.

    Parameters
    ----------
    memory : str or Path
        A folder.
    networks : sequence of Layer
        Those of a search.
    x : array_like
        All samples of the search, as the estimators get them.
    dtype, flips, image_shape, n_jobs
        As those of the estimators.

    Raises
    ------
    TypeError, ValueError
        If an argument is not what estimators take; or if the memory is a run directory, which is only read.
    NotFinite, NotAccurate
        If numbers are too large or too small for the dtype; nothing is kept.
    StoreError
        If the folder cannot be written; what is kept by then stays.
    """
    if memory_of(memory) is None:
        raise TypeError("fill_memory needs the path of a folder, got None")
    if RunMemory.is_run(memory):
        raise ValueError(f"{memory} is a run directory, which is only read: give another folder")
    if isinstance(networks, Layer):
        raise TypeError(f"fill_memory takes a list of networks, got one {type(networks).__name__}: put it in []")
    if not isinstance(networks, Iterable):
        raise TypeError(f"fill_memory takes a list of networks, got {short_repr(networks)}")
    shape = image_shape_of(image_shape)
    asked = [KernelQuestion(network, "nngp", dtype, flips, shape, n_jobs) for network in networks]
    questions = [question for question in asked if find_dropout(question.network) is None]
    if not questions:
        return
    samples = as_samples("x", x)
    inputs, *_ = [question.inputs(samples, "x") for question in questions]  # each network takes them
    if not _is_in_range(inputs, questions[0].dtype):
        for question in questions:
            question.diagonal(inputs)  # says which sample is out of range
        return  # graphs, which are computed in float64: estimators do that anew each time
    wanted = _Wanted(questions[0].dtype, inputs, None)
    folders = {
        folder.path: (folder, question)
        for question in questions
        for folder in [_folder(memory, question, _spelt(question), inputs)]
    }
    # One pass computes all that lack the same pairs of the same kinds.
    lacking: dict[tuple[bytes, tuple[str, ...]], list[tuple[FolderMemory, KernelQuestion, Found]]] = {}
    with contextlib.ExitStack() as held:
        for path in sorted(folders):  # in one order, so that no two processes wait for each other
            folder, question = folders[path]
            held.enter_context(folder.held())
            kinds = kinds_of(question.network)
            found = folder.load(kinds[-1], wanted.samples)  # the NNGP is kept beside each NTK
            lacking.setdefault((found.is_known.tobytes(), kinds), []).append((folder, question, found))
        for group in lacking.values():
            for rows, columns in wanted.missing_blocks(group[0][2]):
                values = _compute([question for _, question, _ in group], wanted.inputs, rows, columns)
                for (folder, _, _), of_network in zip(group, values, strict=True):
                    folder.keep(wanted.named(rows), wanted.named(columns), of_network)


def _is_in_range(x: Array | None, dtype: str) -> bool:
    """Tell whether samples are still samples in a dtype: numbers of a memory become no infinity and no zeros.

    Of a graph, each number counts, not its square: its kernel is computed in float64.
    """
    if x is None or x.dtype.kind != "f":
        return True
    numbers, sizes = np.finfo(dtype), np.nan_to_num(np.abs(x), copy=False)  # absent pixels are no numbers
    least = float(numbers.tiny)
    if not is_graph(x.shape[1:]):
        sizes, least = sizes.reshape(len(x), -1).max(axis=1), least**0.5
    return bool(np.all((sizes == 0) | ((sizes >= least) & (sizes <= numbers.max))))


class _Wanted:
    """The samples of a request, each once.

    Attributes
    ----------
    samples : list of bytes
        Their digests.
    inputs : array
        One array with a row for each.
    rows, columns : int array
        The places of the request's inputs among them.
    """

    def __init__(self, dtype: str, x1: Array, x2: Array | None) -> None:
        left = digests(x1, dtype)
        right = left if x2 is None else digests(x2, dtype)
        places = {sample: place for place, sample in enumerate(dict.fromkeys([*left, *right]))}
        self.samples = list(places)
        self.rows, self.columns = (np.array([places[s] for s in side], np.intp) for side in (left, right))
        self.inputs = np.empty((len(places), *x1.shape[1:]), dtype)
        self.inputs[self.rows] = x1
        if x2 is not None:
            self.inputs[self.columns] = x2

    def named(self, places: Places) -> list[bytes]:
        """Return the digests of some samples."""
        return [self.samples[place] for place in places]

    def missing_blocks(self, found: Found) -> Iterator[tuple[Places, Places]]:
        """Cut the pairs that are asked for and not known into rectangles; one of a block with itself is symmetric."""
        missing = np.zeros_like(found.is_known)
        missing[np.ix_(self.rows, self.columns)] = True
        missing |= missing.T
        missing &= ~found.is_known
        if not missing.any():
            return
        lacking, block = np.unique(np.packbits(missing, axis=1), axis=0, return_inverse=True)
        block = block.reshape(-1)
        for number in range(len(lacking)):
            rows = np.flatnonzero(block == number)
            lacks = missing[rows[0]]
            if lacks[rows[0]]:  # then each of the block lacks each
                yield rows, rows
            others = np.flatnonzero(lacks & (block > number))
            if len(others):
                yield rows, others


def _compute(
    questions: Sequence[KernelQuestion], inputs: Array, rows: Places, columns: Places
) -> list[dict[str, Array]]:
    """Evaluate a rectangle for several networks with the same kinds of kernels in one pass, in all these kinds."""
    first = questions[0]
    kinds = kinds_of(first.network)
    values = kernels.kernel_matrices(
        [question.network for question in questions],
        inputs[rows],
        None if rows is columns else inputs[columns],
        kinds=kinds,
        dtype=first.dtype,
        flips=first.flips,
        n_jobs=thread_count(first.n_jobs),
    )
    return [dict(zip(kinds, of_network, strict=True)) for of_network in values]


def _spelt(question: KernelQuestion) -> list[Table]:
    """Write a network as files do; of one that no file can name, as it holds a Python function, say what else to do."""
    try:
        return spell(question.network)
    except LayerError as error:
        raise LayerError(f"memory: {error}; or leave memory out") from error


def _folder(memory: str | Path, question: KernelQuestion, network: list[Table], inputs: Array) -> FolderMemory:
    asked = kernels.Question(((question.network, "nngp"),), inputs.shape[1:], question.dtype, question.flips)
    described = {
        "network": network,
        "input_shape": list(inputs.shape[1:]),
        "dtype": question.dtype,
        "flips": bool(question.flips),
        "engine": "cpu",
        "numerics_version": kernels.find_engine("cpu").version_for(asked),
    }
    return FolderMemory(memory, described, question.dtype)
