"""Answers of an "ssh" host to a submitter: it checks whether the host sees the run, and starts the driver.

``python -m cntk_pipeline.clusters.ssh.first_host`` reads one line of JSON and answers with one.
"""

import asyncio
import importlib.metadata
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

from cntk_pipeline.clusters.local.submitter import start_driver
from cntk_pipeline.clusters.ssh.login import Host
from cntk_pipeline.errors import PipelineError
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.storage import open_path
from cntk_pipeline.storage.records import RECORD_BYTES

LOGIN_SECONDS = 20.0


def look(token: str, content: str, hosts: Sequence[str]) -> dict[str, Any]:
    """Report the version of this package here, a problem with a file, and hosts that cannot be reached.

    Parameters
    ----------
    token : str
        Place of a file that the submitter has just written.
    content : str
        Of this file.
    hosts : sequence of str
        Of the cluster.

    Returns
    -------
    found : mapping of str to object
        Version of this package; ``problem`` with the file, or empty; ``away``, hosts without a log-in from here.
    """
    away = asyncio.run(_away(hosts))
    return {"version": importlib.metadata.version("cntk-pipeline"), "problem": _problem(token, content), "away": away}


def start(place: str, told: str) -> dict[str, Any]:
    """Start the driver of a run as a separate process here, with the digest it may follow; return its name."""
    return {"job": start_driver(RunDirectory(place).path, told)}


def _problem(token: str, content: str) -> str:
    try:
        found = open_path(token).read_bytes(RECORD_BYTES)
    except FileNotFoundError:
        return "a file that was just written is not there"
    except (OSError, PipelineError) as error:
        return f"{type(error).__name__}: {error}"
    return "" if found == content.encode() else "a file that was just written reads otherwise"


async def _away(hosts: Sequence[str]) -> dict[str, str]:
    import asyncssh

    async def problem(host: str) -> str:
        async def log_in() -> None:
            async with Host.parse(host).connect():
                pass

        try:
            await asyncio.wait_for(log_in(), LOGIN_SECONDS)
        except (OSError, asyncssh.Error, ValueError) as error:
            return f"{type(error).__name__}: {error}"
        return ""

    found = await asyncio.gather(*map(problem, hosts))
    return {host: why for host, why in zip(hosts, found, strict=True) if why}


ACTS: dict[str, Callable[..., dict[str, Any]]] = {"look": look, "start": start}


def main() -> None:
    """Read the request, and answer."""
    request = json.loads(sys.stdin.readline())
    sys.stdout.write(json.dumps(ACTS[request.pop("act")](**request)) + "\n")


if __name__ == "__main__":
    main()
