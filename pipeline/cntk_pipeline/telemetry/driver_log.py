"""The log of a driver at work, read from any machine that sees the run directory."""

import re
from typing import Any

from cntk_pipeline.errors import StoreError
from cntk_pipeline.storage import StorePath
from cntk_pipeline.storage.records import Record

FIRST_BYTES = 2**16
"""Bytes of a log that are read: a driver says where it computes in its first lines."""

LINE: Record[dict[str, Any]] = Record(dict[str, Any], "delete it: no result depends on a log")
"""A line of a log."""


def find_executor(folder: StorePath, driver: str) -> str | None:
    """Find where a driver computes, in its own words, with the address of a dashboard; None where no log says it yet.

    Parameters
    ----------
    folder : StorePath
        Of the logs of a run.
    driver : str
        "host:pid".
    """
    host, _, pid = driver.rpartition(":")
    name = f"{host}-{pid}.jsonl"
    # An earlier process with the same number has the plain name, later ones have their times in front.
    timed = re.compile(r"[0-9]{8}T[0-9]{6}-" + re.escape(name))
    later = [path for path in folder.children() if timed.fullmatch(path.name)]
    try:
        content = (later[-1] if later else folder / name).read_from(0, FIRST_BYTES)
        lines = [LINE.parse(line, name) for line in content.split(b"\n")[:-1]]
    except (FileNotFoundError, StoreError):
        return None
    started = [line.get("executor") for line in lines if line.get("event") == "driver_started"]
    return str(started[-1]) if started else None
