"""One regression: a read-out's kernel plus a ridge, and where its results lie."""

from dataclasses import dataclass

from pipeline.arrays import ArraySpec, create_arrays
from pipeline.config import RunConfig
from pipeline.durable import Json
from pipeline.store import RunDirectory, fingerprint
from pipeline.tiling import Cut, choose_factor_tile

TARGETS = "one-hot minus 1 / classes"
"""Arora et al. 2019 encode ten classes as 0.9 and -0.1."""


@dataclass(frozen=True)
class System:
    """``(K + ridge I) alpha = Y`` for one read-out.

    Attributes
    ----------
    readout : name of the kernel.
    ridge, ridge_mode : as the user gave them: "relative" to trace(K) / n, or "absolute".
    absolute_ridge : what is added to the diagonal.
    tile : samples along a tile's edge of the factor.
    fingerprint : 16 hexadecimal digits; names the directory of the solve.
    """

    readout: str
    ridge: float
    ridge_mode: str
    absolute_ridge: float
    tile: int
    fingerprint: str

    @property
    def label(self) -> str:
        """Name the system for people."""
        return f"{self.readout}, ridge {self.ridge:g} ({self.ridge_mode})"


def _solve_specification(run: RunDirectory, readout: str, ridge: float, ridge_mode: str, tile: int) -> Json:
    """Write down everything that a solve depends on; its fingerprint names the solve."""
    return {
        "kernel": run.fingerprint,
        "readout": readout,
        "ridge": ridge,
        "ridge_mode": ridge_mode,
        "tile": tile,
        "targets": TARGETS,
    }


def requested_solves(run: RunDirectory, config: RunConfig) -> list[Json]:
    """List the specifications of the systems that a workflow asks for: every ridge of every read-out."""
    wanted = None if config.solve.tile == "auto" else config.solve.tile
    tile = choose_factor_tile(run.train_cut.count, run.train_cut.size, wanted)
    return [
        _solve_specification(run, readout["name"], ridge, config.solve.ridge_mode, tile)
        for readout in run.specification["readouts"]
        for ridge in config.solve.ridges
    ]


def solve_name(specification: Json) -> str:
    """Name a solve by 16 hexadecimal digits of its specification's fingerprint."""
    return fingerprint(specification)[:16]


def make_system(run: RunDirectory, specification: Json) -> System:
    """Create the empty arrays of a system; its read-out's variances must be done."""
    readout, ridge, tile = specification["readout"], specification["ridge"], specification["tile"]
    mean_variance = mean_diagonal(run, readout)
    absolute = ridge * mean_variance if specification["ridge_mode"] == "relative" else ridge
    system = System(readout, ridge, specification["ridge_mode"], absolute, tile, solve_name(specification))
    data, kernel_tile = run.specification["data"], run.specification["tile"]
    train, test, classes = data["train"], data["test"], len(data["classes"])
    arrays = [
        ArraySpec("factor", (train, train), (tile, tile), "float64", ("train_row", "train")),
        ArraySpec("partial", (train, train), (tile, tile), "float64", ("train_row", "train")),
        ArraySpec("forward", (classes, train), (classes, tile), "float64", ("class", "train")),
        ArraySpec("coefficients", (train, classes), (train, classes), "float64", ("train", "class")),
        ArraySpec("mean", (test, classes), (kernel_tile, classes), "float64", ("test", "class")),
        ArraySpec("residual", (train, classes), (kernel_tile, classes), "float64", ("train", "class")),
    ]
    record = specification | {"absolute_ridge": absolute, "mean_diagonal": mean_variance}
    run.solve_path(system.fingerprint).mkdir(parents=True, exist_ok=True)
    create_arrays(run.solve_path(system.fingerprint) / "factor.zarr", arrays, record)
    run.write_record(f"solve/{system.fingerprint}/solve.json", record)
    return system


def planned_system(specification: Json) -> System:
    """Describe a system whose ridge is not known in absolute terms yet: enough to list its tasks."""
    return System(
        specification["readout"],
        specification["ridge"],
        specification["ridge_mode"],
        float("nan"),
        specification["tile"],
        solve_name(specification),
    )


def open_system(run: RunDirectory, solve: str) -> System:
    """Read a system back from its directory."""
    record = run.read_record(f"solve/{solve}/solve.json") or {}
    return System(
        record["readout"], record["ridge"], record["ridge_mode"], record["absolute_ridge"], record["tile"], solve
    )


def mean_diagonal(run: RunDirectory, readout: str) -> float:
    """Evaluate trace(K) / n of a read-out, in float64."""
    variances = run.kernel(readout, "train_variance")
    total = sum(float(variances.read(piece).sum(dtype=float)) for piece in range(variances.cut(0).pieces))
    return total / variances.shape[0]


def factor_cut(run: RunDirectory, system: System) -> Cut:
    """Return how the training samples are cut into tiles of the factor."""
    return Cut(run.specification["data"]["train"], system.tile)
