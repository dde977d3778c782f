"""A driver on the first host of an "ssh" cluster: started there over ssh, it goes on when this machine goes away.

A request to a host goes through ssh's channel as one line of JSON, to a constant command line.
"""

import contextlib
import importlib.metadata
import json
import re
import shlex
import sys
import uuid
from collections.abc import Iterator
from typing import Any

from cntk_pipeline.clusters.ssh.login import Host, parse_hosts
from cntk_pipeline.clusters.ssh.options import EXTRA, SshOptions
from cntk_pipeline.clusters.submitter import State, Submitter, is_driver
from cntk_pipeline.config import RunConfig
from cntk_pipeline.errors import ConfigError, SubmissionFailed
from cntk_pipeline.models import Json
from cntk_pipeline.rundir.submissions import Submission
from cntk_pipeline.storage import LocalPath, StorePath
from cntk_pipeline.storage.records import Record

ASK_SECONDS = 120.0
"""Time that a host may take to answer: it imports everything, perhaps from a slow shared file system."""

_JOB = re.compile(r"(?P<machine>[^:\s]+):(?P<pid>[1-9][0-9]{0,8}) by (?P<host>\S+)")
"""Name of a submission: the host's own name, a process number, and the name by which ssh reached the host."""


class SshSubmitter(Submitter):
    """A submitter that runs `clusters.ssh.first_host` on the first host, and looks at processes there."""

    drives_itself = True

    def check(self, config: RunConfig) -> None:
        parse_hosts(SshOptions.of(config.cluster).hosts)
        EXTRA.require('the "ssh" cluster')

    def check_place(self, place: StorePath, config: RunConfig) -> None:
        hosts, content = SshOptions.of(config.cluster).hosts, uuid.uuid4().hex
        with _token(place.absolute(), content) as token:
            found = _ask(config, {"act": "look", "token": str(token), "content": content, "hosts": hosts})
        first, mine = hosts[0], importlib.metadata.version("cntk-pipeline")
        if found["version"] != mine:
            raise SubmissionFailed(f"{first} has version {found['version']} of this package, and here is {mine}")
        if found["problem"]:
            raise SubmissionFailed(
                f"{first} does not see {place} as it is seen here: {found['problem']}. The run must lie on a file "
                "system that this machine and all hosts have under the same path, or in a bucket (--store s3://...) "
                f"whose credentials they have. Where the hosts alone share it, type this there: "
                f"{Host.parse(first).command}"
            )
        away = found["away"]
        if first in away or (away and config.cluster.minimum_workers is None):
            lines = "".join(f"\n  {host}: {why}" for host, why in away.items())
            raise SubmissionFailed(
                f"the driver runs on {first} and must log in from there, without a password or an agent, on all hosts, "
                f"itself included; these do not let it in:{lines}\nMend them, or set cluster.minimum_workers to begin "
                "with fewer"
            )

    def submit(self, place: StorePath, config: RunConfig, told: str) -> str:
        request = {"act": "start", "place": str(place), "told": told}
        return f"{_ask(config, request)['job']} by {SshOptions.of(config.cluster).hosts[0]}"

    def state(self, submission: Submission) -> State:
        match = _JOB.fullmatch(submission.job)
        if match is None:
            return "unknown"
        # Not by Python: its start would take a second or two each time.
        command = ["cat", "/proc/sys/kernel/hostname", f"/proc/{match['pid']}/cmdline"]
        try:
            said = _run(Host.parse(match["host"]), shlex.join(command)).stdout
        except SubmissionFailed:
            return "unknown"
        machine, _, words = said.partition("\n")
        if machine != match["machine"]:
            return "unknown"  # another machine answers by this name, or one without /proc
        return "running" if is_driver(words.split("\0"), submission.place) else "gone"

    def withdraw(self, submission: Submission, *, now: bool) -> bool:
        match = _JOB.fullmatch(submission.job)
        if not now or match is None or self.state(submission) != "running":
            return False
        # The driver's process group: its processes on other hosts end when it is gone.
        return _run(Host.parse(match["host"]), shlex.join(["kill", "-KILL", "--", f"-{match['pid']}"])).exit_status == 0


@contextlib.contextmanager
def _token(place: StorePath, content: str) -> Iterator[StorePath]:
    """Write a file at the place of a future run, for the length of a ``with`` block; then delete new folders."""
    token = place / f"seen-{uuid.uuid4().hex}"
    folders = (
        [folder for folder in (place, *place.parents) if not folder.exists()] if isinstance(place, LocalPath) else []
    )
    try:
        token.write_whole(content.encode())
        yield token
    finally:
        token.unlink(missing_ok=True)
        for folder in folders:
            with contextlib.suppress(OSError):  # somebody else has begun to use it
                folder.rmdir()


def _ask(config: RunConfig, request: dict[str, Any]) -> dict[str, Any]:
    """Ask the first host something; return its answer.

    Raises
    ------
    SubmissionFailed
        If it cannot be asked, or has no answer, with its own message.
    """
    options = SshOptions.of(config.cluster)
    host = Host.parse(options.hosts[0])
    python = options.python or sys.executable
    done = _run(host, shlex.join([python, "-P", "-m", "cntk_pipeline.clusters.ssh.first_host"]), request)
    if done.exit_status != 0:
        words = " ".join(done.stderr.strip().splitlines()[-1:])  # the last line of a traceback has the error
        raise SubmissionFailed(
            f"{host.text} cannot start a driver: {words or f'exit status {done.exit_status}'}. cluster.python must be "
            "the path of a Python there that has this package"
        )
    answer = "".join(done.stdout.strip().splitlines()[-1:])
    return _ANSWER.parse(answer.encode(), f"what {host.text} answers")


_ANSWER: Record[Json] = Record(Json, "install the same version of this package there")


def _run(host: Host, command: str, request: dict[str, Any] | None = None) -> Any:
    """Run a command on a host; return asyncssh's result."""
    try:
        EXTRA.require('the "ssh" cluster')
    except ConfigError as error:  # the run was submitted from another machine, or by another Python
        raise SubmissionFailed(str(error)) from error
    import asyncio  # slow to import, and needed for this kind of cluster only

    import asyncssh

    async def run() -> Any:
        async with host.connect() as connection, connection.create_process(command, errors="replace") as process:
            with contextlib.suppress(BrokenPipeError):  # it has ended, and says why
                process.stdin.write("" if request is None else json.dumps(request) + "\n")
                process.stdin.write_eof()
            return await process.wait()

    async def within_time() -> Any:
        return await asyncio.wait_for(run(), ASK_SECONDS)

    try:
        return asyncio.run(within_time())
    except (OSError, asyncssh.Error, ValueError) as error:
        raise SubmissionFailed(
            f"cannot ask {host.text}: {type(error).__name__}: {error}. Try `{host.command}` by hand"
        ) from error
