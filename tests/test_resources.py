"""What of its machine a process may use."""

import os
import subprocess
import sys
from pathlib import Path

import distributed.system
import pytest

from cntk_pipeline.clusters import CLUSTERS
from cntk_pipeline.resources import core_count, memory_bytes, worker_memory
from cntk_pipeline.workflow.load import slots_of

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
ASK = "from cntk_pipeline.resources import core_count, memory_bytes; print(core_count(), memory_bytes())"


def asked(*before: str) -> tuple[int, int]:
    path = os.pathsep.join(filter(None, sys.path))
    command = [*before, sys.executable, "-c", ASK]
    printed = subprocess.run(command, capture_output=True, check=True, env={**os.environ, "PYTHONPATH": path}).stdout
    cores, memory = map(int, printed.split())
    return cores, memory


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")
@pytest.mark.skipif(CORES < 2, reason="one core cannot become fewer")
def test_a_process_bound_to_one_core_counts_one() -> None:
    one = min(os.sched_getaffinity(0))
    assert asked("taskset", "--cpu-list", str(one))[0] == 1
    assert core_count() == CORES


@pytest.fixture
def group(request):
    """A control group of this machine, version 1."""
    folder = Path("/sys/fs/cgroup") / request.param / f"cntk-test-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError:
        pytest.skip(f"no control group of version 1 can be made for {request.param}")
    if not (folder / "cgroup.procs").exists():
        folder.rmdir()
        pytest.skip("/sys/fs/cgroup holds no control groups of version 1")
    yield folder
    folder.rmdir()


INTO = ("sh", "-c", 'echo $$ > "$0"/cgroup.procs; exec "$@"')


@pytest.mark.slow
@pytest.mark.parametrize("group", ["cpu"], indirect=True)
@pytest.mark.skipif(CORES < 2, reason="one core cannot become fewer")
def test_a_quota_of_a_real_group_counts(group: Path) -> None:
    (group / "cpu.cfs_quota_us").write_text("50000")
    assert asked(*INTO, str(group))[0] == 1
    assert asked()[0] == CORES


@pytest.mark.slow
@pytest.mark.parametrize("group", ["memory"], indirect=True)
def test_a_memory_limit_of_a_real_group_counts(group: Path) -> None:
    (group / "memory.limit_in_bytes").write_text(str(2**30))
    assert asked(*INTO, str(group))[1] == 2**30


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


GIBIBYTE = str(2**30)
LAYOUTS = {  # the lines of /proc/self/cgroup, and the files of the limits of one core and 1 GiB
    "version 2, its own group": (
        "0::/job/step",
        {"job/step/cpu.max": "100000 100000", "job/step/memory.max": GIBIBYTE},
    ),
    "version 2, a group above": ("0::/job/step", {"job/cpu.max": "90000 100000", "job/memory.high": GIBIBYTE}),
    "a container's own": ("0::/", {"cpu.max": "1000 100000", "memory.max": GIBIBYTE}),
    "a container told of the host's": ("0::/host/pod", {"cpu.max": "1000 100000", "memory.max": GIBIBYTE}),
    "version 1, joined": (
        "5:cpu,cpuacct:/job\n4:memory:/job",
        {
            "cpu,cpuacct/job/cpu.cfs_quota_us": "1",
            "cpu,cpuacct/job/cpu.cfs_period_us": "100000",
            "memory/memory.limit_in_bytes": GIBIBYTE,
        },
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_limits_of_all_groups_around_a_process_count(layout: str, tmp_path: Path) -> None:
    lines, files = LAYOUTS[layout]
    write(tmp_path / "self", lines + "\n")
    for name, text in files.items():
        write(tmp_path / "groups" / name, text + "\n")
    assert core_count(tmp_path / "groups", tmp_path / "self") == 1
    assert memory_bytes(tmp_path / "groups", tmp_path / "self") == min(2**30, distributed.system.memory_limit())


@pytest.mark.parametrize("text", ["max 100000", "-1 100000", "800000 100000", "junk"])
def test_what_limits_nothing_leaves_all_cores(text: str, tmp_path: Path) -> None:
    write(tmp_path / "self", "0::/\n")
    write(tmp_path / "groups" / "cpu.max", text)
    assert core_count(tmp_path / "groups", tmp_path / "self") == min(CORES, 8)
    assert core_count(tmp_path, tmp_path / "no file") == CORES


def none() -> None:
    """Prepare nothing."""


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2, 64])
def test_local_workers_are_as_many_as_the_plan_counts_slots(threads: int, small_config) -> None:
    config = small_config(cluster={"kind": "local", "threads_per_worker": threads})
    assert slots_of(config) == max(1, core_count() // threads) * threads
    with CLUSTERS["local"].executor(config.cluster, none) as executor:
        assert executor.slots == slots_of(config)
        assert executor.memory().bytes == pytest.approx(memory_bytes() * min(1, threads / core_count()), rel=1e-6)


def test_a_share_of_the_memory_is_a_share_of_what_may_be_used() -> None:
    assert worker_memory("auto", core_count()) == memory_bytes()
    assert worker_memory(0.25, 1) == memory_bytes() // 4
    assert worker_memory("4GiB", 1) == "4GiB"
