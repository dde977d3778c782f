"""A run in three lines, for people: its place, its data, its state."""

from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.workflow.report import make_report


def describe(run: RunDirectory) -> tuple[str, str, str]:
    """Return the place, the data and the state of a run in words."""
    data = run.specification.data
    shape = " x ".join(map(str, data.shape))
    columns = f"{len(data.classes)} {'targets' if data.task == 'regression' else 'classes'}"
    images = f"{data.train} training and {data.test} test images of {shape}, {columns}"
    if not run.has_workflow():
        return str(run.path), images, "stopped before it began"
    report = make_report(run)
    if report.complete:
        return str(run.path), images, "complete"
    at_work = report.at_work
    far = "nothing is begun" if at_work is None else f"{at_work[0]}: {at_work[1]} of {at_work[2]} tiles"
    driver = "no driver is at work" if report.driver is None else f"the driver {report.driver} is at work"
    return str(run.path), images, f"{far}; {driver}"
