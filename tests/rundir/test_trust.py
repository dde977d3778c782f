"""Run directories from somebody else: nothing in them runs, connects or ends anything because it was looked at."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import distributed
import pytest
from distributed.protocol import to_serialize
from support.problems import Recorder

from cntk_pipeline.cli import main as cli
from cntk_pipeline.clusters import CLUSTERS, trust
from cntk_pipeline.clusters.submitter import driver_command
from cntk_pipeline.clusters.table import cluster_of, idle_options
from cntk_pipeline.config import ClusterConfig, RunConfig
from cntk_pipeline.errors import NotTrusted, StoreError
from cntk_pipeline.rundir import signature
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.rundir.submissions import add_submission, submissions
from cntk_pipeline.workflow import handover
from cntk_pipeline.workflow import run as runs
from cntk_pipeline.workflow.report import make_report

pytestmark = pytest.mark.slow

Config = Callable[..., RunConfig]
Run = Callable[..., RunDirectory]

ESCAPES = "\x1b]0;pwned\x07\x9b31m\u202e"
"""Sets a terminal's title, its colour, and turns what follows around."""


@pytest.fixture
def cntk(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str]]:
    """Run a command in this process; return its exit code and all it said."""

    def run(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["cntk", *map(str, arguments)])
        for name in ("stdout", "stderr"):
            monkeypatch.setattr(sys, name, getattr(sys, name))  # which the command replaces
        capfd.readouterr()
        try:
            cli.main()
        except SystemExit as end:
            code = end.code
        said = capfd.readouterr()
        assert isinstance(code, int)
        return code, said.out + said.err

    return run


@pytest.fixture
def listener() -> Iterator["Listener"]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield Listener(server)


class Listener:
    """A real socket that counts who came, whose backlog the system fills by itself."""

    def __init__(self, server: socket.socket) -> None:
        self._server, self.port = server, server.getsockname()[1]
        self._server.setblocking(False)

    def visitors(self) -> int:
        count = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                self._server.accept()[0].close()
                count += 1
        return count


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """Put programs of SLURM on the path that only write down how they are called; return what reads that."""
    folder, calls = tmp_path / "bin", tmp_path / "calls"
    folder.mkdir()
    for name in ("sbatch", "squeue", "sacct", "scancel", "scontrol", "ssh", "kubectl"):
        (folder / name).write_text(f'#!/bin/sh\necho {name} "$@" >> {calls}\n[ {name} != sbatch ] || cat >> {calls}\n')
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    return lambda: calls.read_text().splitlines() if calls.exists() else []


def forge(run: RunDirectory, **cluster: Any) -> None:
    """Write into a run directory, as somebody else would, where to compute."""
    path = Path(run.path / "workflow.json")
    record = json.loads(path.read_text())
    record["cluster"] = cluster
    path.write_text(json.dumps(record))


def forge_submission(run: RunDirectory, kind: str, job: str) -> None:
    """Write a submission into a run directory as somebody else would."""
    record = {"kind": kind, "job": job, "host": "h", "submitted": "now", "place": str(run.path), "signature": "0" * 64}
    folder = Path(run.path / "submissions")
    folder.mkdir(exist_ok=True)
    (folder / f"{len(list(folder.iterdir())) + 1:06d}.json").write_text(json.dumps(record))


def undone(run: RunDirectory) -> None:
    """Take a tile away, so that something is left to do."""
    run.kernel("depth3-gap-ntk", "test").chunk_path(0, 0).unlink()


# Resuming.


def test_resuming_a_foreign_run_asks_before_it_connects_to_a_scheduler(
    run_small: Run, cntk: Callable[..., tuple[int, str]], listener: Listener
) -> None:
    run = run_small()
    undone(run)
    forge(run, kind="address", address=f"tcp://127.0.0.1:{listener.port}", tls=False)
    code, said = cntk("resume", run.path)
    assert (code, listener.visitors()) == (2, 0)
    assert "is not signed by you" in said
    assert f'address = "tcp://127.0.0.1:{listener.port}"' in said
    assert "a Dask scheduler, which can run any code as you" in said
    assert f"cntk resume {run.path} --cluster NAME" in said
    assert f"cntk resume {run.path} --trust" in said


