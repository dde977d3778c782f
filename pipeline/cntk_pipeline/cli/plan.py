"""What `cntk plan` shows, and the data set, which other commands show too."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cntk_pipeline.cli.console import escape, out
from cntk_pipeline.cli.tables import plain_table, show_table
from cntk_pipeline.units import bytes_text, count_text, seconds_text

if TYPE_CHECKING:
    from cntk_pipeline.workflow.plan import Plan


def show_plan(plan: "Plan") -> None:
    """Show a forecast."""
    show_contents(plan.contents.lines, plan.warnings)
    out.print(
        escape(
            f"{len(plan.readouts)} {'read-out' if len(plan.readouts) == 1 else 'read-outs'} in one pass of the engine "
            f"{plan.engine}, numerics version {plan.numerics_version}:"
        )
    )
    out.print(escape("  " + ", ".join(plan.readouts)))
    part = "measured" if plan.measured_share == 1 else f"measured on {100 * plan.measured_share:.2g} % of a pair"
    part = part if plan.measured_share else "counted, not measured: no graphics card is at hand here"
    entries = "" if plan.plane_entries is None else f", {count_text(plan.plane_entries)} plane entries each"
    out.print(
        f"{count_text(plan.pairs)} pairs at {seconds_text(plan.pair_seconds)} a pair and core ({part})"
        f"{entries}; {plan.slots} at once"
    )
    if plan.centres is not None:
        out.print(
            f"{plan.centres} centres: {100 * plan.pairs / plan.all_pairs:.3g} % of the {count_text(plan.all_pairs)} "
            "pairs of the whole kernel"
        )
        if plan.pilot:
            out.print(escape(plan.pilot))
    table = plain_table("stage", "tiles", "written", "time")
    for stage in plan.stages:
        table.add_row(stage.stage, str(stage.tasks), bytes_text(stage.written_bytes), seconds_text(stage.seconds))
    tasks = sum(stage.tasks for stage in plan.stages)
    table.add_row("total", str(tasks), bytes_text(plan.written_bytes), seconds_text(plan.seconds), style="bold")
    show_table(table)
    if plan.iteration is not None:
        each = plan.iteration
        out.print(
            f"and each iteration of conjugate gradients: {each.tasks} tasks, "
            f"{bytes_text(each.read_bytes)} of kernel read, {seconds_text(each.seconds)}; "
            "how many it takes is not known beforehand"
        )
    if plan.ways:
        _show_ways(plan)
    out.print(
        f"tiles of {plan.tile} samples, in the solve {plan.factor_tile}; "
        f"memory per worker about {bytes_text(plan.memory_bytes)}"
    )


def _show_ways(plan: "Plan") -> None:
    """Show what the systems cost in each way, and which one is cheapest."""
    from cntk_pipeline.workflow.ways import CENTRES, PASSES, cheapest

    ways, centres = plan.ways, min(CENTRES, plan.train) if plan.centres is None else plan.centres
    said = {
        "factored": "stored, and factored",
        "stored": f"stored, and read in each of {PASSES} passes",
        "recomputed": f"computed again in each of {PASSES} passes",
        "centres": f"of {centres:,} centres, another regression",
    }
    table = plain_table("the kernel", "written", "time", "")
    for way in ways:
        fits = "" if way.fits else "more than is free"
        table.add_row(said[way.name], bytes_text(way.written_bytes), seconds_text(way.seconds), fits)
    table.columns[3].justify = "left"
    show_table(table)
    out.print(", ".join(f"asked for: {said[way.name]}" for way in ways if way.is_asked))
    best, exact = cheapest(ways, exact=False), cheapest(ways, exact=True)
    if best is None and len(ways) == 1:
        out.print(escape("it does not fit the disk, and the workflow's ridges or its [inference] allow no other way"))
    elif best is None:
        out.print("no way fits the disk")
    elif exact is None or exact is best:
        out.print(f"cheapest: {said[best.name]}" + ("; no exact way fits the disk" if exact is None else ""))
    else:
        out.print(f"cheapest: {said[best.name]}; of the exact ways: {said[exact.name]}")


def show_contents(lines: Sequence[str], warnings: Sequence[str]) -> None:
    """Show the loaded data set, and warnings about it."""
    for line in (*lines, *(f"warning: {line}" for line in warnings)):
        out.print(escape(line))
