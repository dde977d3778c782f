"""One regression: a read-out's kernel plus a ridge, and where its results lie."""

import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.arrays import Array, ArraySpec, create_arrays
from pipeline.config import RunConfig, SolveConfig
from pipeline.datasets import one_hot_targets
from pipeline.durable import Json
from pipeline.errors import NotPositiveDefinite
from pipeline.journal import Receipt, Task, timed
from pipeline.store import RunDirectory, fingerprint
from pipeline.tiling import Cut, choose_factor_tile, choose_product_tile

TARGETS = "one-hot minus 1 / classes"
"""Arora et al. 2019 encode ten classes as 0.9 and -0.1."""

DEFAULT_TOLERANCE, DEFAULT_MAX_ITERATIONS = 1e-10, 1000

DEFAULT_RANK = 256
"""On 1,500 digits (CNTK-V and CNTK-GAP, depth 6, ridges 1e-2 to 1e-6): 26 to 38 iterations to 1e-10, against 142 to
201 with rank 0, 43 to 63 with 64 and 20 to 29 with 512."""


@dataclass(frozen=True)
class Method:
    """How a system is solved.

    Attributes
    ----------
    solver : "cholesky" or "cg".
    factor_dtype : of the stored factor of "cholesky".
    tolerance : relative residual of every class where conjugate gradients end.
    max_iterations : where they give up. The result does not depend on it.
    rank : of the preconditioner of "cg"; 0 is the diagonal.
    """

    solver: str = "cholesky"
    factor_dtype: str = "float64"
    tolerance: float = DEFAULT_TOLERANCE
    max_iterations: int = DEFAULT_MAX_ITERATIONS
    rank: int = DEFAULT_RANK

    @classmethod
    def of(cls, config: SolveConfig) -> "Method":
        """Take what a workflow says, and the defaults for what it does not."""
        return cls(
            config.solver,
            config.factor_dtype or "float64",
            DEFAULT_TOLERANCE if config.tolerance is None else config.tolerance,
            config.max_iterations or DEFAULT_MAX_ITERATIONS,
            DEFAULT_RANK if config.rank is None else config.rank,
        )

    @property
    def factors(self) -> bool:
        """Whether a factor is stored."""
        return self.solver == "cholesky"

    @property
    def iterates(self) -> bool:
        """Whether conjugate gradients run: always but with a factor in float64."""
        return not self.factors or self.factor_dtype == "float32"

    def specification(self) -> Json:
        """Write down what a result depends on; nothing for a factor in float64, which needs no more than the tile."""
        if not self.iterates:
            return {}
        own = {"factor_dtype": self.factor_dtype} if self.factors else {"rank": self.rank}
        return {"method": {"solver": self.solver, "tolerance": self.tolerance} | own}


@dataclass(frozen=True)
class System:
    """``(K + ridge I) alpha = Y`` for one read-out.

    Attributes
    ----------
    readout : name of the kernel.
    ridge, ridge_mode : as the user gave them: "relative" to trace(K) / n, or "absolute".
    absolute_ridge : what is added to the diagonal.
    tile : samples along a tile's edge of the factor, or of the blocks that conjugate gradients multiply.
    fingerprint : 16 hexadecimal digits; names the directory of the solve.
    method : how it is solved.
    """

    readout: str
    ridge: float
    ridge_mode: str
    absolute_ridge: float
    tile: int
    fingerprint: str
    method: Method = Method()

    @property
    def label(self) -> str:
        """Name the system for people."""
        return f"{self.readout}, ridge {self.ridge:g} ({self.ridge_mode})"


def requested_solves(run: RunDirectory, config: RunConfig) -> list[Json]:
    """List the specifications of the systems that a workflow asks for: every ridge of every read-out.

    A specification holds everything that a solve depends on; its fingerprint names the solve.
    """
    wanted = None if config.solve.tile == "auto" else config.solve.tile
    method = Method.of(config.solve)
    choose = choose_factor_tile if method.factors else choose_product_tile
    tile = choose(run.train_cut.count, run.train_cut.size, wanted)
    return [
        {
            "kernel": run.fingerprint,
            "readout": readout["name"],
            "ridge": ridge,
            "ridge_mode": config.solve.ridge_mode,
            "tile": tile,
            "targets": TARGETS,
        }
        | method.specification()
        for readout in run.specification["readouts"]
        for ridge in config.solve.ridges
    ]


def solve_name(specification: Json) -> str:
    """Name a solve by 16 hexadecimal digits of its specification's fingerprint."""
    return fingerprint(specification)[:16]