@pytest.mark.parametrize("options", [[], ["--trust"], ["--verify"]])
def test_resuming_a_complete_run_connects_to_nothing_and_asks_nothing(
    run_small: Run, cntk: Callable[..., tuple[int, str]], listener: Listener, tools: Any, options: list[str]
) -> None:
    run = run_small()
    where = f"127.0.0.1:{listener.port}"
    for cluster in (
        {"kind": "address", "address": f"tcp://{where}", "tls": False},
        {"kind": "ssh", "hosts": [f"me@{where}"]},
        {"kind": "slurm", "workers": 1, "setup": ["touch gone"]},
    ):
        forge(run, **cluster)
        forge_submission(run, str(cluster["kind"]), f"{socket.gethostname()}:1 by me@{where}")
        code, said = cntk("resume", run.path, *options)
        assert code == 0, said
        assert "nothing is left to do" in said
    assert (listener.visitors(), tools()) == (0, [])


class Ambush:
    """What writes a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.fixture
def armed(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A real scheduler that answers with a pickle; return its address, and the file that unpickling writes."""
    mark = tmp_path / "unpickled"
    with distributed.LocalCluster(
        n_workers=0, processes=False, protocol="tcp://", dashboard_address="127.0.0.1:0", host="127.0.0.1"
    ) as cluster:
        identity = cluster.scheduler.handlers["identity"]
        cluster.scheduler.handlers["identity"] = lambda **options: {
            **identity(**options),
            "ambush": to_serialize(Ambush(Path(mark))),
        }
        yield cluster.scheduler_address, mark


def test_a_scheduler_that_answers_with_a_pickle_runs_nothing_in_who_resumes(
    run_small: Run, cntk: Callable[..., tuple[int, str]], armed: tuple[str, Path]
) -> None:
    """Before: the command in the pickle ran, of a complete run too. That it is armed: with --trust it runs."""
    address, mark = armed
    run = run_small()
    forge(run, kind="address", address=address, tls=False)
    assert cntk("resume", run.path)[0] == 0
    undone(run)
    assert cntk("resume", run.path)[0] == 2
    assert not mark.exists()
    assert cntk("resume", run.path, "--trust")[0] == 3, "it has no workers"
    assert mark.exists()


def test_a_foreign_run_is_computed_where_the_user_says_and_is_the_users_from_then_on(
    run_small: Run, cntk: Callable[..., tuple[int, str]], listener: Listener
) -> None:
    run = run_small()
    before = run.kernel("depth3-gap-ntk", "test").read(0, 0).copy()
    undone(run)
    forge(run, kind="address", address=f"tcp://127.0.0.1:{listener.port}", tls=False)
    code, said = cntk("resume", run.path, "--cluster", "serial")
    assert code == 0, said
    assert (run.kernel("depth3-gap-ntk", "test").read(0, 0) == before).all()
    undone(run)
    assert cntk("resume", run.path)[0] == 0
    assert listener.visitors() == 0


def test_the_users_own_word_is_followed_without_a_question_also_in_a_copy(
    run_small: Run, small_config: Config, tmp_path: Path, listener: Listener
) -> None:
    run = run_small()
    undone(run)
    table = ClusterConfig(kind="address", address=f"tcp://127.0.0.1:{listener.port}", tls=False)
    trust.write_trusted(run, trust.of_user(run, run.workflow().model_copy(update={"cluster": table})))
    shutil.copytree(run.path, tmp_path / "copy")
    assert trust.read_trusted(RunDirectory(tmp_path / "copy")).config.cluster == table


