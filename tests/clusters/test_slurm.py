"""The batch script, and what is refused before SLURM is asked; tests/real/test_slurm.py has a real SLURM."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from clusters.test_handover import submission
from support.processes import wait_until

from cntk_pipeline.clusters import CLUSTERS
from cntk_pipeline.clusters.base import DRAIN_SECONDS
from cntk_pipeline.clusters.slurm.directives import time_limit_seconds
from cntk_pipeline.clusters.slurm.submitter import script
from cntk_pipeline.clusters.submitter import JobStatus
from cntk_pipeline.clusters.table import current_job
from cntk_pipeline.config import RunConfig, load_cluster, parse_config
from cntk_pipeline.errors import ConfigError, SubmissionFailed
from cntk_pipeline.resources import BatchJob
from cntk_pipeline.storage import LocalPath, open_path

SUBMITTER = CLUSTERS["slurm"].submitter


def config(**cluster: Any) -> RunConfig:
    table = {"kind": "slurm", "workers": 4} | cluster
    return parse_config({"name": "small", "network": {"preset": "cntk"}, "cluster": table}, "test")


def directives(text: str) -> list[str]:
    return [line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH ")]


def test_the_script_asks_for_what_the_cluster_table_says() -> None:
    text = script(
        "/scratch/run",
        Path("/scratch/run/log"),
        config(
            threads_per_worker=2,
            memory_limit="4GiB",
            partition="long",
            account="group-7",
            time_limit="1-00:00:00",
            drain_seconds=300,
            batch_options=["--constraint=avx512", "-x bad1,bad2"],
            setup=["module load python"],
            python="/opt/python",
        ),
        "0a1b",
    )
    assert directives(text) == [
        "--job-name=cntk-small",
        "--output=/scratch/run/log/slurm-%j.log",
        "--open-mode=append",
        "--requeue",
        "--signal=B:TERM@300",
        "--ntasks=4",
        "--cpus-per-task=2",
        "--mem-per-cpu=2304M",  # (4 GiB + 512 MiB) / 2
        "--partition=long",
        "--account=group-7",
        "--time=1-00:00:00",
        "--constraint=avx512",
        "-x bad1,bad2",
    ]
    assert "exec /opt/python -P -m cntk_pipeline.cli drive /scratch/run --told 0a1b)" in text
    assert text.index("trap ") < text.index("module load python") < text.index("exec ")


@pytest.mark.parametrize(("workers", "nodes", "each"), [(8, 2, 4), (6, 2, 4), (2, 1, 2)])
def test_a_job_whose_workers_have_cards_asks_for_one_each(workers: int, nodes: int, each: int) -> None:
    text = script("/run", Path("/log"), config(workers=workers, gpus_per_node=4, batch_options=["-C h100"]), "0a1b")
    asked = [f"--nodes={nodes}", f"--ntasks-per-node={each}", f"--gres=gpu:{each}"]
    assert directives(text)[5:] == [f"--ntasks={workers}", "--cpus-per-task=1", *asked, "-C h100"]


@pytest.mark.parametrize("name", ["with space", "$(touch gone)", "a'b", 'a"b', "a;b", "`b`", "50%j"])
def test_a_run_directory_of_any_name_reaches_the_driver_whole(tmp_path: Path, name: str) -> None:
    directory = tmp_path / name
    shown = tmp_path / "shown"
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nprintf %s "$5" > {shown}\n')
    python.chmod(0o755)
    text = script(str(directory), directory, config(python=str(python)), "")
    subprocess.run(["bash"], input=text, text=True, check=True, cwd=tmp_path)
    assert shown.read_text() == str(directory)
    assert not (tmp_path / "gone").exists()


HEEDFUL = """#!{python}
import signal, sys, time
if "{where}" == "importing":
    open("{begun}", "w").close()
    time.sleep(1)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))
