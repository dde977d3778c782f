"""The interface of a solver."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from cntk_pipeline.clusters.memory import Need
from cntk_pipeline.config import Section
from cntk_pipeline.models import Json
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.rundir.owners import Job, Owner
from cntk_pipeline.rundir.specification import BESIDE_THE_RESULT, CentreSpecification
from cntk_pipeline.solvers.forecast import IterationForecast, SystemSize
from cntk_pipeline.solvers.states import Iterations
from cntk_pipeline.solvers.systems import System
from cntk_pipeline.storage.tiled_array import ArraySpec, Group
from cntk_pipeline.tasks import StageForecast
from cntk_pipeline.tiling import choose_product_tile


class Solver(ABC):
    """Turns a system into rounds of jobs; the last round writes the coefficients.

    Attributes
    ----------
    options : subclass of Section
        The model of the solver's own keys of ``[solve]``, with their defaults.
    owners : tuple of Owner
        Of the stages that the solver knows, in the order in which a plan and a status show them.
    """

    options: ClassVar[type[Section]]
    owners: ClassVar[tuple[Owner, ...]]

    # The system on disk.

    def specification(self, options: Any) -> Json:
        """Return the options that a result depends on; ``options`` is an instance of the solver's own model."""
        values = options.model_dump(mode="json", exclude_none=True)
        return {key: value for key, value in values.items() if key not in BESIDE_THE_RESULT}

    def has_exact_factor(self, options: Any) -> bool:
        """Tell whether a factor is stored with no more rounding than that of float64 arithmetic."""
        return False

    def centres(self, options: Any) -> CentreSpecification | None:
        """Return the training images whose columns of the kernel are computed; None for all."""
        return None

    def kernel_bytes(self, options: Any) -> int | None:
        """Return the bytes of K(train, train) that are stored, while a solve computes the rest; None for all."""
        return None

    def choose_tile(self, train: int, kernel_tile: int, wanted: Literal["auto"] | int) -> int:
        """Choose the edge of the tiles or blocks that the solver works on; ``wanted`` is ``solve.tile``."""
        return choose_product_tile(train, kernel_tile, None if wanted == "auto" else wanted)

    def arrays(self, run: RunDirectory, system: System) -> list[ArraySpec]:
        """List the arrays that a solve keeps beside coefficients, predictions and residuals."""
        return []

    def scratch_groups(self, run: RunDirectory, system: System) -> list[Group]:
        """List the groups of arrays that a solve needs until it is finished."""
        return []

    # The tasks.

    @abstractmethod
    def rounds(self, run: RunDirectory, system: System, order: int, slots: int) -> Iterator[list[Job]]:
        """Yield lists of jobs; the next is asked for only when all of the last are done.

        Jobs of earlier drivers are listed too: the run looks up which of them are done. The next list may depend on
        the state of the store at that time. Between rounds a solver reads only scalars: the driver waits for it.

        Parameters
        ----------
        order : int
            Ranks this system among others; the first item of every job's priority.
        slots : int
            Tasks that run at once; no result may depend on them.

        Raises
        ------
        NotConverged
            If further rounds are useless; the run goes on with the other systems.
        """

    @abstractmethod
    def jobs(self, run: RunDirectory, system: System) -> list[Job]:
        """List all jobs known so far, done or not; the last one writes the coefficients.

        Called beside a running driver, also before the system's arrays exist: reads only.
        """

    def iterations(self, run: RunDirectory, system: System) -> Iterations | None:
        """Read the progress of a solve's iterations; None where none run."""
        return None

    # The cost.

    @abstractmethod
    def forecast(self, size: SystemSize, options: Any) -> list[StageForecast]:
        """Forecast the stages of one system, without iterations."""

    def forecast_iteration(self, size: SystemSize, options: Any) -> IterationForecast | None:
        """Forecast one iteration on one system; None where none run. Measures how fast the kernel is streamed here."""
        return None

    @abstractmethod
    def needs(self, size: SystemSize, options: Any) -> list[Need]:
        """List the memory that the solver's tasks hold."""
