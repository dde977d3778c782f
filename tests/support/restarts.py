"""A process that ends and starts anew, played within this one."""

from cntk_pipeline.gram import tiles as gram
from cntk_pipeline.solvers import forget_tiles


def forget() -> None:
    """Forget what a process knows that has ended: open runs, and tiles that it keeps in memory."""
    gram.forget_runs()
    forget_tiles()