open("{begun}", "w").close()
signal.pause()
"""
"""A driver that is deaf for a while, and then waits to be told to stop."""


@pytest.mark.slow
@pytest.mark.parametrize("where", ["setting up", "importing", "running"])
def test_the_signal_before_the_time_limit_reaches_the_driver_whenever_it_comes(tmp_path: Path, where: str) -> None:
    """Seen to fail with the driver in the place of the shell (143 while importing), and without a trap."""
    begun, python = tmp_path / "begun", tmp_path / "python"
    python.write_text(HEEDFUL.format(python=sys.executable, begun=begun, where=where))
    python.chmod(0o755)
    setup = [f"touch {begun}; sleep 1; rm {begun}"] if where == "setting up" else []
    text = script(str(tmp_path), tmp_path, config(python=str(python), setup=setup), "")
    (tmp_path / "script").write_text(text)
    with subprocess.Popen(["bash", tmp_path / "script"], start_new_session=True) as shell:
        try:
            wait_until(begun.exists, "the driver to begin")
            shell.send_signal(signal.SIGTERM)
            assert shell.wait(20) == 130
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(shell.pid, signal.SIGKILL)


@pytest.mark.parametrize("code", [0, 3])
def test_the_job_ends_as_its_driver_does(tmp_path: Path, code: int) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\nexit {code}\n")
    python.chmod(0o755)
    text = script(str(tmp_path), tmp_path, config(python=str(python), setup=["set -e"]), "")
    assert subprocess.run(["bash"], input=text, text=True, check=False).returncode == code


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 5400),
        ("1:30", 90),
        ("2:00:00", 7200),
        ("1-6", 108000),
        ("1-6:30", 109800),
        ("1-00:00:01", 86401),
        ("UNLIMITED", float("inf")),
    ],
)
def test_time_limits_are_read_as_slurm_reads_them(text: str, seconds: float) -> None:
    assert time_limit_seconds(text) == seconds


@pytest.mark.parametrize(
    ("cluster", "message"),
    [
        ({"time_limit": "2h"}, "time_limit must be as SLURM writes it, got '2h'"),
        ({"time_limit": "1:2:3:4"}, "time_limit must be as SLURM"),
        ({"time_limit": "1-"}, "time_limit must be as SLURM"),
        ({"time_limit": "2", "drain_seconds": 120}, "no time besides draining"),
        ({"drain_seconds": 70000}, "at most 65535"),
        ({"workers": None}, "needs cluster.workers"),
        ({"partition": "a\n#SBATCH --uid=0"}, "partition must be a name"),
        ({"account": "--uid=0 x"}, "account must be a name"),
        ({"batch_options": ["--comment=a\nrm -r x"]}, "one line of printable characters"),
        ({"batch_options": ["constraint=avx512"]}, "takes options of sbatch"),
        ({"batch_options": ["--comment='a"]}, "cannot be read"),
        ({"batch_options": ["--array=0-3"]}, "--array is set by the submission itself"),
        ({"batch_options": ["--arr=0-3"]}, "--arr is set by the submission itself"),
        ({"batch_options": ["-a1-9"]}, "-a1-9 is set by the submission itself"),
        ({"batch_options": ["-Ha1"]}, "-Ha1 is set by the submission itself"),
        ({"batch_options": ["--constraint=avx512 --wra=x"]}, "--wra is set by the submission itself"),
        ({"batch_options": ["--"]}, "-- is set by the submission itself"),
        ({"batch_options": ["--clusters=c2"]}, "--clusters hands the job to another cluster"),
        ({"batch_options": ["--cl=c2"]}, "--cl hands the job to another cluster"),
        ({"batch_options": ["-M c2"]}, "-M hands the job to another cluster"),
        ({"batch_options": ["-HMc2"]}, "-HMc2 hands the job to another cluster"),
        ({"batch_options": ["-vM other"]}, "-vM hands the job to another cluster"),
        ({"setup": ["a\nb"]}, "cluster.setup must be one line"),
        ({"memory_limit": 0.5}, r'must be bytes \("4GiB"\) or "auto", got 0.5'),
        ({"memory_limit": "much"}, "got 'much'"),
        ({"python": "~nobody-of-this-name/python"}, "cluster.python: the home folder that ~ stands for is not known"),
    ],
)
def test_what_slurm_would_not_take_is_refused_before_it_is_asked(cluster: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SUBMITTER.check(config(**cluster))


def test_options_that_only_look_like_those_of_the_submission_are_taken() -> None:
    options = ["--wait-all-nodes=1", "-Cavx512", "-x node-a,node-c", "-pa", "--cluster-constraint=a", "--gres=gpu:1 -H"]
    assert {*options[:5]} <= set(directives(script("/run", Path("/run"), config(batch_options=options), "")))


@pytest.mark.parametrize("zero", ["0", "0:00", "0-0"])
def test_a_time_limit_of_zero_is_none_as_slurm_reads_it(zero: str) -> None:
    """Seen to fail: it was refused as a job without time besides draining."""
    assert f"--time={zero}" in directives(script("/run", Path("/run"), config(time_limit=zero), ""))


def test_a_machine_without_slurm_says_where_to_submit_from(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SubmissionFailed, match=r"no sbatch here: submit from a machine of the SLURM cluster"):
        SUBMITTER.check(config())
    assert SUBMITTER.state(submission("slurm", "1")) == "unknown"


def test_the_job_has_room_for_the_workers_it_will_have() -> None:
    memory = CLUSTERS["slurm"].memory(config(memory_limit="4GiB", threads_per_worker=2).cluster)
    assert memory is not None
    assert (memory.bytes, memory.slots) == (4 * 2**30, 2)
    assert CLUSTERS["slurm"].memory(config().cluster) is None


def test_a_job_is_followed_by_another_where_the_table_says_so() -> None:
    assert SUBMITTER.succession(config().cluster) is None
    words = SUBMITTER.succession(config(resubmit=True).cluster)
    assert words is not None
    assert "no other one follows" in words.no_progress
    assert "no other one follows" in words.withdrawn
    assert "goes on" in words.follows


@pytest.mark.parametrize(
    ("environment", "job"),
    [
        ({}, None),
        ({"SLURM_JOB_ID": "7"}, BatchJob("7", restarts=0)),
        ({"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": "2"}, BatchJob("7", restarts=2)),
    ],
)
def test_a_process_knows_the_job_that_it_is_of(
    environment: dict[str, str], job: BatchJob | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SLURM_JOB_ID", "SLURM_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert SUBMITTER.current_job() == job
    assert current_job() == job


def test_the_file_that_operators_edit_makes_a_job_as_it_is() -> None:
    shipped = load_cluster(Path(__file__).parent.parent.parent / "deploy/slurm/cluster.toml")
    text = script("/run", Path("/run/log"), config().model_copy(update={"cluster": shipped}), "")
    assert {"--ntasks=64", "--time=24:00:00", "--signal=B:TERM@300", "--requeue"} <= set(directives(text))


def test_a_tilde_is_expanded_since_the_script_quotes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen to fail as it was given: bash looked for a program in a folder named "~", after the wait in the queue."""
    monkeypatch.setenv("HOME", "/somebody")
    text = script("/run", Path("/log"), config(python="~/venv/bin/python"), "")
    assert "exec /somebody/venv/bin/python -P" in text


