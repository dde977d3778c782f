"""The interface of a result of inference, and the product that it asks of one system."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, ClassVar

from cntk_pipeline.clusters.memory import Need
from cntk_pipeline.config import SolveConfig
from cntk_pipeline.models import Json
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.rundir.owners import Job, Owner
from cntk_pipeline.rundir.specification import AGAIN as AGAIN
from cntk_pipeline.rundir.specification import fingerprint
from cntk_pipeline.solvers import System, SystemSize
from cntk_pipeline.solvers.prediction import LAST as LAST
from cntk_pipeline.storage.records import Record
from cntk_pipeline.storage.tiled_array import ArraySpec, Group
from cntk_pipeline.tasks import Stage, StageForecast


@dataclass(frozen=True)
class Product:
    """A result for one system, or for one network: its arrays, its jobs and its record.

    Attributes
    ----------
    stage : Stage
        Of its jobs; names the solve, the arrays and the record, with a digest or a number of the parameters.
    owner : Owner
        Of the stage.
    arrays : tuple of ArraySpec
        The arrays to create.
    jobs : tuple of Job
        The jobs that fill the arrays.
    record : Record, optional
        How its record is read; None for a product that serves other products only.
    summarise : callable, optional
        Reads the filled arrays and returns the record.
    parameters : Json
        Further inputs of the jobs, beside their tiles; kept as attributes of the arrays' group.
    label : str
        Of the system or the network, for people.
    specification : Json, optional
        Of a product that belongs to no system: its solve.json, without a ridge.
    record_name : str
        Name of the record's file, if it lies beside solve.json.
    """

    stage: Stage
    owner: Owner
    arrays: tuple[ArraySpec, ...]
    jobs: tuple[Job, ...]
    record: Record[Any] | None = None
    summarise: Callable[[RunDirectory], Json] | None = None
    parameters: Json = field(default_factory=dict)
    label: str = ""
    specification: Json | None = None
    record_name: str = ""

    @property
    def solve(self) -> str:
        """The name of the solve."""
        return self.stage.solve

    @property
    def record_path(self) -> str:
        """The path of the record in the run directory."""
        return f"solve/{self.solve}/{self.record_name or f'inference/{self.stage.name}.json'}"

    def group(self, run: RunDirectory) -> Group:
        """Describe the empty arrays."""
        attributes = {"solve": self.solve, "product": self.stage.name} | self.parameters
        return Group(run.inferred_path(self.solve, self.stage.name), self.arrays, attributes)

    def specify(self, run: RunDirectory) -> None:
        """Write the solve.json of a product that belongs to no system: its tasks read it."""
        if self.specification is not None:
            run.write_record(
                f"solve/{self.solve}/solve.json", self.specification | {"ridge": 0.0, "absolute_ridge": 0.0}
            )

    def create(self, run: RunDirectory) -> None:
        """Create the empty arrays; nothing happens where they exist."""
        self.specify(run)
        self.group(run).create()

    def finish(self, run: RunDirectory) -> None:
        """Write the record, once; all jobs must be done."""
        if self.summarise is not None and self.read(run) is None:
            run.write_record(self.record_path, self.summarise(run))

    def read(self, run: RunDirectory) -> Any:
        """Read the record; None where it is not written yet."""
        return None if self.record is None else run.read_record(self.record_path, self.record)


@dataclass(frozen=True)
class Shown:
    """A table for people.

    Attributes
    ----------
    title : str
        Above the table.
    columns : tuple of str
        Names of all columns but the first.
    rows : tuple of tuple of str
        Texts.
    first : str
        The name of the first column, which says what a row is of.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    first: str = "system"


Found = Sequence[tuple[str, Any]]
"""The records of a result, each after the label of its system."""

Asked = Mapping[str, Any]
"""The keys of ``[inference]`` that a workflow asks for, with their values."""


class Result(ABC):
    """A key of ``[inference]``. The key is also the kind of its stage, and names its arrays and its record.

    Attributes
    ----------
    key : str
        In a workflow.
    earlier_keys : tuple of str
        Its keys in workflows of earlier versions.
    option : type
        Of its value in a workflow, for pydantic; a false value asks for nothing.
    owner : Owner
        Of its stage.
    record : Record
        Of one system or network.
    needs_factor : bool
        Whether it is computed from the factor in float64.
    needs_test_kernel : bool
        Whether it reads K(test, test).
    needs_test_labels : bool
        Whether it compares predictions with the labels of the test images.
    needs_classes : bool
        Whether it asks for a classification with one class an image.
    knows_centres : bool
        Whether it is computed where the kernel has the columns of the centres alone.
    """

    key: ClassVar[str]
    earlier_keys: ClassVar[tuple[str, ...]] = ()
    option: ClassVar[Any] = bool
    owner: ClassVar[Owner]
    record: ClassVar[Record[Any]]
    needs_factor: ClassVar[bool] = False
    needs_test_kernel: ClassVar[bool] = False
    needs_test_labels: ClassVar[bool] = False
    needs_classes: ClassVar[bool] = False
    knows_centres: ClassVar[bool] = False

    def require(self, value: Any, train: int, kinds: Set[str]) -> None:  # noqa: B027 - most have nothing to refuse
        """Raise `ConfigError` where a value does not fit the number of training images, or the kinds of read-outs."""

    def require_solve(self, solve: SolveConfig) -> None:  # noqa: B027 - most have nothing to refuse
        """Raise `ConfigError` where a result has no meaning for the systems of ``[solve]``."""

    def of_system(self, run: RunDirectory, system: System, value: Any, order: int) -> list[Product]:
        """List the products for one system, each after products it needs; ``order`` ranks the system among others."""
        return []

    def of_run(self, run: RunDirectory, asked: Asked) -> list[Product]:
        """List the products that belong to no system."""
        return []

    def forecast(self, asked: Asked, size: SystemSize) -> list[StageForecast]:
        """Forecast the stages for one system; a stage that several results need is counted once."""
        return []

    def forecast_run(self, asked: Asked, size: SystemSize, readouts: int) -> list[StageForecast]:
        """Forecast the stages that belong to no system, of a run with some read-outs."""
        return []

    def needs(self, size: SystemSize) -> list[Need]:
        """List the memory of tasks that hold more than the solver's tasks."""
        return []

    @abstractmethod
    def show(self, found: Found) -> Shown:
        """Lay out the records as a table."""


def digest_of(parameters: Any) -> str:
    """Name the parameters of a product by 8 hexadecimal digits."""
    return fingerprint({"parameters": parameters})[:8]
