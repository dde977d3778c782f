"""Workflow files: TOML in, a frozen and validated `RunConfig` out.

An unknown key is an error that names the nearest known one; every value is checked before anything runs.
"""

import difflib
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from pipeline.errors import ConfigError

Scalar = bool | int | float | str

_TRIED = ("int", "bool", "float", "literal['auto']", "literal['inf']", "list", "list[int]", "list[float]", "dict")
"""What pydantic puts into a path for the type that it tried there."""

_MESSAGES = {
    "dict_type": "Input should be a table",
    "invalid-json-value": "Input should be a number, a string, a truth value, or a list or table of such",
}
"""Ours in place of pydantic's, by its type of the problem."""

EXACT_FACTOR = 'take solver = "cholesky" with factor_dtype = "float64"'
"""What to do where an option is computed from the factor itself, not only from coefficients."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


_Parsed = TypeVar("_Parsed", bound=_Section)


class DataConfig(_Section):
    """``[data]``: which images.

    Attributes
    ----------
    source : a data set by name: digits, cifar10, npz, folder.
    path : where its files are; None looks in the usual places.
    train : number of training images, the first ones in file order; None takes all.
    train_blocks : cut the training part into this many equal consecutive blocks (CIFAR-10 has five batch files)
        and take the first ``train / train_blocks`` of each.
    test : number of test images; None takes all.
    standardize : subtract the training mean of each channel and divide by its standard deviation.
    standardize_first : measure both on the first so many of the chosen training images; None takes all. A run that
        grows keeps its values only where this names the images of the run it grows from.
    """

    source: str = "digits"
    path: str | None = None
    train: int | None = Field(default=None, ge=1)
    train_blocks: int = Field(default=1, ge=1)
    test: int | None = Field(default=None, ge=1)
    standardize: bool = True
    standardize_first: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _something_is_standardized(self) -> "DataConfig":
        if self.standardize_first is not None and not self.standardize:
            raise ValueError("standardize_first means nothing with standardize = false: leave out one of them")
        return self


class NetworkConfig(_Section):
    """``[network]``: a preset with options, or the layers one by one.

    Attributes
    ----------
    preset : a family of networks by name: cntk, fully_connected, myrtle, resnet, wide_resnet, cnn_gp.
    options : further arguments of the preset.
    layers : instead of a preset, a list of tables, each with ``layer``, its class, and that class's fields. Fields
        that hold layers, like the branch of a Residual, are lists of tables again.
    """

    preset: str | None = None
    options: dict[str, Scalar] = {}
    # The layers check their values themselves, and `pipeline.layers.spelling` says where; here any tree will do.
    layers: list[dict[str, JsonValue]] | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> "NetworkConfig":
        if (self.preset is None) == (self.layers is None):
            raise ValueError("give either preset or layers")
        if self.layers is not None and self.options:
            raise ValueError("options belong to a preset; write them into the layers")
        return self


class ReadoutsConfig(_Section):
    """``[readouts]``: what is stored of one pass: every combination of depth, pooling and kind.

    Attributes
    ----------
    depths : of the preset's networks; empty for explicit layers.
    poolings : as the preset knows them ("gap", "flatten", "lap4"); empty takes its first, or where it knows none.
    kinds : "ntk", "nngp" or both.
    """

    depths: list[int] = []
    poolings: list[str] = []
    kinds: list[Literal["ntk", "nngp"]] = Field(default=["ntk"], min_length=1)


class KernelConfig(_Section):
    """``[kernel]``: how the matrices are computed and cut.

    Attributes
    ----------
    dtype : of computation and storage.
    flips : average each value with that of one image flipped left to right, as training on all flips as well would.
    tile : samples along a tile's edge; "auto" chooses from what a pair costs.
    """

    dtype: Literal["float32", "float64"] = "float32"
    flips: bool = False
    tile: Literal["auto"] | int = "auto"

    @model_validator(mode="after")
    def _tile_is_positive(self) -> "KernelConfig":
        if self.tile != "auto" and self.tile < 1:
            raise ValueError(f'tile must be "auto" or at least 1, got {self.tile}')
        return self


class SolveConfig(_Section):
    """``[solve]``: the regression on each read-out.

    Attributes
    ----------
    ridges : regularisers; each is added to the diagonal. "auto" takes, for each read-out, that of 1, 0.1, ..., 1e-7
        times trace(K) / n with the smallest mean squared leave-one-out error on the training images.
    ridge_mode : "relative" multiplies them by trace(K) / n, "absolute" takes them as they are.
    solver : "cholesky" factors, n^3 / 3 operations; "cg", conjugate gradients, streams the stored kernel once an
        iteration. docs/solving.md says when to use which.
    tile : samples along the edge of a tile of the factor, or of the blocks that "cg" works on, rounded to whole kernel
        tiles; "auto" chooses.
    unit_diagonal : regress on ``K_ij / sqrt(K_ii K_jj)``; the stored kernel stays as it is.
    factor_dtype : of the stored factor of "cholesky", default float64. In float32 it takes half the disk, and conjugate
        gradients with it as preconditioner bring the residual down to ``tolerance``; products are in float64 anyway.
    tolerance : of conjugate gradients: relative residual of every class, default 1e-10, checked on the stored kernel.
    max_iterations : of conjugate gradients, default 1,000; raise it and resume to go on.
    rank : of the preconditioner of "cg", default 256: it flattens as many of the largest eigenvalues, takes one pass of
        n^2 rank operations, and n rank numbers in memory. 0 scales by the diagonal only.
    """

    ridges: Literal["auto"] | Annotated[list[float], Field(min_length=1)] = [0.0]
    ridge_mode: Literal["relative", "absolute"] = "relative"
    solver: Literal["cholesky", "cg"] = "cholesky"
    tile: Literal["auto"] | int = "auto"
    unit_diagonal: bool = False
    factor_dtype: Literal["float64", "float32"] | None = None
    # None, not the defaults: whoever gives an option to a solver that does not know it is told so.
    tolerance: float | None = Field(default=None, gt=0, lt=1)
    max_iterations: int | None = Field(default=None, ge=1, le=100_000)
    rank: int | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _ridges_are_not_negative(self) -> "SolveConfig":
        if self.ridges == "auto":
            if self.ridge_mode != "relative":
                raise ValueError('ridges = "auto" chooses among relative ridges: leave ridge_mode out')
            return self
        if min(self.ridges) < 0:
            raise ValueError(f"ridges must be at least 0, got {min(self.ridges)}")
        if len(set(self.ridges)) < len(self.ridges):
            raise ValueError(f"ridges repeat: {self.ridges}")
        if self.tile != "auto" and self.tile < 1:
            raise ValueError(f'tile must be "auto" or at least 1, got {self.tile}')
        return self

    @model_validator(mode="after")
    def _options_belong_to_the_solver(self) -> "SolveConfig":
        if self.solver == "cg" and self.factor_dtype is not None:
            raise ValueError('factor_dtype belongs to solver = "cholesky"; "cg" stores no factor')
        if self.ridges == "auto" and not self.has_exact_factor:
            raise ValueError(f'ridges = "auto" compares the leave-one-out of factors: {EXACT_FACTOR}, or give ridges')
        if self.solver == "cholesky" and self.rank is not None:
            raise ValueError('rank belongs to solver = "cg"; "cholesky" needs no preconditioner')
        if self.solver == "cholesky" and self.factor_dtype != "float32":
            for option, value in (("tolerance", self.tolerance), ("max_iterations", self.max_iterations)):
                if value is not None:
                    raise ValueError(
                        f'{option} belongs to solver = "cg" or factor_dtype = "float32"; '
                        "a factor in float64 solves without iterations"
                    )
        return self

    @property
    def has_exact_factor(self) -> bool:
        """Whether a factor is stored that rounds no more than its float64 arithmetic."""
        return self.solver == "cholesky" and self.factor_dtype != "float32"


class InferenceConfig(_Section):
    """``[inference]``: what else to infer from every system once it is solved.

    Attributes
    ----------
    leave_one_out : what each training image is predicted to be by all others. It costs as much as the factor.
    learning_curve : test results of the first m training images: ``true`` for about ten sizes m, or a rising list.
    variance : posterior variance of each test image.
    covariance : posterior covariance of all test images; K(test, test) is computed for it, and only then.
    times : follow the training of an ensemble of networks to these times of gradient flow, "inf" for its end: its mean,
        variance and, with ``covariance``, covariance, in the memory of one worker. Needs both kinds of read-outs.
    spectrum : eigenvalues at both ends of the kernel, so many of each; ``true`` is 10.

    Learning curve, variance and covariance share ``8 n_test n`` bytes on disk and ``n_test n^2`` operations.
    """

    leave_one_out: bool = False
    learning_curve: bool | list[int] = False
    variance: bool = False
    covariance: bool = False
    times: list[float | Literal["inf"]] = []
    spectrum: bool | int = False

    @model_validator(mode="after")
    def _sizes_rise(self) -> "InferenceConfig":
        sizes = self.learning_curve
        if isinstance(sizes, list) and (not sizes or sizes[0] < 1 or sorted(set(sizes)) != sizes):
            raise ValueError(f"learning_curve must be true, false, or rising sizes of at least 1, got {sizes}")
        for time in self.times:
            if float(time) < 0:
                raise ValueError(f'times must be at least 0, or "inf", got {time}')
        if not isinstance(self.spectrum, bool) and self.spectrum < 1:
            raise ValueError(f"spectrum must be true, false, or a count of at least 1, got {self.spectrum}")
        return self

    @property
    def options_of_the_factor(self) -> list[str]:
        """Names of the options asked for that are computed from the factor."""
        asked = {
            "leave_one_out": self.leave_one_out,
            "learning_curve": bool(self.learning_curve),
            "variance": self.variance,
            "covariance": self.covariance,
        }
        return [name for name, wanted in asked.items() if wanted]


class ClusterConfig(_Section):
    """``[cluster]``: where tiles are computed. No number in the results depends on it.

    Attributes
    ----------
    kind : "local" worker processes, "serial" in one process, the "address" of a Dask scheduler, "slurm", "ssh" or
        "kubernetes".
    workers : processes, in all; None is one a core of this machine, or all that the batch job or the hosts have.
    minimum_workers : scale between so many and ``workers`` while kernel tiles are computed; None keeps ``workers``.
    threads_per_worker : tiles a process computes at once.
    memory_limit : of one worker, as Dask writes it ("4GiB", 0.5, "auto").
    tls : encrypt everything between processes, with certificates of the cluster's own.
    tls_ca_file, tls_cert, tls_key : of an existing scheduler, in PEM.
    dashboard : where Dask's dashboard listens; anything but the loopback is warned of.
    metrics : where the driver itself serves Prometheus metrics, "HOST:PORT"; docs/observability.md says who needs it.
    address, scheduler_file : of an existing scheduler.
    interface : the network interface by which hosts reach one another ("ib0").
    hosts : of "ssh"; the first one runs the scheduler.
    python : the Python that has this package on the hosts; None is the path of this one.
    partition, account, time_limit : of a "slurm" job; the time as SLURM writes it ("1-00:00:00").
    batch_options : further lines of the batch job, each an option as sbatch takes it ("--constraint=avx512").
    setup : shell lines that run first in the batch job ("module load python").
    drain_seconds : before the time limit, for tiles in flight to finish; no further one is begun then.
    resubmit : let a job that met its time limit go on in the next one, until the run is complete.
    image, namespace, volume_claim : of "kubernetes": the container image, and the claim that holds the run directory.
    service_account, secret : of "kubernetes": what its driver may do, and a Secret whose entries all pods have as
        environment variables, such as the credentials of a bucket; deploy/kubernetes has both.
    """

    kind: str = "local"
    workers: int | None = Field(default=None, ge=1)
    minimum_workers: int | None = Field(default=None, ge=1)
    threads_per_worker: int = Field(default=1, ge=1)
    memory_limit: str | float = "auto"
    tls: bool = True
    tls_ca_file: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    dashboard: str = "127.0.0.1:0"
    metrics: str | None = None
    address: str | None = None
    scheduler_file: str | None = None
    interface: str | None = None
    hosts: list[str] = []
    python: str | None = None
    partition: str | None = None
    account: str | None = None
    time_limit: str | None = None
    batch_options: list[str] = []
    setup: list[str] = []
    drain_seconds: float = Field(default=120.0, ge=0)
    resubmit: bool = False
    image: str | None = None
    namespace: str | None = None
    volume_claim: str | None = None
    service_account: str = "cntk-driver"
    secret: str = "cntk-s3"

    @property
    def idle_options(self) -> list[str]:
        """Names of the options that were given, and that this kind of cluster does not look at."""
        return [name for name in self.model_fields_set if self.kind not in _KINDS_OF.get(name, (self.kind,))]


_KINDS_OF = {"address": ("address", "kubernetes"), "interface": ("ssh", "slurm"), "python": ("ssh", "slurm")} | {
    name: (kind,)
    for kind, names in {
        "address": ("scheduler_file", "tls_ca_file", "tls_cert", "tls_key"),
        "ssh": ("hosts",),
        "slurm": ("partition", "account", "time_limit", "batch_options", "setup", "drain_seconds", "resubmit"),
        "kubernetes": ("image", "namespace", "volume_claim", "service_account", "secret"),
    }.items()
    for name in names
}
"""Which kinds of cluster look at an option; all may at those that are not here."""


class StoreConfig(_Section):
    """``[store]``: where the run lies.

    Attributes
    ----------
    path : the run directory; None is ``runs/NAME``.
    grow_from : an older run directory; whatever is the same in both is taken over instead of computed.
    """

    path: str | None = None
    grow_from: str | None = None


class RunConfig(_Section):
    """A whole workflow file."""

    name: str = Field(default="run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    data: DataConfig = DataConfig()
    network: NetworkConfig
    readouts: ReadoutsConfig = ReadoutsConfig()
    kernel: KernelConfig = KernelConfig()
    solve: SolveConfig = SolveConfig()
    inference: InferenceConfig = InferenceConfig()
    cluster: ClusterConfig = ClusterConfig()
    store: StoreConfig = StoreConfig()

    @model_validator(mode="after")
    def _factors_are_there(self) -> "RunConfig":
        wanted = [f"inference.{name}" for name in self.inference.options_of_the_factor]
        if wanted and not self.solve.has_exact_factor:
            verb = "needs" if len(wanted) == 1 else "need"
            raise ValueError(f"{' and '.join(wanted)} {verb} the factor of the solve: {EXACT_FACTOR}")
        return self


def load_config(path: str | Path, overrides: Sequence[str] = (), cluster_file: str | Path | None = None) -> RunConfig:
    """Read a workflow file and apply ``section.key=value`` overrides.

    Parameters
    ----------
    path : of a TOML file.
    overrides : values are TOML; what is no TOML value is taken as a string. They come last.
    cluster_file : a file whose ``[cluster]`` table takes the place of the workflow's.

    Raises
    ------
    ConfigError
        If the file is missing or no TOML, or a key or value means nothing, with the place and the nearest known key.
    """
    table = _read_toml(path, "workflow file")
    if cluster_file is not None:
        load_cluster(cluster_file)  # whatever is wrong with it is said by its own name
        table["cluster"] = _read_toml(cluster_file, "cluster file")["cluster"]
    for override in overrides:
        _apply(table, override)
    return parse_config(table, str(path))


def load_cluster(path: str | Path) -> ClusterConfig:
    """Read a cluster file: a ``[cluster]`` table and nothing else.

    Raises
    ------
    ConfigError
        As of `load_config`.
    """
    table = _read_toml(path, "cluster file")
    if set(table) != {"cluster"}:
        raise ConfigError(f"{path} must hold a [cluster] table and nothing else, got {', '.join(table) or 'nothing'}")
    return _parse(_ClusterFile, table, str(path)).cluster


class _ClusterFile(_Section):
    cluster: ClusterConfig


def _read_toml(path: str | Path, what: str) -> dict[str, Any]:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read the {what} {path}: {error.strerror}") from error
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error


def parse_config(table: dict[str, Any], origin: str) -> RunConfig:
    """Validate a workflow given as nested tables; ``origin`` names it in errors."""
    return _parse(RunConfig, table, origin)


def _parse(model: type[_Parsed], table: dict[str, Any], origin: str) -> _Parsed:
    try:
        return model.model_validate(table)
    except ValidationError as error:
        lines = [_explain(dict(problem)) for problem in error.errors()]
        raise ConfigError(f"{origin}:\n" + "\n".join(f"  {line}" for line in lines)) from None


def _apply(table: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(f"--set takes section.key=value, got {override!r}")
    for part in parts[:-1]:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise ConfigError(f"--set {override}: {part} is a value, not a section")
    try:
        table[parts[-1]] = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        table[parts[-1]] = text.strip()


def _explain(problem: dict[str, Any]) -> str:
    """Turn one of pydantic's findings into a line with the place and the next step."""
    where = _place(problem["loc"])
    if problem["type"] != "extra_forbidden":
        message = _MESSAGES.get(problem["type"], problem["msg"].removeprefix("Value error, "))
        got = problem.get("input")
        shown = "" if isinstance(got, dict) or got is None else f" (got {got!r})"
        return f"{where or 'the file'}: {message}{shown}"
    known = _known_keys(problem["loc"][:-1])
    name = str(problem["loc"][-1])
    near = difflib.get_close_matches(name, known, 1, 0.5)
    return f"unknown key {where}: " + (f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}")


def _place(location: tuple[Any, ...]) -> str:
    """Write pydantic's path as users do: ``network.layers[0].branch[1]``, without the types it tried on the way."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in location if part not in _TRIED)
    return "".join(parts).removeprefix(".")


def _known_keys(location: tuple[Any, ...]) -> list[str]:
    model: Any = RunConfig
    for part in location:
        model = model.model_fields[part].annotation
    return list(model.model_fields)
