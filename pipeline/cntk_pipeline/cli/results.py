"""The commands that use a solved run: `cntk predict` and `cntk export`."""

import time
from pathlib import Path
from typing import Annotated

import typer

from cntk_pipeline.cli.console import err, escape, out
from cntk_pipeline.cli.entry import importing
from cntk_pipeline.cli.options import RunPath, Trust, read_place
from cntk_pipeline.errors import ConfigError, Interrupted


def predict(
    directory: RunPath,
    images: Annotated[
        Path,
        typer.Argument(metavar="IMAGES", help="New images: a folder of pictures, .npy, .npz, .csv, .tsv or .parquet."),
    ],
    output: Annotated[
        str,
        typer.Option("--out", metavar="FILE", callback=read_place, help="The file to write: .csv, .parquet or .npz."),
    ],
    readout: Annotated[str | None, typer.Option("--readout", metavar="NAME", help="The kernel.")] = None,
    ridge: Annotated[float | None, typer.Option("--ridge", metavar="R", help="The ridge, as in the workflow.")] = None,
    std: Annotated[bool, typer.Option("--std", help="Compute the posterior standard deviation too.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the file where there is one.")] = False,
    trust: Trust = False,
) -> None:
    """Predict new images by a solved run.

    The cluster of the run computes. After a stop, the same command goes on.
    """
    with importing():
        from cntk_pipeline.cli.display import RunView
        from cntk_pipeline.cli.driving import drain_seconds_of
        from cntk_pipeline.cli.stopping import stop_on_signals
        from cntk_pipeline.datasets.unlabelled import open_images
        from cntk_pipeline.opened.new_images import like_of
        from cntk_pipeline.opened.output import require_output, write_predictions
        from cntk_pipeline.opened.predict_on_cluster import PredictionQuestion, predict_images
        from cntk_pipeline.rundir.directory import RunDirectory

    began = time.monotonic()
    path = require_output(output, force=force)
    run, question = RunDirectory(directory), PredictionQuestion(readout, ridge, std, trust)
    drain_seconds = drain_seconds_of(run.workflow().cluster)
    with stop_on_signals(err.print, drain_seconds) as stop, RunView() as view:
        try:
            found = predict_images(run, open_images(images, like_of(run)), question, view, stop)
        except Interrupted as error:
            raise Interrupted(f"{error}. The same command goes on") from None
    write_predictions(path, found, force=force)
    seconds = time.monotonic() - began
    out.print(f"{len(found.names):,} predictions lie in [bold]{escape(str(path))}[/] ({seconds:.1f} s)")


def export(
    directory: RunPath,
    output: Annotated[
        str | None,
        typer.Option("--out", metavar="FOLDER", help="A new folder for the files; by default DIR-npz or DIR-csv."),
    ] = None,
    form: Annotated[str, typer.Option("--format", metavar="npz|csv", help="The format of the files.")] = "npz",
    readouts: Annotated[
        list[str] | None, typer.Option("--readout", metavar="NAME", help="A kernel; may be repeated; all by default.")
    ] = None,
    kernels: Annotated[
        bool | None,
        typer.Option("--kernels/--no-kernels", help="Write kernel matrices too; by default npz does, csv does not."),
    ] = None,
) -> None:
    """Write a run as npz or csv files, for use without Zarr.

    The files hold kernels, predictions and labels. Parts that are not computed yet are refused. The folder of a run in
    a bucket is made here.
    """
    with importing():
        from cntk_pipeline.opened.export import FORMATS, folder_beside, plan_export, require_folder, write_export
        from cntk_pipeline.rundir.directory import RunDirectory

    if form not in FORMATS:
        raise ConfigError(f"--format is npz or csv, got {form!r}")
    run, chosen = RunDirectory(directory), FORMATS[form]
    plan = plan_export(run, readouts or (), chosen, kernels=form == "npz" if kernels is None else kernels)
    folder = require_folder(folder_beside(run.path, chosen) if output is None else read_place(output), plan)
    out.print(f"about {plan.bytes:,} bytes are written")
    write_export(run, plan, folder, lambda line: out.print(escape(line)))
    out.print(f"the files lie in [bold]{escape(str(folder))}[/]")
