"""Networks in training, from a run: the ensemble's mean and covariance at some times, each in memory.

The mean equals the solution of gradient flow from outputs of zero: see `gradient_flow` and `ensemble`.
"""

from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import AfterValidator, with_config

from cntk_pipeline.clusters import WorkerMemory
from cntk_pipeline.clusters.memory import Need, share_bytes
from cntk_pipeline.errors import ConfigError, NotPositiveDefinite
from cntk_pipeline.inference.base import AGAIN, Asked, Found, Product, Result, Shown
from cntk_pipeline.inference.posterior_covariance import PosteriorCovarianceResult
from cntk_pipeline.models import STRICT, Fraction, Json, require_one_length
from cntk_pipeline.regression.ensembles import Blocks, ensemble
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.rundir.owners import Job, Owner, Place
from cntk_pipeline.solvers import SystemSize
from cntk_pipeline.solvers.scores import score, score_columns, score_lists, score_texts, scores_of
from cntk_pipeline.solvers.systems import read_targets, solve_name, targets_of, with_target_mean
from cntk_pipeline.solvers.work import open_work
from cntk_pipeline.storage.records import Record
from cntk_pipeline.storage.tiled_array import ArraySpec, is_made
from cntk_pipeline.tasks import Receipt, Stage, StageForecast, Task

MATRICES = 8
"""Largest number of ``(n + n_test)^2`` matrices that `ensemble` holds at once."""


EIGEN_OPERATIONS = 10.0
"""Cost of an eigendecomposition over n^3, in operations of a matrix product on one core, measured for n = 3000."""


@with_config(STRICT)
@dataclass(frozen=True)
class EnsembleRecord:
    """The ensemble of a network in training, at some times."""

    times: tuple[str, ...]
    accuracy: tuple[Fraction, ...] | None
    mean_variance: tuple[float, ...]
    exact_match: tuple[Fraction, ...] | None = None
    r2: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        require_one_length(self.times, self.accuracy, self.mean_variance, self.exact_match, self.r2)


_RECORD: Record[EnsembleRecord] = Record(EnsembleRecord, AGAIN)


def blocks(run_path: str | Path, readout: str) -> Blocks:
    """Read the blocks of one kernel of a run into memory, for the functions of `cntk_pipeline.regression`.

    Parameters
    ----------
    run_path : str or Path
        Of a run directory.
    readout : str
        Name of the kernel, as `cntk inspect` lists them.

    Returns
    -------
    Blocks
        In the dtype of the run, which tells those functions its rounding. ``test`` is None where the run was not asked
        for ``inference.posterior_covariance``.

    Raises
    ------
    RunNotFound, ConfigError
        If there is no run, or no such kernel in it.
    CorruptTile
        If a tile is not computed yet, or damaged.
    """
    run = RunDirectory(run_path)
    names = [known.name for known in run.specification.readouts]
    if readout not in names:
        raise ConfigError(f"{run.path} has no read-out {readout!r}: it has {', '.join(names)}")
    return _read_blocks(run, readout)


def _read_blocks(run: RunDirectory, readout: str) -> Blocks:
    data = run.specification.data
    train, test = (0, data.train), (0, data.test)
    has_test = is_made(run.test_kernel_path / readout)
    return Blocks(
        train=run.kernel(readout, "train").read_region(train, train, symmetric=True),
        test_train=run.kernel(readout, "test").read_region(test, train),
        test=run.kernel(readout, "test_test").read_region(test, test, symmetric=True) if has_test else None,
    )


@dataclass(frozen=True)
class TrainingNeed:
    """The memory of a task that follows a training.

    Attributes
    ----------
    train, test : int
        Numbers of images.
    """

    train: int
    test: int

    @property
    def bytes(self) -> int:
        """Bytes that one task holds."""
        return MATRICES * 8 * (self.train + self.test) ** 2

    def require(self, memory: WorkerMemory) -> None:
        """Refuse to follow the training on a data set that one worker cannot hold.

        Raises
        ------
        ConfigError
            If it does not fit. The message has the need, the limit, and the number of images that would fit.
        """
        share = max(share_bytes(memory), 0)
        if self.bytes <= share:
            return
        fits = int((share / (MATRICES * 8)) ** 0.5)
        raise ConfigError(
            f"inference.ensemble follows the training in the memory of one worker: {self.train} training and "
            f"{self.test} test images need {self.bytes / 1e9:.2g} GB, it has {share / 1e9:.2g} GB. About {fits} images "
            "would fit, both parts together: take fewer, give workers more memory (cluster.memory_limit), or drop "
            "inference.ensemble"
        )


