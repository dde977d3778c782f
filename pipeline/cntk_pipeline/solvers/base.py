"""What the run asks of a solver."""

from abc import ABC, abstractmethod
from collections.abc import Iterator

from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.solvers.systems import System
from cntk_pipeline.tasks import Job, Task


class Solver(ABC):
    """Turns a system into rounds of jobs; the last round writes the coefficients."""

    @abstractmethod
    def rounds(self, run: RunDirectory, system: System, order: int, slots: int) -> Iterator[list[Job]]:
        """Yield lists of jobs; the next is asked for only when all of the last are done.

        Jobs of earlier drivers are listed too: the run looks up which of them are done. What comes next may depend on
        what lies in the store by then. Between rounds a solver reads scalars, no more: it is the driver's time.

        Parameters
        ----------
        order : ranks this system among others; the first item of every job's priority.
        slots : tasks that run at once; no result may depend on them.

        Raises
        ------
        NotConverged
            If going on has no use; the run goes on with the other systems.
        """

    @abstractmethod
    def tasks(self, run: RunDirectory, system: System) -> list[Task]:
        """List the tasks that are known so far, done or not, the one that writes the coefficients among them.

        Called beside a running driver, also before the system's arrays exist: reads only.
        """
