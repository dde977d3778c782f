"""The display of a list of runs."""

from collections.abc import Sequence

from cntk_pipeline.cli.console import escape, out
from cntk_pipeline.cli.tables import plain_table, show_table
from cntk_pipeline.solvers.scores import share_text
from cntk_pipeline.units import bytes_text
from cntk_pipeline.workflow.listing import ListedRun


def show_runs(folder: str, found: Sequence[ListedRun]) -> None:
    """Show the runs below a folder, one a row."""
    if not found:
        out.print(f"no run lies in {escape(folder)} or in its folders: give another FOLDER")
        return
    table = plain_table("run", "state", "read-outs", "best", "size", "made (UTC)")
    for run in found:
        made = run.created[:16].replace("T", " ")
        row = (run.path, run.state, str(run.readouts or ""), _best(run), bytes_text(run.bytes), made)
        table.add_row(*map(escape, row))
    table.columns[1].justify = table.columns[5].justify = "left"
    show_table(table)


def _best(run: ListedRun) -> str:
    if run.r2 is not None:
        return f"R2 {run.r2:.3f}"
    return "" if run.accuracy is None else share_text(run.accuracy)