def ensemble_product(run: RunDirectory, ntk: str, times: Sequence[float], *, covariance: bool) -> Product:
    """Describe the mean and the variance of a trained ensemble, and its covariance if asked for; one task per time.

    Parameters
    ----------
    ntk : str
        Name of the read-out; the NNGP of the same network is another read-out.
    times : sequence of float
        Of gradient flow with learning rate 1 under the loss ``1/2 mean over all n c entries``; infinity is the end.
    """
    network = ntk.removesuffix("ntk").removesuffix("-") or "network"
    specification: Json = {
        "kernel": run.fingerprint,
        "readout": ntk,
        "nngp": f"{ntk.removesuffix('ntk')}nngp",
        "network": network,
        "times": [str(time) for time in times],
        "covariance": covariance,
        "targets": targets_of(run.specification.data),
        "ridge": 0.0,
        "ridge_mode": "absolute",
        "tile": run.specification.tile,
    }
    data, count = run.specification.data, len(times)
    test, classes = data.test, len(data.classes)
    stage = Stage("ensemble", "covariance" if covariance else "", solve_name(specification))
    arrays = [
        ArraySpec("mean", (count, test, classes), (1, test, classes), "float64", ("time", "test", data.column_axis)),
        ArraySpec("variance", (count, test), (1, test), "float64", ("time", "test")),
    ]
    if covariance:
        arrays.append(
            ArraySpec("covariance", (count, test, test), (1, test, test), "float64", ("time", "test_row", "test"))
        )
    jobs = tuple(Job(Task(stage, time, 0), ENSEMBLE, data.train**2, (2**39, time)) for time in range(count))

    def summarise(run: RunDirectory) -> Json:
        mean, variance = (run.inferred(stage.solve, stage.name, part) for part in ("mean", "variance"))
        labels = run.labels("test")
        scores = [] if labels is None else [score(data, labels, mean.read(k, 0, 0)[0]) for k in range(count)]
        return {
            "times": [str(time) for time in times],
            "mean_variance": [float(variance.read(k, 0).mean()) for k in range(count)],
        } | ({"accuracy": None} if labels is None else score_lists(scores))

    return Product(
        stage,
        ENSEMBLE,
        tuple(arrays),
        jobs,
        _RECORD,
        summarise,
        label=network,
        specification=specification,
    )


def follow_training(run_path: str, task: Task) -> Receipt:
    """Evaluate mean, variance and, if asked for, covariance of the trained ensemble at one time."""
    work = open_work(run_path, task)
    record = work.run.solve_record(work.system.fingerprint) or {}
    time, data = float(record["times"][task.row]), work.run.specification.data
    start, moves = (_read_blocks(work.run, record[kind]) for kind in ("nngp", "readout"))
    prior = start.test
    if not record["covariance"]:  # then only the diagonal of K** exists, and only the diagonal of the result is kept
        prior = np.diag(work.run.kernel(record["nngp"], "test_variance").read_region((0, data.test)))
    targets = read_targets(work.run, (0, data.train))
    try:
        predictive = ensemble(Blocks(start.train, start.test_train, prior), moves, targets, time)
    except NotPositiveDefinite as error:
        raise NotPositiveDefinite(f"{record['network']} at time {time:g}: {error}", error.row, error.pivot) from None
    assert predictive.covariance is not None
    parts = [with_target_mean(work.run, predictive.mean), np.diagonal(predictive.covariance)]
    parts += [predictive.covariance] if record["covariance"] else []
    return work.write(ENSEMBLE, *(part[None] for part in parts))


def _places(run: RunDirectory, task: Task) -> list[Place]:
    solve, name = task.stage.solve, task.stage.name
    places: list[Place] = [
        (run.inferred(solve, name, "mean"), (task.row, 0, 0)),
        (run.inferred(solve, name, "variance"), (task.row, 0)),
    ]
    if task.stage.parameters:
        places.append((run.inferred(solve, name, "covariance"), (task.row, 0, 0)))
    return places


ENSEMBLE = Owner("ensemble", follow_training, _places)


def _not_negative(times: list[float | Literal["inf"]]) -> list[float | Literal["inf"]]:
    for time in times:
        if float(time) < 0:
            raise ValueError(f'expected times of at least 0, or "inf", got {time}')
    return times


class EnsembleResult(Result):
    """The training of an ensemble of networks, followed to some times of gradient flow, "inf" for its end.

    The mean and variance of each test image, and with ``posterior_covariance`` the covariance, in the memory of one
    worker. Both kinds of read-outs of a network are needed.
    """

    key = "ensemble"
    earlier_keys = ("times",)
    option = Annotated[list[float | Literal["inf"]], AfterValidator(_not_negative)]
    owner = ENSEMBLE
    record = _RECORD

    def require(self, value: list[float | str], train: int, kinds: Set[str]) -> None:
        if kinds != {"ntk", "nngp"}:
            raise ConfigError(
                f"inference.ensemble needs both kernels of a network, got readouts.kinds = {sorted(kinds)}: "
                'write kinds = ["ntk", "nngp"]'
            )

    def of_run(self, run: RunDirectory, asked: Asked) -> list[Product]:
        times, covariance = [float(time) for time in asked[self.key]], PosteriorCovarianceResult.key in asked
        names = [readout.name for readout in run.specification.readouts if readout.kind == "ntk"]
        return [ensemble_product(run, name, times, covariance=covariance) for name in names]

    def forecast_run(self, asked: Asked, size: SystemSize, readouts: int) -> list[StageForecast]:
        tasks = len(asked[self.key]) * readouts // 2  # a network is two read-outs
        numbers = size.test * (size.classes + 1 + (size.test if PosteriorCovarianceResult.key in asked else 0))
        operations = EIGEN_OPERATIONS * size.train**3
        return [StageForecast(self.key, tasks, 8 * numbers * tasks, operations * tasks / size.product_rate)]

    def needs(self, size: SystemSize) -> list[Need]:
        return [TrainingNeed(size.train, size.test)]

    def show(self, found: Found) -> Shown:
        scores = [(name, record, scores_of(record, len(record.times))) for name, record in found]
        columns = score_columns([each for _, _, several in scores for each in several])
        rows = [
            (name, time, *score_texts(each, columns), f"{variance:.4g}")
            for name, record, several in scores
            for time, each, variance in zip(record.times, several, record.mean_variance, strict=True)
        ]
        return Shown("trained ensemble", ("time", *columns, "mean variance"), tuple(rows))
