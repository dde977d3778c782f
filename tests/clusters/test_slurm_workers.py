"""How workers are spread over an allocation; tests/real/test_slurm.py has a real SLURM."""

import asyncio
import logging
import os
import shlex
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import dask.config
import pytest
from distributed.worker_memory import parse_memory_limit

from cntk_pipeline.clusters import CLUSTERS
from cntk_pipeline.clusters.dask.certificates import Certificates
from cntk_pipeline.clusters.slurm import jobs
from cntk_pipeline.clusters.slurm.executor import allocation_shares, worker_memory
from cntk_pipeline.clusters.slurm.job_steps import CLOSE_SECONDS, NodeShare, WorkerSteps
from cntk_pipeline.clusters.slurm.workers import folder_of_nodes, inherited_settings
from cntk_pipeline.config import ClusterConfig
from cntk_pipeline.errors import ConfigError, Interrupted, PipelineError, WorkersLost

NODES = ["a", "b", "c"]


def shares(environment: dict[str, str], **cluster: int) -> list[NodeShare]:
    return allocation_shares(ClusterConfig(kind="slurm", **cluster), environment, NODES)


def test_workers_follow_the_tasks_of_a_job() -> None:
    job = {"SLURM_NTASKS": "5", "SLURM_TASKS_PER_NODE": "2(x2),1", "SLURM_JOB_CPUS_PER_NODE": "64(x3)"}
    assert shares(job) == [NodeShare("a", 2), NodeShare("b", 2), NodeShare("c", 1)]
    assert shares(job, workers=3) == [NodeShare("a", 2), NodeShare("b", 1)]


def test_an_allocation_without_tasks_holds_as_many_workers_as_cores_allow() -> None:
    allocation = {"SLURM_JOB_CPUS_PER_NODE": "8,4(x2)"}
    assert shares(allocation, threads_per_worker=3) == [NodeShare("a", 2), NodeShare("b", 1), NodeShare("c", 1)]
    with pytest.raises(ConfigError, match="no 16 cores for a worker on any node"):
        shares(allocation, threads_per_worker=16)


def test_a_node_has_at_most_as_many_workers_as_cards_and_a_job_without_cards_is_refused() -> None:
    job = {"SLURM_JOB_CPUS_PER_NODE": "64,8,64", "SLURMD_NODENAME": "a"}
    told = job | {"SLURM_GPUS_ON_NODE": "4"}
    assert shares(told, gpus_per_node=4) == [NodeShare("a", 4), NodeShare("b", 4), NodeShare("c", 4)]
    assert shares(told, gpus_per_node=4, workers=5) == [NodeShare("a", 4), NodeShare("b", 1)]
    with pytest.raises(ConfigError, match="this job of SLURM has no graphics cards: ask for them with --gres"):
        shares(job, gpus_per_node=4)
    del job["SLURMD_NODENAME"]  # a shell of salloc is told of no cards
    assert len(shares(job, gpus_per_node=4)) == 3


