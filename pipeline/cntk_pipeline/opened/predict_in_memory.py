"""Predictions for new images in memory: K(new, train) in blocks on all cores, times the coefficients."""

import datetime
import sys
from collections.abc import Callable

import numpy as np

from cntk_pipeline.clusters.trust import read_trusted
from cntk_pipeline.errors import ConfigError, SpecificationMismatch
from cntk_pipeline.gram.engines import load_code, open_engine, require_numerics
from cntk_pipeline.inputs import short_repr
from cntk_pipeline.kernels import Engine
from cntk_pipeline.kernels.pieces import CostSoFar, compute
from cntk_pipeline.opened.new_images import NewImages, spans
from cntk_pipeline.opened.tiles import Stored, read_whole
from cntk_pipeline.resources import core_count
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.solvers import System, system_group
from cntk_pipeline.solvers.systems import SystemKernel, unit_scale, with_target_mean
from cntk_pipeline.storage.tiled_array import Array

BLOCK_BYTES = 2**27
"""Largest size of a block of images in float64. Beside two of them, their part of the kernel is held."""

MEASURE_ABOVE_SECONDS = 2.0
"""From this forecast on, the time of a pair is measured: a measurement takes seconds."""

Say = Callable[[str], None]


def on_stderr(line: str) -> None:
    """Show a line to a person."""
    sys.stderr.write(f"{line}\n")


def predict_means(run: RunDirectory, system: System, given: object, say: Say | None, *, trust: bool) -> Array:
    """Evaluate the predictive mean of new images, ``(n, classes)`` float64.

    Parameters
    ----------
    run, system
        Of the coefficients.
    given : object
        Images, as the source of the run had them.
    say : callable or None
        Gets a line with the forecast of the time; None for no line.
    trust : bool
        Import the code that computes the run, even if another user wrote the run.

    Raises
    ------
    DataError
        If the images are not like those of the run.
    NotComputed
        If the coefficients are not computed yet.
    SpecificationMismatch
        If another version of the engine computed the kernel of the run.
    NotTrusted
        If code computes the run, and this user has not allowed it.
    StoreError
        If the run does not hold how its images were standardised, and its data set is not at hand.
    """
    if say is not None and not callable(say):
        raise ConfigError(f"say must be a function that takes a line, or None for no line, got {short_repr(say)}")
    images = NewImages.in_memory(run, given)
    if run.specification.engine.code is not None:
        code = read_trusted(run, trust=trust).code
        assert code is not None
        load_code(run, code)
    engine = require_engine(run, system.readout)
    alpha = read_whole(run, stored_coefficients(run, system), f"coefficients of {system.label}")
    columns = run.column_cut.count
    pairs = len(images) * columns
    cost = first_cost(engine, images[: engine.lane_width], pairs)
    if say is not None:
        say(cost_line(len(images), columns, cost.seconds_left(pairs / core_count()) or 0.0, core_count()))
    means = np.zeros((len(images), alpha.shape[1]))
    for begin, end in spans(len(images), run.specification.tile, images.shape[1:], BLOCK_BYTES):
        means[begin:end] = _means(run, system, engine, cost, images[begin:end], alpha)
    return with_target_mean(run, means)


def stored_coefficients(run: RunDirectory, system: System) -> Stored:
    """Describe the coefficients of a system."""
    return Stored.of(system_group(run, system, {}), "coefficients")


def require_engine(run: RunDirectory, readout: str) -> Engine:
    """Put a read-out of a run to its engine.

    Raises
    ------
    SpecificationMismatch
        If another version of the engine computed the kernel of the run: its numbers must not be mixed with new ones.
    """
    try:
        require_numerics(run)
    except SpecificationMismatch as error:
        raise SpecificationMismatch(f"no predictions of new images: {error}") from None
    names = [known.name for known in run.specification.readouts]
    return open_engine(run, (names.index(readout),))


def first_cost(engine: Engine, sample: Array, pairs: int) -> CostSoFar:
    """Forecast the time of a pair: by the engine's guess where little is to be done, else by a measurement."""
    guessed = engine.guessed_pair_seconds
    if guessed is not None and guessed * pairs / core_count() < MEASURE_ABOVE_SECONDS:
        return CostSoFar(guessed, is_known=True)
    return CostSoFar(engine.measure(sample).seconds, is_known=True)


def cost_line(images: int, train: int, seconds: float, cores: int) -> str:
    """Say what predictions cost."""
    left = datetime.timedelta(seconds=round(seconds))
    time = "less than a second" if seconds < 0.5 else f"about {left} (h:mm:ss)"
    on = f"{cores} core{'' if cores == 1 else 's'}"
    return f"predicting {images:,} images: {images * train:,} pairs with the training images, {time} on {on}"


def _means(run: RunDirectory, system: System, engine: Engine, cost: CostSoFar, block: Array, alpha: Array) -> Array:
    """Evaluate the means of one block of standardised images, tile by tile as a run does."""
    cut, kernel, tile = run.column_cut, SystemKernel(run, system), run.specification.tile
    left = np.ones(len(block))
    if system.unit_diagonal:
        left = unit_scale(engine.evaluator().evaluate_pairs(block)[0].astype(float))
    means = np.zeros((len(block), alpha.shape[1]))
    for begin, end in spans(cut.count, cut.size, block.shape[1:], BLOCK_BYTES):
        images = run.column_images((begin, end))
        values = compute(engine, block, images, cost, core_count(), lambda *_: None)[0]
        for col in range(begin // cut.size, -(-end // cut.size)):
            low, high = cut.bounds(col)
            right = kernel.column_scale((low, high))
            for top in range(0, len(block), tile):
                rows = slice(top, min(top + tile, len(block)))
                part = values[rows, low - begin : high - begin].astype(np.float64)
                means[rows] += (part * left[rows, None] * right) @ alpha[low:high]
    return means
