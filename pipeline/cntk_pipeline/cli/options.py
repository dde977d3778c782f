"""The arguments and options that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

from cntk_pipeline.errors import ConfigError


def read_place(text: str) -> str:
    """Read a place that a user gives: a folder, or a bucket.

    Raises
    ------
    ConfigError
        If it is empty, or invalid for a file system.
    """
    from cntk_pipeline.config import expand_place

    try:
        return expand_place(text)
    except ValueError as error:
        raise ConfigError(f"{error}, got {text!r}") from None


WorkflowFile = Annotated[Path, typer.Argument(metavar="FILE", help="A workflow file (TOML).")]
RunPath = Annotated[
    str, typer.Argument(metavar="DIR", callback=read_place, help="A run directory, s3://bucket/name included.")
]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override a value of the workflow file.")
]
Store = Annotated[str | None, typer.Option("--store", metavar="DIR", help="The run directory.")]
GrowFrom = Annotated[
    str | None,
    typer.Option("--from", metavar="OLD", help="Take over what is the same in this older run (store.grow_from)."),
]
Cluster = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        metavar="NAME|FILE",
        help="Where to compute: local, serial, a TOML file with a [cluster] table, or its name in $CNTK_CLUSTERS "
        "(~/.config/cntk/clusters).",
    ),
]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust",
        help="Compute where the directory says, by the code that it names, although somebody else may have written it.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Verify = Annotated[bool, typer.Option("--verify", help="Read and check every finished chunk first.")]