def test_a_place_that_the_script_cannot_name_is_refused_before_a_run_is_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"the run directory must be one line of printable characters, got .*a\\xa0b"):
        SUBMITTER.check_place(LocalPath(tmp_path / "a\N{NO-BREAK SPACE}b"), config())
    SUBMITTER.check_place(LocalPath(tmp_path / "a b"), config())
    (tmp_path / "c\nd").mkdir()
    monkeypatch.chdir(tmp_path / "c\nd")
    with pytest.raises(ConfigError, match=r"the run directory must be"):
        SUBMITTER.check_place(LocalPath("run"), config())
    with pytest.raises(ConfigError, match=r"the current directory, which has the output of the job, must be"):
        SUBMITTER.check_place(open_path("s3://bucket/run"), config())
    with pytest.raises(ConfigError, match=r"the run directory must have no backslash in its name.*a\\\\b"):
        SUBMITTER.check_place(LocalPath(tmp_path / "a\\b"), config())


def test_slurm_is_asked_with_the_token_of_the_site_and_without_the_options_of_this_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen to fail where the token is left out with the options: sites without munge refuse the request.

    Also where SQUEUE_PARTITION was left in: a job that waits in another partition was said to be gone.
    """
    (tmp_path / "squeue").write_text(f"#!/bin/sh\n/usr/bin/env > {tmp_path}/given\n")
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    options = ("SLURM_JOB_ID", "SBATCH_PARTITION", "SQUEUE_PARTITION", "SCANCEL_STATE", "SACCT_LOCAL")
    for name in ("SLURM_JWT", "SLURM_CONF", *options):
        monkeypatch.setenv(name, "x")
    SUBMITTER.state(submission("slurm", "17"))
    given = {line.partition("=")[0] for line in (tmp_path / "given").read_text().splitlines()}
    assert "SLURM_JWT" in given
    assert "SLURM_CONF" in given
    assert given.isdisjoint(options)


def test_the_job_has_as_much_memory_as_a_number_says() -> None:
    memory = CLUSTERS["slurm"].memory(config(memory_limit=2**32).cluster)
    assert memory is not None
    assert memory.bytes == 2**32


@pytest.mark.parametrize(("drain", "waited"), [(300, 240), (120, 60), (90, 45), (2, 1)])
def test_a_driver_waits_for_tiles_as_long_as_its_job_has_to_drain(drain: float, waited: float) -> None:
    assert CLUSTERS["slurm"].drain_seconds(config(drain_seconds=drain).cluster) == waited
    assert CLUSTERS["local"].drain_seconds(config(kind="local").cluster) == DRAIN_SECONDS


def lay(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


@pytest.mark.parametrize(
    "said", ["4711", "4711;far", "-----\n  Welcome, 3 of you\n--> host 1...OK\n4711\n", "4711 \n\n"]
)
def test_the_number_of_a_job_is_found_below_a_banner(
    said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen to fail: the banner was recorded as the job, and neither status nor cancel could read the record."""
    lay(tmp_path, "sbatch", f"printf '%s' '{said}'")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert SUBMITTER.submit(LocalPath(tmp_path), config(), "") == "4711"


