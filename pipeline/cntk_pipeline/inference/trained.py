"""Networks in training, from a run: the ensemble's mean and covariance at some times, each in memory.

The mean is that of gradient flow from outputs of zero as well: see `gradient_flow` and `ensemble`, which compute it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cntk_pipeline.clusters import WorkerMemory
from cntk_pipeline.clusters.memory import share_bytes
from cntk_pipeline.config import RunConfig
from cntk_pipeline.datasets import one_hot_targets
from cntk_pipeline.errors import ConfigError, NotPositiveDefinite
from cntk_pipeline.inference.products import Product
from cntk_pipeline.models import Json
from cntk_pipeline.regression.ensembles import Blocks, ensemble
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.solvers.systems import TARGETS, solve_name
from cntk_pipeline.solvers.work import open_work
from cntk_pipeline.storage.tiled_array import ArraySpec, is_made
from cntk_pipeline.tasks import Job, Receipt, Task

MATRICES = 8
"""Matrices of ``(n + n_test)^2`` numbers, at most, that `ensemble` holds at its height."""


@dataclass(frozen=True)
class Training:
    """The two kernels of one network, and the times that are asked of it.

    Attributes
    ----------
    specification : of the results; its fingerprint names their directory, beside those of the solves.
    times : of gradient flow with learning rate 1 under the loss ``1/2 mean over all n c entries``; infinity is the end.
    """

    specification: Json
    times: tuple[float, ...]

    @property
    def label(self) -> str:
        """Name the network for people."""
        return str(self.specification["network"])


def blocks(run_path: str | Path, readout: str) -> Blocks:
    """Read the blocks of one kernel of a run into memory, for the doors of `inference`.

    Parameters
    ----------
    run_path : of a run directory.
    readout : name of the kernel, as `cntk inspect` lists them.

    Returns
    -------
    Blocks
        In the dtype of the run, from which the doors know its rounding. ``test`` is None where the run was not asked
        for ``inference.covariance``.

    Raises
    ------
    RunNotFound, ConfigError
        There is no run, or no such kernel in it.
    CorruptTile
        A tile is not computed yet, or damaged.
    """
    run = RunDirectory(run_path)
    names = [known["name"] for known in run.specification["readouts"]]
    if readout not in names:
        raise ConfigError(f"{run.path} has no read-out {readout!r}: it has {', '.join(names)}")
    return _read_blocks(run, readout)


def _read_blocks(run: RunDirectory, readout: str) -> Blocks:
    data = run.specification["data"]
    train, test = (0, data["train"]), (0, data["test"])
    has_test = is_made(run.test_kernel_path / readout)
    return Blocks(
        train=run.kernel(readout, "train").read_region(train, train, symmetric=True),
        test_train=run.kernel(readout, "test").read_region(test, train),
        test=run.kernel(readout, "test_test").read_region(test, test, symmetric=True) if has_test else None,
    )


def require_both_kinds(kinds: Sequence[str]) -> None:
    """Refuse to follow a training without both kernels.

    Raises
    ------
    ConfigError
        If a kind is missing.
    """
    if set(kinds) != {"ntk", "nngp"}:
        raise ConfigError(
            f"inference.times needs both kernels of a network, got readouts.kinds = {list(kinds)}: "
            'write kinds = ["ntk", "nngp"]'
        )


def require_trainable(memory: WorkerMemory | None, train: int, test: int) -> None:
    """Refuse times of a data set that one worker cannot hold.

    Raises
    ------
    ConfigError
        With the need, the limit, and how many images would fit.
    """
    need = MATRICES * 8 * (train + test) ** 2
    if memory is None or need <= share_bytes(memory):
        return
    fits = int((max(share_bytes(memory), 0) / (MATRICES * 8)) ** 0.5)
    raise ConfigError(
        f"inference.times follows the training in the memory of one worker: {train} training and {test} test images "
        f"need {need / 1e9:.2g} GB, it has {max(share_bytes(memory), 0) / 1e9:.2g} GB. About {fits} images would fit, "
        "both parts together: take fewer, give workers more memory (cluster.memory_limit), or drop inference.times"
    )


def requested_trainings(run: RunDirectory, config: RunConfig) -> list[Training]:
    """List the trainings that a workflow asks for, one a network."""
    times = tuple(float(time) for time in config.inference.times)
    readouts = [readout["name"] for readout in run.specification["readouts"] if readout["kind"] == "ntk"]
    if not times:
        return []
    return [
        Training(
            {
                "kernel": run.fingerprint,
                "readout": ntk,
                "nngp": f"{ntk.removesuffix('ntk')}nngp",
                "network": ntk.removesuffix("ntk").removesuffix("-") or "network",
                "times": [str(time) for time in times],
                "covariance": config.inference.covariance,
                "targets": TARGETS,
                "ridge": 0.0,
                "ridge_mode": "absolute",
                "tile": run.specification["tile"],
            },
            times,
        )
        for ntk in readouts
    ]


def training_product(run: RunDirectory, training: Training) -> Product:
    """Ask for the mean and the covariance of the trained ensemble, a task a time."""
    solve = solve_name(training.specification)
    data = run.specification["data"]
    test, classes, times = data["test"], len(data["classes"]), len(training.times)
    arrays = [
        ArraySpec("mean", (times, test, classes), (1, test, classes), "float64", ("time", "test", "class")),
        ArraySpec("variance", (times, test), (1, test), "float64", ("time", "test")),
    ]
    if training.specification["covariance"]:
        arrays.append(
            ArraySpec("covariance", (times, test, test), (1, test, test), "float64", ("time", "test_row", "test"))
        )
    name = "ensemble-covariance" if training.specification["covariance"] else "ensemble"
    jobs = tuple(
        Job(Task(f"{name}:{solve}", time, 0), follow_training, data["train"] ** 2, (2**39, time))
        for time in range(times)
    )

    def summarise(run: RunDirectory) -> Json:
        mean, variance = (run.inferred(solve, name, part) for part in ("mean", "variance"))
        labels = np.asarray(run.inputs("test_labels")[:])
        right = [np.mean(mean.read(k, 0, 0)[0].argmax(1) == labels) for k in range(times)]
        return {
            "times": [str(time) for time in training.times],
            "accuracy": None if classes == 1 else [float(share) for share in right],
            "mean_variance": [float(variance.read(k, 0).mean()) for k in range(times)],
        }

    return Product(solve, name, tuple(arrays), jobs, summarise)


def write_training(run: RunDirectory, training: Training) -> None:
    """Write down a training where its tasks look for it: as a system without a ridge."""
    name = solve_name(training.specification)
    run.write_record(f"solve/{name}/solve.json", training.specification | {"absolute_ridge": 0.0})


def follow_training(run_path: str, task: Task) -> Receipt:
    """Evaluate mean, variance and, where it is asked for, covariance of the trained ensemble at one time."""
    work = open_work(run_path, task)
    record = work.run.solve_record(work.system.fingerprint) or {}
    time, data = float(record["times"][task.row]), work.run.specification["data"]
    start, moves = (_read_blocks(work.run, record[kind]) for kind in ("nngp", "readout"))
    prior = start.test
    if not record["covariance"]:  # then of K** only the diagonal is there, and of the result only that is kept
        prior = np.diag(work.run.kernel(record["nngp"], "test_variance").read_region((0, data["test"])))
    targets = one_hot_targets(np.asarray(work.run.inputs("train_labels")[:]), len(data["classes"]))
    try:
        predictive = ensemble(Blocks(start.train, start.test_train, prior), moves, targets, time)
    except NotPositiveDefinite as error:
        raise NotPositiveDefinite(f"{record['network']} at time {time:g}: {error}", error.row, error.pivot) from None
    assert predictive.covariance is not None
    parts = [predictive.mean, np.diagonal(predictive.covariance)]
    parts += [predictive.covariance] if record["covariance"] else []
    return work.write(*(part[None] for part in parts))