@pytest.mark.parametrize("what", ["setup", "signature", "fingerprint", "key"])
def test_a_signature_is_of_one_table_one_specification_and_one_user(
    run_small: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    run = run_small()
    table = ClusterConfig(kind="slurm", workers=1, setup=["module load python"])
    trust.write_trusted(run, trust.of_user(run, run.workflow().model_copy(update={"cluster": table})))
    record = Path(run.path / "workflow.json")
    known = json.loads(record.read_text())
    match what:
        case "setup":
            known["cluster"]["setup"] = ["module load python; touch gone"]
        case "signature":
            known["signature"] = {"of": ["another", "shape"]}
        case "fingerprint":  # one that the user has given to another run
            run = run_small(store={"path": str(tmp_path / "other")}, kernel={"tile": 8})
            record = Path(run.path / "workflow.json")
        case "key":
            monkeypatch.setenv(signature.KEY_VARIABLE, str(tmp_path / "another user's"))
    record.write_text(json.dumps(known))
    with pytest.raises(NotTrusted, match=r'setup = \["module load python'):
        trust.read_trusted(run)


def test_setup_lines_of_a_foreign_run_reach_no_shell(
    run_small: Run, cntk: Callable[..., tuple[int, str]], tools: Callable[[], list[str]]
) -> None:
    run = run_small()
    undone(run)
    forge(run, kind="slurm", workers=1, setup=[f"touch gone # {ESCAPES}"], memory_limit="1GiB")
    forge_submission(run, "slurm", "17")
    code, said = cntk("resume", run.path)
    assert (code, tools()) == (2, [])
    assert r"touch gone # \u001b]0;pwned\u0007\u009b31m\u202e" in said
    forge(run, kind="slurm", workers=1, setup=["touch gone"], memory_limit="1GiB")
    cntk("resume", run.path, "--trust")
    assert "touch gone" in tools(), "it is armed"


@pytest.mark.parametrize(
    ("cluster", "harmless"),
    [
        ({}, True),
        ({"kind": "serial"}, True),
        ({"workers": 3, "threads_per_worker": 2, "memory_limit": "2GiB", "minimum_workers": 1}, True),
        ({"dashboard": "localhost:8787", "metrics": "127.0.0.1:9100"}, True),
        ({"dashboard": "0.0.0.0:8787"}, False),
        ({"dashboard": ":8787"}, False),
        ({"metrics": "0.0.0.0:9100"}, False),
        ({"tls": False}, False),
        *(({"kind": kind}, False) for kind in ("address", "ssh", "slurm", "kubernetes", "else")),
    ],
)
def test_only_what_computes_here_and_opens_nothing_needs_no_consent(cluster: dict[str, Any], harmless: bool) -> None:
    assert trust.is_harmless(ClusterConfig(**cluster)) is harmless


def test_every_key_of_a_cluster_is_decided_and_said_to_be() -> None:
    """A key that is added needs consent until somebody has decided otherwise, and a line in docs/security.md."""
    page = (Path(__file__).parents[2] / "docs" / "security.md").read_text()
    rows = [line.split("|") for line in page.splitlines() if line.startswith("| `cluster.")]
    said = {name.strip(" `").removeprefix("cluster."): row[3].strip() for row in rows for name in row[1].split(",")}
    keys = {*ClusterConfig.model_fields, *(key for each in CLUSTERS.values() for key in each.options.model_fields)}
    assert set(said) == keys
    free = {"kind", "workers", "minimum_workers", "threads_per_worker", "gpus_per_node", "memory_limit"}
    free |= {"drain_seconds", "resubmit"}
    assert {name for name, consent in said.items() if consent == "no"} == free - {"kind"}
    for name in keys - free - {"dashboard", "metrics"}:
        value = {"tls": False, "hosts": ["h"], "batch_options": ["-x a"], "setup": ["x"], "address": "tcp://h:1"}.get(
            name, "x"
        )
        assert not trust.is_harmless(ClusterConfig(**{name: value})), name


EARLIER: dict[str, Any] = {
    "tls_ca_file": None,
    "tls_cert": None,
    "tls_key": None,
    "address": None,
    "scheduler_file": None,
    "interface": None,
    "hosts": [],
    "python": None,
    "partition": None,
    "account": None,
    "time_limit": None,
    "batch_options": [],
    "setup": [],
    "drain_seconds": 120.0,
    "resubmit": False,
    "image": None,
    "namespace": None,
    "volume_claim": None,
    "service_account": "cntk-driver",
    "secret": "cntk-s3",
}
"""What version 0.1.0 wrote into every run directory of keys that nobody had given."""


@pytest.mark.parametrize(
    ("table", "known"),
    [
        (
            {"kind": "slurm", "workers": 4, "memory_limit": "4GiB", "partition": "long", "time_limit": "1-00:00:00"}
            | {"setup": ["module load python"], "drain_seconds": 300.0, "resubmit": True},
            "5a7b8481d38cfa72932052eb96ff5953cb486d0dd9a45d4322e9a3e3d0b369f3",
        ),
        (
            {"kind": "ssh", "hosts": ["me@node1:2222", "node2"], "python": "/opt/python"},
            "953761be17d49982089f4f7b95ac3a3f92f3224a49bfb262fbcc9baf03b20d17",
        ),
        (
            {"kind": "address", "address": "tls://10.0.0.1:8786"}
            | {"tls_ca_file": "/home/me/ca.pem", "tls_cert": "c.pem", "tls_key": "k.pem"},
            "a79a2a3098aca1f9ec92486480933f94792a9244863a7146ec157bf4b593ca72",
        ),
        (
            {"kind": "kubernetes", "workers": 2, "image": "x", "volume_claim": "c", "secret": "other"},
            "b28c0cb5fa847db1ad407c36dcaa45a6c7159864f5361036b612a4964895ac20",
        ),
        (
            {"kind": "local", "workers": 3, "dashboard": "0.0.0.0:8787"},
            "48b29f20c974b63dded1e7cf86323c55ebc1b55f20e78da699e9dac8a0cb9c47",
        ),
    ],
)
def test_what_was_signed_before_kinds_had_their_own_keys_is_still_the_users_word(
    run_small: Run, table: dict[str, Any], known: str
) -> None:
    """The digests are those that version 0.1.0 signed for these tables."""
    run = run_small()
    forge(run, **EARLIER | table)
    record = json.loads(Path(run.path / "workflow.json").read_text())
    record["signature"] = signature.sign("workflow", run.fingerprint, known)
    Path(run.path / "workflow.json").write_text(json.dumps(record))
    followed = trust.read_trusted(run).config.cluster
    assert trust.digest(followed, None) == known
    assert followed.options == {key: value for key, value in table.items() if key in EARLIER}
    cluster_of(followed)
    assert idle_options(followed) == []


def test_a_key_of_another_kind_is_asked_about_although_nobody_looks_at_it() -> None:
    assert not trust.is_harmless(ClusterConfig(kind="serial", hosts=["h"]))
    assert not trust.is_harmless(ClusterConfig(kind="serial", nobodys=1))
    assert trust.is_harmless(ClusterConfig(kind="serial", resubmit=True))


# Growing.


def test_tiles_of_an_older_run_that_a_foreign_directory_names_are_not_taken_over(
    run_small: Run, small_config: Config, tmp_path: Path, cntk: Callable[..., tuple[int, str]]
) -> None:
    """Before: resuming linked the chunks of a run that only the reader may read into the directory of who named it."""
    private = run_small(store={"path": str(tmp_path / "private")})
    run = run_small(solve={"ridges": [0.5]})
    growth = {"path": str(private.path), "fingerprint": private.fingerprint, "factor_tile": None}
    blocks = [0, 1, 2]
    Path(run.path / "growth.json").write_text(json.dumps(growth | dict.fromkeys(("train", "test", "targets"), blocks)))
    for options in ([], ["--cluster", "serial"], ["--trust"]):
        shutil.rmtree(run.path / "journal")
        shutil.rmtree(run.path / "kernel.zarr")
        code, said = cntk("resume", run.path, *options)
        assert code == 0, said
        assert ("taken over" in said and "by your word" not in said) is (options == ["--trust"]), said
        linked = [file.stat().st_nlink > 1 for file in Path(run.path / "kernel.zarr").rglob("c/*/*")]
        assert any(linked) is (options == ["--trust"])
        if not linked:
            assert f"growth.json names {json.dumps(str(private.path))}, and not by your word" in said


def plant_version_2(run: RunDirectory, mark: Path) -> None:
    """Put an array of Zarr version 2 in the place of the images, which unpickles where numcodecs does."""
    import pickle

    folder = Path(run.path / "inputs.zarr" / "train_images")
    shutil.rmtree(folder)
    folder.mkdir()
    codecs = {"compressor": {"id": "pickle", "protocol": 5}, "filters": [{"id": "vlen-utf8"}]}
    shape = {"shape": [37], "chunks": [37], "dtype": "|O", "order": "C", "fill_value": None, "zarr_format": 2}
    (folder / ".zarray").write_text(json.dumps(shape | codecs))
    (folder / "0").write_bytes(pickle.dumps(Ambush(Path(mark))))


def test_growing_from_a_foreign_run_unpickles_nothing(
    run_small: Run, small_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """numcodecs before 0.16.6 unpickled whatever metadata asked for; later ones where they are told to."""
    import numcodecs.pickles

    monkeypatch.setattr(numcodecs.pickles, "ALLOW_UNSAFE_PICKLE_DECODE", True)
    old, mark = run_small(store={"path": str(tmp_path / "old")}), tmp_path / "unpickled"
    plant_version_2(old, mark)
    grown = small_config(store={"path": str(tmp_path / "new"), "grow_from": str(old.path)}, solve={"ridges": [0.5]})
    for act in (lambda: runs.plan(grown), lambda: runs.start(grown, Recorder(), threading.Event())):
        with contextlib.suppress(OSError):
            act()
        assert not mark.exists()


# Looking, verifying, cancelling.


@pytest.mark.parametrize("command", ["status", "status --json", "inspect", "verify", "cancel", "cancel --now"])
def test_looking_at_a_foreign_run_asks_no_host_and_no_batch_system(
    run_small: Run,
    cntk: Callable[..., tuple[int, str]],
    listener: Listener,
    tools: Callable[[], list[str]],
    command: str,
) -> None:
    run = run_small()
    where = f"127.0.0.1:{listener.port}"
    forge(run, kind="address", address=f"tcp://{where}", tls=False)
    for kind, job in (("slurm", "--user=root"), ("slurm", "17"), ("ssh", f"{socket.gethostname()}:1 by me@{where}")):
        forge_submission(run, kind, job)
        name, *options = command.split()
        assert cntk(name, run.path, *options)[0] == 0
    assert (listener.visitors(), tools()) == (0, [])


def test_a_foreign_submission_is_named_but_neither_asked_about_nor_ended(
    run_small: Run, cntk: Callable[..., tuple[int, str]], tools: Callable[[], list[str]]
) -> None:
    run = run_small()
    undone(run)
    forge_submission(run, "slurm", "17")
    assert "slurm 17 was not submitted by you" in cntk("status", run.path)[1]
    assert "slurm 17 was not submitted by you" in cntk("cancel", run.path, "--now")[1]
    assert tools() == []


def test_jobs_reach_the_commands_of_slurm_as_numbers_behind_the_end_of_options(
    run_small: Run, tools: Callable[[], list[str]], tmp_path: Path
) -> None:
    run = run_small()
    with (tmp_path / "bin" / "squeue").open("a") as file:
        file.write("echo 'RUNNING|n1|9:00|N/A|None'\n")  # one that has ended is not ended again
    for job in ("--user=root", "1 2", "0", "", "1,2", "17_[1-9]"):  # as if this user's own record were broken
        add_submission(run, "slurm", job)
        handover.cancel(run.path, now=True)
        assert handover.whereabouts(run).state == "unknown"
    assert tools() == []
    add_submission(run, "slurm", "17")
    handover.cancel(run.path, now=True)
    assert "scancel -- 17" in tools()
    assert "squeue --noheader --states=all --jobs=17 --format=%T|%N|%L|%S|%r" in tools()


@pytest.mark.parametrize("job", ["../secrets", "default/../../x", "default/x?y", "DEFAULT/x", "default"])
def test_what_is_no_name_of_a_job_reaches_no_api_server(run_small: Run, job: str) -> None:
    run = run_small()
    add_submission(run, "kubernetes", job)
    assert handover.whereabouts(run).words == "is no Job of Kubernetes"
    assert "stops" in handover.cancel(run.path, now=True)


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Callable[[Path], subprocess.Popen[bytes]]]:
    """Start processes that look like the driver of a run directory."""
    (tmp_path / "python").write_text("#!/bin/sh\nsleep 60\n")
    (tmp_path / "python").chmod(0o700)
    found: list[subprocess.Popen[bytes]] = []

    def start(place: Path) -> subprocess.Popen[bytes]:
        command = [str(tmp_path / "python"), *driver_command(str(place)), "--told", ""]
        found.append(subprocess.Popen(command, cwd=tmp_path, start_new_session=True))
        return found[-1]

    yield start
    for process in found:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_only_the_driver_of_this_very_directory_is_ended(
    run_small: Run, tmp_path: Path, driver: Callable[[Path], subprocess.Popen[bytes]]
) -> None:
    run, other = run_small(), run_small(store={"path": str(tmp_path / "other")})
    its = driver(Path(other.path))
    job = f"{socket.gethostname()}:{its.pid}"
    add_submission(other, "local", job)
    # Somebody else names it; its record is copied; this user's own record names a number that has passed on.
    forge_submission(run, "local", job)
    handover.cancel(run.path, now=True)
    shutil.copy(other.path / "submissions" / "000001.json", run.path / "submissions" / "000002.json")
    handover.cancel(run.path, now=True)
    assert handover.whereabouts(run).state == "unknown"
    add_submission(run, "local", job)
    handover.cancel(run.path, now=True)
    assert handover.whereabouts(run).state == "gone"
    assert its.poll() is None
    assert "was ended at once" in handover.cancel(other.path, now=True)
    assert its.wait(10) == -signal.SIGKILL


def test_a_submission_is_known_by_another_name_of_its_run_directory(run_small: Run, tmp_path: Path) -> None:
    run = run_small()
    add_submission(run, "slurm", "17")
    (tmp_path / "link").symlink_to(run.path)
    assert [each.is_mine for each in submissions(RunDirectory(tmp_path / "link"))] == [True]


def test_what_records_say_does_not_act_on_a_terminal(run_small: Run, cntk: Callable[..., tuple[int, str]]) -> None:
    run = run_small()
    undone(run)
    forge_submission(run, f"slurm{ESCAPES}", ESCAPES)
    Path(run.path / "ending.json").write_text(json.dumps({"message": ESCAPES, "job": None, "ended": "now"}))
    made = json.loads(Path(run.path / "run.json").read_text())
    made["provenance"]["host"] = ESCAPES + "[blink]"
    Path(run.path / "run.json").write_text(json.dumps(made))
    for command in (["status"], ["inspect"], ["inspect", "--all"], ["cancel"], ["verify"], ["status", "--json"]):
        said = cntk(command[0], run.path, *command[1:])[1]
        assert not set(said) & set(ESCAPES[:1] + "\x07\x9b\u202e"), command
    assert r"\x1b]0;pwned\x07\x9b31m\u202e[blink]" in cntk("inspect", run.path, "--all")[1]


# Drivers that were submitted.


def test_a_submitted_driver_follows_what_it_was_told_without_any_key_and_nothing_else(
    small_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listener: Listener
) -> None:
    run, trusted = runs.begin_elsewhere(small_config(cluster={"kind": "serial", "tls": False}), Recorder(), None)
    monkeypatch.setenv(signature.KEY_VARIABLE, str(tmp_path / "nowhere" / "key"))
    address = f"tcp://127.0.0.1:{listener.port}"
    known = Path(run.path / "workflow.json").read_text()
    forge(run, kind="address", address=address, tls=False)
    with pytest.raises(NotTrusted, match="is not what this driver was submitted with") as refused:
        handover.drive(run.path, Recorder(), threading.Event(), trusted.digest)
    assert listener.visitors() == 0
    assert handover.is_settled(run.path, refused.value), "another start would not help"
    Path(run.path / "workflow.json").write_text(known)
    with pytest.raises(NotTrusted):
        handover.drive(run.path, Recorder(), threading.Event())
    assert make_report(handover.drive(run.path, Recorder(), threading.Event(), trusted.digest)).complete
    assert not (tmp_path / "nowhere").exists()


def test_a_driver_in_the_background_is_told_what_to_follow(
    small_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a key of its own, as on a machine with another home, it goes on by what it was told alone."""
    run, trusted = runs.begin_elsewhere(small_config(cluster={"kind": "serial", "tls": False}), Recorder(), None)
    command = [sys.executable, "-m", "cntk_pipeline.cli", "drive", str(run.path), "--told"]
    environment = os.environ | {
        "PYTHONPATH": str(Path(__file__).parents[2] / "pipeline"),
        signature.KEY_VARIABLE: str(tmp_path / "other"),
    }
    ended = subprocess.run([*command, trusted.digest], env=environment, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr


def test_a_run_grown_by_the_user_is_resumed_with_its_source_and_without_a_question(
    run_small: Run, small_config: Config, tmp_path: Path
) -> None:
    old = run_small(store={"path": str(tmp_path / "old")})
    new = run_small(store={"path": str(tmp_path / "new"), "grow_from": str(old.path)}, solve={"ridges": [0.5]})
    found = trust.read_trusted(new)
    assert (found.source, found.refused_source) == (str(old.path), None)
    assert trust.of_user(new, small_config(store={"path": str(tmp_path / "new")})).source == str(old.path)


@pytest.mark.parametrize("name", ["lease", "log", "journal", "submissions", "quarantine", "solve"])
def test_a_link_out_of_a_foreign_run_is_not_followed(
    run_small: Run, tmp_path: Path, cntk: Callable[..., tuple[int, str]], name: str
) -> None:
    """Before: who resumed deleted `000001.json` from the folder that `lease` was linked to, and wrote into it."""
    run, mine = run_small(), Path(tmp_path / "mine")
    mine.mkdir()
    (mine / "000001.json").write_text("{}")
    if (run.path / name).exists():
        shutil.rmtree(run.path / name)
    Path(run.path / name).symlink_to(mine)
    for command in ("resume", "verify", "cancel", "status"):
        code, said = cntk(command, run.path)
        assert (code, "leads out of the run directory" in said) == (1, True), said
    assert [(file.name, file.read_text()) for file in mine.iterdir()] == [("000001.json", "{}")]


def test_arrays_may_lie_on_another_disk_where_nothing_is_deleted(
    run_small: Run, tmp_path: Path, cntk: Callable[..., tuple[int, str]]
) -> None:
    run, elsewhere = run_small(), Path(tmp_path / "elsewhere")
    elsewhere.mkdir()
    aside = f"a.npz.{'0' * 32}.partial"
    (elsewhere / aside).write_text("mine")
    (Path(run.path) / "arrays").symlink_to(elsewhere)
    assert RunDirectory(run.path).sweep() == 0
    assert [file.name for file in elsewhere.iterdir()] == [aside]
    for command in ("status", "verify"):
        assert cntk(command, run.path)[0] == 0


def test_no_record_is_written_behind_a_link_out_of_a_run(run_small: Run, tmp_path: Path) -> None:
    run = run_small()
    solve = next(iter(run.solves()))
    Path(run.path / "solve" / solve).rename(tmp_path / "elsewhere")
    Path(run.path / "solve" / solve).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="leads out of the run directory"):
        run.write_record(f"solve/{solve}/metrics.json", {})


def test_a_job_whose_directory_was_changed_meanwhile_is_followed_by_none(
    small_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before: the next job was handed over as the directory said by then, with its setup lines."""
    table = {"kind": "serial", "tls": False, "resubmit": True}
    run, trusted = runs.begin_elsewhere(small_config(cluster=table), Recorder(), None)
    monkeypatch.setenv(signature.KEY_VARIABLE, str(tmp_path / "none"))
    stop = threading.Event()

    class Changing(Recorder):
        def progress(self, progress: Any) -> None:
            if progress.done == 1:
                forge(run, kind="slurm", workers=1, setup=["touch gone"], resubmit=True)
                stop.set()

    with pytest.raises(NotTrusted, match="is not what this driver was submitted with"):
        handover.drive(run.path, Changing(), stop, trusted.digest)
    assert "every finished tile is kept" in json.loads(Path(run.path / "ending.json").read_text())["message"]


def test_what_is_refused_takes_back_no_request_to_stop(run_small: Run) -> None:
    run = run_small()
    undone(run)
    handover.cancel(run.path)
    forge(run, kind="ssh", hosts=["h"])
    with pytest.raises(NotTrusted):
        runs.resume(run.path, Recorder(), threading.Event())
    assert (run.path / "stop-requested").is_file()
