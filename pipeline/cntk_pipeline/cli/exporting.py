"""The command `cntk export`."""

from typing import Annotated

import typer

from cntk_pipeline.cli.display import escape, out
from cntk_pipeline.cli.predicting import place_of
from cntk_pipeline.errors import ConfigError
from cntk_pipeline.opened.export import plan_export, require_folder, write_export
from cntk_pipeline.rundir.directory import RunDirectory


def export(
    directory: Annotated[str, typer.Argument(metavar="DIR", callback=place_of, help="A run directory.")],
    output: Annotated[
        str, typer.Option("--out", metavar="FOLDER", callback=place_of, help="A new folder for the files.")
    ],
    form: Annotated[str, typer.Option("--format", metavar="npz|csv", help="The format of the files.")] = "npz",
    readouts: Annotated[
        list[str] | None, typer.Option("--readout", metavar="NAME", help="A kernel; may be repeated; all by default.")
    ] = None,
    kernels: Annotated[
        bool | None,
        typer.Option("--kernels/--no-kernels", help="Write kernel matrices too; by default npz does, csv does not."),
    ] = None,
) -> None:
    """Write kernels, predictions and labels of a run as npz or csv files, for use without Zarr."""
    if form not in ("npz", "csv"):
        raise ConfigError(f"--format is npz or csv, got {form!r}")
    run, chosen = RunDirectory(directory), "npz" if form == "npz" else "csv"
    plan = plan_export(run, readouts or (), chosen, kernels=form == "npz" if kernels is None else kernels)  # type: ignore[arg-type]
    folder = require_folder(output, plan)
    out.print(f"about {plan.bytes:,} bytes are written")
    write_export(run, plan, folder, lambda line: out.print(escape(line)))
    out.print(f"the files lie in [bold]{escape(str(folder))}[/]")
