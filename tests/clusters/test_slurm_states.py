"""SLURM's words in ours. The lines are as SLURM 22.05 wrote them; tests/real/test_slurm.py asks a real one."""

import pytest

from cntk_pipeline.clusters.slurm.states import read_account, read_queue
from cntk_pipeline.clusters.submitter import JobStatus


def test_lines_of_another_form_are_passed_over() -> None:
    """Seen to fail: ValueError, and so a traceback of `cntk status`."""
    assert read_queue("slurm_load_jobs: warning", "7") == JobStatus("unknown")
    assert read_queue("--- welcome ---\nRUNNING|n1|9:41|now|None\n", "7").words == "runs on n1"


@pytest.mark.parametrize(
    ("line", "state", "words", "timing"),
    [
        ("PENDING||10:00|N/A|JobHeldUser", "queued", "waits: it is held: scontrol release 7 (JobHeldUser)", ""),
        (
            "PENDING||10:00|2026-11-25T15:45:51|Resources",
            "queued",
            "waits: nodes are busy (Resources)",
            "expected to begin at 2026-11-25T15:45:51",
        ),
        (
            "PENDING||10:00|N/A|QOSMaxCpuPerUserLimit",
            "queued",
            "waits: a limit of its quality of service is reached (QOSMaxCpuPerUserLimit)",
            "",
        ),
        (
            "PENDING||10:00|N/A|ReqNodeNotAvail, UnavailableNodes:n[1-2]",
            "queued",
            "waits: nodes that it needs are down or reserved (ReqNodeNotAvail, UnavailableNodes:n[1-2])",
            "",
        ),
        (
            "PENDING||10:00|N/A|DependencyNeverSatisfied",
            "queued",
            "waits: the job that it waits for has failed: cntk cancel (DependencyNeverSatisfied)",
            "",
        ),
        ("PENDING||10:00|N/A|Dependency", "queued", "waits: another job has to end first (Dependency)", ""),
        ("PENDING||10:00|N/A|OfNoOldName", "queued", "waits: SLURM says why (OfNoOldName)", ""),
        ("RUNNING|n[1-2]|9:41|2026-11-25T14:45:52|None", "running", "runs on n[1-2]", "9:41 left"),
        ("RUNNING|n1|UNLIMITED|2026-11-25T14:45:52|None", "running", "runs on n1", ""),
        ("COMPLETING|n1|0:00|2026-11-25T14:45:52|None", "running", "is ending on n1", ""),
        ("COMPLETED|n1|9:00|2026-11-25T14:45:52|None", "gone", "has ended (COMPLETED on n1)", ""),
        (
            "FAILED|n1|9:00|2026-11-25T14:45:52|NonZeroExitCode",
            "gone",
            "has stopped or failed: slurm-7.log says why (FAILED on n1)",
            "",
        ),
        (
            "FAILED|n1|9:00|2026-11-25T14:45:52|RaisedSignal:53(Real-time_signal_19)",
            "gone",
            "could not write its log slurm-7.log: its node does not see that folder (the run directory; of a run in a "
            "bucket, the folder that it was submitted from) (FAILED, RaisedSignal:53(Real-time_signal_19) on n1)",
            "",
        ),
        (
            "FAILED|n1|9:00|2026-11-25T14:45:52|JobLaunchFailure",  # that of a job over its memory, without cgroups
            "gone",
            "has stopped or failed: slurm-7.log says why (FAILED, JobLaunchFailure on n1)",
            "",
        ),
        (
            "TIMEOUT|n1|0:00|2026-11-25T14:45:52|TimeLimit",
            "gone",
            "was killed at its time limit before it had drained: more cluster.drain_seconds lets tiles finish "
            "(TIMEOUT on n1)",
            "",
        ),
        ("LATER_WORD|n1|0:00|N/A|None", "gone", "has ended (LATER_WORD on n1)", ""),
    ],
)
def test_what_the_queue_says_is_said_in_plain_words(line: str, state: str, words: str, timing: str) -> None:
    assert read_queue(line + "\n", "7") == JobStatus(state, words, timing)


@pytest.mark.parametrize(
    ("line", "standing"),
    [
        ("", None),
        ("PENDING", JobStatus("queued")),
        (
            "OUT_OF_MEMORY",
            JobStatus(
                "gone",
                "was killed for using more memory than it had asked for: raise cluster.memory_limit (OUT_OF_MEMORY)",
            ),
        ),
        ("NODE_FAIL", JobStatus("gone", "lost a node and was not started again (NODE_FAIL)")),
        ("CANCELLED by 1000", JobStatus("gone", "was cancelled (CANCELLED)")),
    ],
)
def test_what_the_accounts_say_of_a_job_that_the_queue_has_forgotten(line: str, standing: JobStatus | None) -> None:
    assert read_account(line, "7") == standing
