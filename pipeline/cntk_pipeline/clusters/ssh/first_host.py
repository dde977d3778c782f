"""What a host of an "ssh" cluster is asked by whoever submits: whether it sees the run, and to start its driver.

``python -m cntk_pipeline.clusters.ssh.first_host`` reads one line of JSON and answers in one.
"""

import asyncio
import importlib.metadata
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

from cntk_pipeline.clusters.local.submitter import start_driver
from cntk_pipeline.clusters.ssh.remote import Host
from cntk_pipeline.errors import PipelineError
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.storage import open_path
from cntk_pipeline.storage.records import RECORD_BYTES

LOGIN_SECONDS = 20.0


def look(token: str, content: str, hosts: Sequence[str]) -> dict[str, Any]:
    """Tell what is seen from here.

    Parameters
    ----------
    token : place of a file that whoever asks has just written.
    content : of it.
    hosts : of the cluster.

    Returns
    -------
    found : version of this package; ``problem`` with the file, or empty; ``away``, hosts that let nobody in from here.
    """
    away = asyncio.run(_away(hosts))
    return {"version": importlib.metadata.version("cntk-pipeline"), "problem": _problem(token, content), "away": away}


def start(place: str, told: str) -> dict[str, Any]:
    """Start the driver of a run as a process of its own here, told what it may follow; return its name."""
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
    """Read what is asked, and answer."""
    request = json.loads(sys.stdin.readline())
    sys.stdout.write(json.dumps(ACTS[request.pop("act")](**request)) + "\n")


if __name__ == "__main__":
    main()