@pytest.mark.parametrize(
    ("environment", "cluster", "limit"),
    [
        ({}, {}, 1 / 16),
        ({"SLURM_MEM_PER_NODE": "0"}, {}, 1 / 16),  # all memory of a node
        ({"SLURM_MEM_PER_NODE": "65536"}, {}, 2**36 // 16 - 2**29),
        ({"SLURM_MEM_PER_CPU": "2048"}, {"threads_per_worker": 2}, 2**32 - 2**29),
        ({"SLURM_MEM_PER_CPU": "4"}, {}, 2**28),
        ({"SLURM_MEM_PER_GPU": "8192"}, {"gpus_per_node": 4}, 2**33 - 2**29),
        ({"SLURM_MEM_PER_NODE": "65536"}, {"memory_limit": "1GiB"}, 2**30),
        ({"SLURM_MEM_PER_NODE": "65536"}, {"memory_limit": 0.5}, 0.5),
    ],
)
def test_workers_of_a_node_share_its_memory(
    environment: dict[str, str], cluster: dict[str, Any], limit: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen to fail with Dask's "auto", by which a task that is bound to one core takes the whole node."""
    monkeypatch.setattr("distributed.system.MEMORY_LIMIT", 10**12)
    given = str(worker_memory(ClusterConfig(kind="slurm", **cluster), environment, 16))
    expected = limit if limit > 1 else int(limit * 10**12)
    assert parse_memory_limit(given, 1, 1, logger=logging.getLogger()) == expected


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"SLURM_NTASKS": "3"}, "SLURM_TASKS_PER_NODE is not set: SLURM_JOB_ID is set, so workers are"),
        ({}, "SLURM_JOB_CPUS_PER_NODE is not set"),
        ({"SLURM_JOB_CPUS_PER_NODE": "4(x2)"}, r"'4\(x2\)' does not give a number for each of the 3 nodes"),
        ({"SLURM_JOB_CPUS_PER_NODE": "4(x9)"}, "does not give a number for each of the 3 nodes"),
        ({"SLURM_JOB_CPUS_PER_NODE": "4(x3"}, "does not give a number for each of the 3 nodes"),
    ],
)
def test_variables_of_a_job_that_do_not_say_its_room_are_named(environment: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        shares(environment)


@pytest.mark.parametrize(
    ("programs", "job", "error", "message"),
    [
        ({}, {}, ConfigError, "SLURM_JOB_NODELIST is not set"),
        ({}, {"SLURM_JOB_NODELIST": "a"}, ConfigError, 'there is no scontrol here: .*cluster.kind = "local"'),
        ({"scontrol": "exit 0"}, {"SLURM_JOB_NODELIST": "a"}, ConfigError, "there is no srun here"),
        (
            {"scontrol": "echo no controller >&2; exit 1", "srun": "exit 0"},
            {"SLURM_JOB_NODELIST": "a"},
            WorkersLost,
            "the nodes of job 7 cannot be asked for: scontrol refused: no controller",
        ),
    ],
)
def test_a_job_whose_slurm_is_not_here_is_explained(
    programs: dict[str, str],
    job: dict[str, str],
    error: type[PipelineError],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Seen to fail as KeyError, FileNotFoundError and CalledProcessError, as in a container that SLURM started."""
    lay_programs(tmp_path, programs)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("SLURM_JOB_NODELIST", raising=False)
    for name, value in ({"SLURM_JOB_ID": "7"} | job).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(error, match=message), CLUSTERS["slurm"].executor(ClusterConfig(kind="slurm"), lambda: None):
        pass


def lay_programs(folder: Path, programs: dict[str, str]) -> None:
    for name, text in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)


def test_an_srun_that_cannot_be_started_is_explained(tmp_path: Path) -> None:
    steps = WorkerSteps([NodeShare("a", 1)], ["python", "--nthreads", "1"], {"PATH": str(tmp_path)})
    with pytest.raises(WorkersLost, match="srun cannot be started: No such file or directory"), steps:
        pass


def script_of_worker(folder: Path, certificates: Certificates | None = None, **cluster: Any) -> str:
    """Write the script that dask-jobqueue would hand to sbatch; no scheduler is started for that."""
    jobs.load_jobqueue()  # which leaves the handler of Ctrl-C alone, as the import itself does not
    from dask_jobqueue.slurm import SLURMJob

    config = ClusterConfig(kind="slurm", workers=2, memory_limit="1GB", **cluster)
    job = jobs.job_of_worker(config, 10**9, folder, certificates)
    return str(SLURMJob("tls://10.0.0.1:1", name="w-0", **job).job_script())


def test_a_job_of_a_worker_asks_for_what_the_table_says_and_for_nothing_of_dasks(tmp_path: Path) -> None:
    """Seen to fail: half an hour that nobody had asked for, and a log in a folder of the login node alone."""
    text = script_of_worker(
        tmp_path / "50% of mine", threads_per_worker=2, gpus_per_node=4, partition="long", batch_options=["-C avx512"]
    )
    asked = [line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH")]
    assert asked == [
        "--job-name=cntk-worker",
        f"'--output={tmp_path}/50%% of mine/slurm-%j.log'",
        "--ntasks=1",
        "--cpus-per-task=2",
        "--mem=1466M",  # 10^9 bytes and 512 MiB
        "--gres=gpu:1",
        "--partition=long",
        "-C avx512",
    ]
    assert "--time=0:30:00" in script_of_worker(tmp_path, time_limit="0:30:00")


def test_the_words_of_a_workers_job_are_quoted(tmp_path: Path) -> None:
    """Seen to fail: Dask joins them by spaces, and Python looked for modules in the current folder first."""
    certificates = Certificates.within(tmp_path / "my $home")
    text = script_of_worker(tmp_path, certificates, python="/my tools/python", interface="ib 0")
    words = shlex.split(text.splitlines()[-1])
    assert words[:4] == ["/my tools/python", "-P", "-m", "distributed.cli.dask_worker"]
    for option, value in (
        ("--tls-key", str(certificates.key)),
        ("--tls-ca-file", str(certificates.authority)),
        ("--interface", "ib 0"),
    ):
        assert words[words.index(option) + 1] == value
    assert words[len(words) - words[::-1].index("--memory-limit")] == str(10**9), "the last one counts"


@pytest.mark.parametrize(
    ("cluster", "message"),
    [
        ({"memory_limit": 0.5}, r"memory_limit of a \"slurm\" job must be bytes"),
        ({"partition": "a\n#SBATCH --uid=0"}, "partition must be a name"),
        ({"batch_options": ["--output=x"]}, "--output is set by the submission itself"),
        ({"time_limit": "2h"}, "time_limit must be as SLURM writes it"),
        ({"setup": ["true\nfalse"]}, "cluster.setup must be one line"),
        ({"python": "/a\nb"}, "cluster.python must be one line"),
        ({"interface": "ib0\n"}, "cluster.interface must be one line"),
    ],
)
def test_what_slurm_would_not_take_is_refused_of_jobs_of_workers_too(
    cluster: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen to fail: half a machine became half a byte, and so a worker without any limit."""
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    config = ClusterConfig(kind="slurm", **{"workers": 1, "memory_limit": "1GiB"} | cluster)
    with pytest.raises(ConfigError, match=message), CLUSTERS["slurm"].executor(config, lambda: None):
        pass
    with pytest.raises(ConfigError, match=message):  # before a run is begun
        CLUSTERS["slurm"].check(config)


@pytest.mark.parametrize("name", ["SLURM_CLUSTERS", "SBATCH_CLUSTERS"])
def test_jobs_of_workers_are_asked_of_no_other_cluster(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen to fail: Dask's sbatch follows the variable and squeue does not, so jobs in the queue were given up."""
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    config = ClusterConfig(kind="slurm", workers=1, memory_limit="1GiB")
    CLUSTERS["slurm"].check(config)
    monkeypatch.setenv(name, "far")
    with pytest.raises(ConfigError, match=rf"variable {name} = 'far' hands the jobs of workers to another cluster"):
        CLUSTERS["slurm"].check(config)


def test_jobs_of_workers_have_no_time_to_drain_before_their_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen to fail: two minutes were refused, since a driver's job drains for as long."""
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    CLUSTERS["slurm"].check(ClusterConfig(kind="slurm", workers=1, memory_limit="1GiB", time_limit="2:00"))


SLURM = """#!{python}
# SLURM of one node: a job whose log cannot be written ends at once, as it does there.
import os, pathlib, shlex, signal, subprocess, sys
name, folder = pathlib.Path(sys.argv[0]).name, pathlib.Path(sys.argv[0]).parent
if name == "sbatch":
    text = pathlib.Path(sys.argv[1]).read_text()
    words = [word for line in text.splitlines() if line.startswith("#SBATCH ") for word in shlex.split(line)[1:]]
    log = next(word.partition("=")[2] for word in words if word.startswith("--output="))
    with open(log.replace("%j", str(os.getpid())), "wb") as file:
        job = subprocess.Popen(["bash", "-c", text], cwd="/", stdout=file, stderr=file, start_new_session=True)
    (folder / f"job-{{os.getpid()}}").write_text(str(job.pid))
    print("Submitted batch job", os.getpid())
elif name == "scancel":
    os.killpg(int((folder / f"job-{{sys.argv[1]}}").read_text()), signal.SIGKILL)
else:
    job = next(word.partition("=")[2] for word in sys.argv if word.startswith("--jobs="))
    runs = pathlib.Path("/proc", (folder / f"job-{{job}}").read_text(), "cmdline")
    print("RUNNING|n1|9:00|now|None" if runs.exists() and runs.read_bytes() else "FAILED|n1|9:00|now|NonZeroExitCode")
"""


@pytest.fixture
def one_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lay commands of a SLURM that runs jobs here, in a home whose name has a space."""
    programs, home = tmp_path / "bin", tmp_path / "my home"
    programs.mkdir()
    home.mkdir()
    for name in ("sbatch", "scancel", "squeue"):
        (programs / name).write_text(SLURM.format(python=sys.executable))
        (programs / name).chmod(0o755)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setattr(jobs, "LOOK_SECONDS", 0.2)


@pytest.mark.slow
@pytest.mark.usefixtures("one_node")
def test_jobs_that_end_without_a_worker_end_the_wait_with_their_last_words() -> None:
    """Seen to fail: it waited for ever, also for a Python that the nodes do not have."""
    config = ClusterConfig(
        kind="slurm", workers=1, memory_limit="1GiB", tls=False, setup=["echo no such module", "exit 1"]
    )
    message = r"have ended, and no worker came up: job \d+: FAILED on n1\n    no such module"
    with pytest.raises(WorkersLost, match=message), CLUSTERS["slurm"].executor(config, lambda: None):
        pass


@pytest.mark.slow
@pytest.mark.usefixtures("one_node")
def test_a_worker_in_a_job_joins_from_a_home_whose_name_has_a_space(tmp_path: Path) -> None:
    config = ClusterConfig(kind="slurm", workers=1, memory_limit=1_000_000_001)
    theirs = dask.config.set({"jobqueue.slurm.interface": "nosuch0"})  # seen to fail: it won over the table
    with theirs, CLUSTERS["slurm"].executor(config, lambda: None) as executor:
        (worker,) = executor._client.scheduler_info()["workers"].values()  # type: ignore[attr-defined]
        assert worker["memory_limit"] == 1_000_000_001
        (folder,) = (tmp_path / "my home" / ".cache" / "cntk").iterdir()
        assert folder.stat().st_mode & 0o777 == 0o700
    assert not folder.exists()


@pytest.mark.parametrize(
    "said", ["4711", "Submitted batch job 4711\n", "Host 1\nSubmitted batch job 4711 on cluster 2\n"]
)
def test_the_number_of_a_workers_job_is_found_and_no_filter_keeps_it_alive(
    said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen to fail: of a banner Dask took the first digits, and a job of somebody else's was asked about and ended."""
    (tmp_path / "scancel").write_text(f'#!/bin/sh\necho "$1 $SCANCEL_STATE" > {tmp_path}/given\n')
    (tmp_path / "scancel").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("SCANCEL_STATE", "RUNNING")
    config = ClusterConfig(kind="slurm", workers=1, memory_limit="1GB")
    job = jobs.load_jobqueue().job_cls(
        "tls://10.0.0.1:1", name="w", **jobs.job_of_worker(config, 10**9, tmp_path, None)
    )
    job.job_id = job._job_id_from_submit_output(said)
    asyncio.run(job.close())
    assert (tmp_path / "given").read_text() == "4711 \n"


def test_a_home_without_room_for_a_folder_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home").write_text("no folder")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with pytest.raises(ConfigError, match=r"cannot make .*: Not a directory. HOME must be"), folder_of_nodes():
        pass


def test_workers_inherit_the_packages_settings_and_nothing_of_the_users() -> None:
    with dask.config.set({"gateway.auth.token": "do-not-tell"}):
        settings = dask.config.deserialize(inherited_settings())
    assert settings["distributed"]["scheduler"]["worker-saturation"] == 1.0
    assert settings["distributed"]["nanny"]["pre-spawn-environ"]["OMP_NUM_THREADS"] == 1
    assert "gateway" not in settings


def test_a_network_that_the_node_does_not_have_is_refused_with_those_that_it_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    refused = pytest.raises(ConfigError, match=r"cluster\.interface on node .*'ib7' is not .*'lo'")
    with refused, CLUSTERS["slurm"].executor(ClusterConfig(kind="slurm", interface="ib7"), lambda: None):
        pass


def test_a_stop_ends_the_wait_for_first_workers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Seen to fail, after five minutes, without the question in the loop. The ``srun`` here starts nothing."""
    (tmp_path / "srun").write_text("#!/bin/sh\nexec sleep 1000\n")
    (tmp_path / "scontrol").write_text("#!/bin/sh\necho here\n")
    for program in tmp_path.iterdir():
        program.chmod(0o755)
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "here", "SLURM_NTASKS": "1", "SLURM_TASKS_PER_NODE": "1"}
    for name, value in (job | {"SLURMD_NODENAME": "here", "PATH": f"{tmp_path}:{os.environ['PATH']}"}).items():
        monkeypatch.setenv(name, value)
    stop = threading.Event()
    threading.Timer(0.5, stop.set).start()
    began = time.monotonic()
    config = ClusterConfig(kind="slurm", tls=False)
    with pytest.raises(Interrupted, match="while it waited"), CLUSTERS["slurm"].executor(config, lambda: None, stop):
        pass
    assert time.monotonic() - began < CLOSE_SECONDS, "it waited for workers to leave that never came"


@pytest.mark.parametrize("cluster", [{"workers": 2}, {"memory_limit": "1GiB"}])
def test_jobs_of_workers_need_to_know_how_many_and_how_large(
    cluster: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    config = ClusterConfig(kind="slurm", **cluster)
    with (
        pytest.raises(ConfigError, match=r"needs cluster\.workers and cluster\.memory_limit"),
        CLUSTERS["slurm"].executor(config, lambda: None),
    ):
        pass


@pytest.mark.usefixtures("no_home")
def test_certificates_need_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen to fail where the home is asked for without a guard (RuntimeError)."""
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    config = ClusterConfig(kind="slurm", workers=1, memory_limit="1GiB")
    with pytest.raises(ConfigError, match=r"no home .*set HOME"), CLUSTERS["slurm"].executor(config, lambda: None):
        pass


@pytest.mark.slow
def test_ctrl_c_is_left_as_it_is_where_jobs_are_asked_for() -> None:
    # The import of dask-jobqueue makes it leave Python at once: tiles in flight would be lost.
    script = (
        "import signal\nfrom cntk_pipeline.clusters.slurm.jobs import load_jobqueue\n"
        "before = signal.signal(signal.SIGINT, lambda *_: None), signal.getsignal(signal.SIGINT)\n"
        "load_jobqueue()\nprint(signal.getsignal(signal.SIGINT) is before[1])\n"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert said.stdout == "True\n"
