"""The command `cntk predict`."""

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cntk_pipeline.cli.display import RunView, escape, out
from cntk_pipeline.cli.stopping import stop_on_signals
from cntk_pipeline.config import expand_place
from cntk_pipeline.datasets.unlabelled import open_images
from cntk_pipeline.errors import ConfigError, Interrupted
from cntk_pipeline.opened.new_images import like_of
from cntk_pipeline.opened.output import require_output, write_predictions
from cntk_pipeline.opened.predicting import Question, predict_images
from cntk_pipeline.rundir.directory import RunDirectory

err = Console(stderr=True, highlight=False, soft_wrap=True)


def place_of(text: str) -> str:
    """Read the name of a file or folder, or its address."""
    try:
        return expand_place(text)
    except ValueError as error:
        raise ConfigError(f"{error}, got {text!r}") from None


def predict(
    directory: Annotated[str, typer.Argument(metavar="DIR", callback=place_of, help="A run directory, solved.")],
    images: Annotated[
        Path,
        typer.Argument(metavar="IMAGES", help="New images: a folder of pictures, .npy, .npz, .csv or .parquet."),
    ],
    output: Annotated[
        str, typer.Option("--out", metavar="FILE", callback=place_of, help="The file to write: .csv, .parquet or .npz.")
    ],
    readout: Annotated[str | None, typer.Option("--readout", metavar="NAME", help="The kernel.")] = None,
    ridge: Annotated[float | None, typer.Option("--ridge", metavar="R", help="The ridge, as in the workflow.")] = None,
    std: Annotated[bool, typer.Option("--std", help="Compute the posterior standard deviation too.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the file where there is one.")] = False,
    trust: Annotated[
        bool,
        typer.Option("--trust", help="Compute where the directory says, although somebody else may have written it."),
    ] = False,
) -> None:
    """Predict the classes of new images by a solved run, on the run's own cluster; the same command goes on."""
    began = time.monotonic()
    path = require_output(output, force=force)
    run, question = RunDirectory(directory), Question(readout, ridge, std, trust)
    with stop_on_signals(err.print) as stop, RunView() as view:
        try:
            found = predict_images(run, open_images(images, like_of(run)), question, view, stop)
        except Interrupted as error:
            raise Interrupted(f"{error}. The same command goes on") from None
    write_predictions(path, found, force=force)
    out.print(
        f"{len(found.names):,} predictions lie in [bold]{escape(str(path))}[/] ({time.monotonic() - began:.1f} s)"
    )