@pytest.mark.parametrize("said", ["", "welcome", "Submitted batch job 4711", "04711", "4711x"])
def test_an_answer_of_sbatch_without_a_number_is_refused(
    said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay(tmp_path, "sbatch", f"printf '%s' '{said}'")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SubmissionFailed, match=rf"sbatch named no job, it said '{said}': if `squeue --me` shows one"):
        SUBMITTER.submit(LocalPath(tmp_path), config(), "")


@pytest.mark.parametrize("banner", ["", "=====\\n  Welcome, 3 of you\\n"])
def test_states_are_read_below_a_banner(banner: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen to fail: each job at its time limit was taken for one that was cancelled, and a running one for ended."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    lay(tmp_path, "squeue", f"printf '{banner}RUNNING|59:00|1:00:00\\n'")
    assert SUBMITTER.cause(config()) == "limit"
    lay(tmp_path, "squeue", f"printf '{banner}'")
    lay(tmp_path, "sacct", f"printf '{banner}RUNNING\\n'")
    assert SUBMITTER.standing(submission("slurm", "17")).state == "running"
    lay(tmp_path, "sacct", f"printf '{banner}COMPLETED\\n'")
    assert SUBMITTER.standing(submission("slurm", "17")) == JobStatus("gone", "has ended (COMPLETED)")


def test_texts_of_slurm_in_another_encoding_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen to fail with a traceback: a reason, or a message of a site's plug-in, may be in Latin-1."""
    lay(tmp_path, "squeue", r"printf 'PENDING||1:00|N/A|Wartung f\374r alle\n'")
    lay(tmp_path, "sbatch", r"printf 'kein Platz f\374r alle\n' >&2; exit 1")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert SUBMITTER.standing(submission("slurm", "17")).words == "waits: SLURM says why (Wartung f\ufffdr alle)"
    with pytest.raises(SubmissionFailed, match="sbatch refused: kein Platz f\ufffdr alle"):
        SUBMITTER.submit(LocalPath(tmp_path), config(), "")