def make_system(run: RunDirectory, specification: Json, method: Method) -> System:
    """Create the empty arrays of a system; its read-out's variances must be done."""
    readout, ridge, tile = specification["readout"], specification["ridge"], specification["tile"]
    mean_variance = mean_diagonal(run, readout)
    absolute = ridge * mean_variance if specification["ridge_mode"] == "relative" else ridge
    system = System(readout, ridge, specification["ridge_mode"], absolute, tile, solve_name(specification), method)
    data, kernel_tile = run.specification["data"], run.specification["tile"]
    train, test, classes = data["train"], data["test"], len(data["classes"])
    arrays = [
        ArraySpec("coefficients", (train, classes), (train, classes), "float64", ("train", "class")),
        ArraySpec("mean", (test, classes), (kernel_tile, classes), "float64", ("test", "class")),
        ArraySpec("residual", (train, classes), (kernel_tile, classes), "float64", ("train", "class")),
    ]
    if method.factors:
        arrays += [
            ArraySpec("factor", (train, train), (tile, tile), method.factor_dtype, ("train_row", "train")),
            ArraySpec("forward", (classes, train), (classes, tile), "float64", ("class", "train")),
        ]
    record = specification | {"absolute_ridge": absolute, "mean_diagonal": mean_variance}
    run.solve_path(system.fingerprint).mkdir(parents=True, exist_ok=True)
    create_arrays(run.solve_path(system.fingerprint) / "factor.zarr", arrays, record)
    # Beside the specification: a resumed run may allow more iterations.
    record["max_iterations"] = method.max_iterations
    run.write_record(f"solve/{system.fingerprint}/solve.json", record)
    return system


def planned_system(specification: Json, method: Method) -> System:
    """Describe a system whose ridge is not known in absolute terms yet: enough to list its tasks."""
    return System(
        specification["readout"],
        specification["ridge"],
        specification["ridge_mode"],
        float("nan"),
        specification["tile"],
        solve_name(specification),
        method,
    )


def open_system(run: RunDirectory, solve: str) -> System:
    """Read a system back from its directory."""
    record = run.read_record(f"solve/{solve}/solve.json") or {}
    method = Method(**record.get("method", {}), max_iterations=record.get("max_iterations", DEFAULT_MAX_ITERATIONS))
    return System(
        record["readout"],
        record["ridge"],
        record["ridge_mode"],
        record["absolute_ridge"],
        record["tile"],
        solve,
        method,
    )


def mean_diagonal(run: RunDirectory, readout: str) -> float:
    """Evaluate trace(K) / n of a read-out, in float64."""
    variances = run.kernel(readout, "train_variance")
    total = sum(float(variances.read(piece).sum(dtype=float)) for piece in range(variances.cut(0).pieces))
    return total / variances.shape[0]


def factor_cut(run: RunDirectory, system: System) -> Cut:
    """Return how the training samples are cut into tiles of the factor."""
    return Cut(run.specification["data"]["train"], system.tile)


def targets(run: RunDirectory, rows: tuple[int, int]) -> Array:
    """Return the targets of some training samples, ``(samples, classes)`` float64."""
    labels = np.asarray(run.inputs("train_labels")[rows[0] : rows[1]])
    return one_hot_targets(labels, len(run.specification["data"]["classes"]))


def not_positive_definite(run: RunDirectory, system: System, found: str, row: int, pivot: float) -> NotPositiveDefinite:
    """Make the error that names what was found and where, with a ridge to try.

    Parameters
    ----------
    found : what the solver met, in words.
    row : of the training set; -1 where it is no row.
    pivot : the value that should have been positive. The ridge must grow by more than its magnitude.
    """
    scale = mean_diagonal(run, system.readout)
    if scale == 0:
        return NotPositiveDefinite(
            f"{system.label}: the kernel is zero everywhere: its network trains no layer, or all images are black",
            row,
            0.0,
        )
    rounding = np.finfo(run.specification["dtype"]).eps * run.specification["data"]["train"] ** 0.5 * scale
    ridge = system.absolute_ridge + max(2 * abs(pivot), rounding)
    return NotPositiveDefinite(
        f"{system.label}: the kernel plus ridge is not positive definite: {found}. "
        f"Try a ridge of at least {ridge:.1e} absolute, {ridge / scale:.1e} relative to trace(K)/n; the kernel is kept",
        row,
        pivot,
    )


def written(run: RunDirectory, task: Task, values: Callable[[], Sequence[Array]]) -> Receipt:
    """Compute what a task writes, an entry an array of `RunDirectory.arrays_of`, write it, and return its receipt."""
    run.log("began", task)
    parts, seconds = timed(values)
    places = run.arrays_of(task)
    chunks, write_seconds = timed(
        lambda: tuple(array.write(index, part) for (array, index), part in zip(places, parts, strict=True))
    )
    run.log("finished", task)
    return Receipt(task, chunks, 0.0, seconds, write_seconds, socket.gethostname())
