"""Questions to SLURM: its commands, without the options of the job around this process."""

import os
import subprocess
from collections.abc import Sequence

from cntk_pipeline.errors import SubmissionFailed

ASK_SECONDS = 30.0
"""Time that SLURM's commands may take: a busy controller answers late."""

_OPTIONS = ("SLURM_", "SBATCH_", "SQUEUE_", "SCANCEL_", "SACCT_")
"""Beginnings of variables that SLURM's commands read as options."""

_NO_OPTIONS = ("SLURM_CONF", "SLURM_JWT")
"""The place of SLURM's configuration, and the token of the user."""


def ask(command: Sequence[str], text: str | None = None, *, patient: bool = True) -> str:
    """Run one of SLURM's commands with ``text`` as its input; return its output.

    Raises
    ------
    SubmissionFailed
        If there is no such command, or it fails, with its own message.
    """
    # Inside a job the options of that job would become those of another, and a filter of the user's would hide jobs.
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(_OPTIONS) or name in _NO_OPTIONS
    }
    try:
        done = subprocess.run(
            command,
            input=None if text is None else os.fsencode(text),
            capture_output=True,
            timeout=ASK_SECONDS if patient else ASK_SECONDS / 3,
            env=environment,
            check=False,
        )
    except FileNotFoundError as error:
        raise SubmissionFailed(
            f"there is no {command[0]} here: submit from a machine of the SLURM cluster, such as its login node"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise SubmissionFailed(
            f"{command[0]} did not answer within {ASK_SECONDS:.0f} s: is SLURM's controller up? Try again"
        ) from error
    # The text of a site, such as a reason, may have any encoding.
    said, complaint = (stream.decode(errors="replace") for stream in (done.stdout, done.stderr))
    if done.returncode != 0:
        raise SubmissionFailed(f"{command[0]} refused: {complaint.strip() or said.strip()}")
    return said
