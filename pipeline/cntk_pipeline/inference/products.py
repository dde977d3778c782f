"""What a workflow may ask of a system: its arrays, its tasks, and what they come to."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from cntk_pipeline.inference.records import RECORDS
from cntk_pipeline.models import Json
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.rundir.specification import fingerprint
from cntk_pipeline.storage.records import Record
from cntk_pipeline.storage.tiled_array import ArraySpec, Group
from cntk_pipeline.tasks import Job

LAST = 2**40
"""In a priority: behind the factorisation of the same system."""


@dataclass(frozen=True)
class Product:
    """Something to infer from one solve.

    Attributes
    ----------
    solve : names the solve.
    name : names its stage, its arrays and its record; a product with parameters carries their digest behind a hyphen.
    arrays : to create.
    jobs : that fill them.
    summarise : reads the filled arrays and returns the record; None where they serve other products only.
    parameters : what its jobs must know besides their tiles; kept as attributes of the arrays' group.
    """

    solve: str
    name: str
    arrays: tuple[ArraySpec, ...]
    jobs: tuple[Job, ...]
    summarise: Callable[[RunDirectory], Json] | None = None
    parameters: Json = field(default_factory=dict)

    @property
    def record(self) -> str:
        """Where its record lies in the run directory."""
        return f"solve/{self.solve}/inference/{self.name}.json"

    @property
    def kind(self) -> Record[Any]:
        """What its record holds, one of `inference.records`."""
        return RECORDS[self.name.partition("-")[0]]

    def create(self, run: RunDirectory) -> None:
        """Create its empty arrays; nothing happens where they exist."""
        self.group(run).create()

    def group(self, run: RunDirectory) -> Group:
        """Describe its empty arrays."""
        attributes = {"solve": self.solve, "product": self.name} | self.parameters
        return Group(run.inferred_path(self.solve, self.name), self.arrays, attributes)

    def finish(self, run: RunDirectory) -> None:
        """Write its record, once; all its jobs must be done."""
        if self.summarise is not None and self.read(run) is None:
            run.write_record(self.record, self.summarise(run))

    def read(self, run: RunDirectory) -> Any:
        """Read its record; None where it is not written yet."""
        return run.read_record(self.record, self.kind)


def digest_of(parameters: Any) -> str:
    """Name the parameters of a product by 8 hexadecimal digits."""
    return fingerprint({"parameters": parameters})[:8]
