"""Whose the keys of a ``[cluster]`` table are, and what is refused of them before anything begins."""

import re
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from config.test_strictness import VALUES, fits, keys
from support.problems import Recorder

from cntk_pipeline.cli import main as cli
from cntk_pipeline.cli.driving import read_cluster
from cntk_pipeline.clusters import CLUSTERS
from cntk_pipeline.clusters.address.options import AddressOptions
from cntk_pipeline.clusters.slurm.options import SlurmOptions
from cntk_pipeline.clusters.table import cluster_of, idle_options, require_devices
from cntk_pipeline.clusters.trust import write_trusted
from cntk_pipeline.config import ClusterConfig, RunConfig, load_config
from cntk_pipeline.config.cluster import EARLIER_DEFAULTS
from cntk_pipeline.errors import ConfigError
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.workflow import handover
from cntk_pipeline.workflow import run as runs
from cntk_pipeline.workflow.report import make_report

WRONG = {
    (kind, key): [text for text in VALUES if not fits(annotation, eval(text, {"true": True}))]
    for kind, cluster in CLUSTERS.items()
    for key, annotation in keys(cluster.options)
}


@pytest.fixture
def workflow(tmp_path: Path) -> Path:
    path = tmp_path / "w.toml"
    path.write_text('network.preset = "cntk"\n')
    return path


def test_the_cases_are_of_every_key_of_every_kind() -> None:
    assert sum(map(len, WRONG.values())) > 100
    assert all(WRONG.values())
    assert set(WRONG) == {(kind, key) for kind, each in CLUSTERS.items() for key in each.options.model_fields}


def refusal(workflow: Path, kind: str, key: str, text: str) -> str:
    """Return the error of a value, empty where the value is taken."""
    config = load_config(workflow, [f"cluster.kind={kind}", f"cluster.{key}={text}"])
    try:
        cluster_of(config.cluster)
    except ConfigError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(("kind", "key"), WRONG)
def test_a_value_of_another_type_is_refused_by_the_name_of_its_key(workflow: Path, kind: str, key: str) -> None:
    said = {text: refusal(workflow, kind, key, text) for text in WRONG[kind, key]}
    wrong = {text: error for text, error in said.items() if not re.match(rf"cluster\.{key}(\[\d\])?: ", error)}
    assert wrong == {}


def test_a_whole_number_stands_where_a_number_is_asked_for(workflow: Path) -> None:
    drain = SlurmOptions.of(load_config(workflow, ["cluster.drain_seconds=60"]).cluster).drain_seconds
    assert (drain, type(drain)) == (60.0, float)


@pytest.mark.parametrize(
    "address",
    ["foo://a:1", "tcp://a", "tcp://a:x", "a:99999", "tls://a:²", "inproc://1/2/3", "tcp://a:1/x", "", "://a:1"],
)
@pytest.mark.parametrize("kind", ["address", "kubernetes"])
def test_an_address_of_no_scheduler_is_refused_before_anything_runs(workflow: Path, kind: str, address: str) -> None:
    config = load_config(workflow, [f"cluster.kind={kind}", f"cluster.address='{address}'"])
    with pytest.raises(ConfigError, match=r'cluster\.address: expected "tls://HOST:PORT" with one of tcp, tls, '):
        cluster_of(config.cluster)


@pytest.mark.parametrize("address", ["tls://10.0.0.1:8786", "node7:8786", "tcp://[::1]:8786"])
def test_an_address_of_a_scheduler_is_taken(address: str) -> None:
    assert AddressOptions.of(ClusterConfig(address=address)).address == address


def test_options_that_a_kind_of_cluster_does_not_look_at_are_named() -> None:
    slurm = ClusterConfig(kind="slurm", partition="long", resubmit=True, workers=4)
    assert idle_options(slurm) == []
    assert idle_options(slurm.model_copy(update={"kind": "local"})) == ["partition", "resubmit"]
    assert idle_options(ClusterConfig(kind="kubernetes", address="tls://driver:8786", image="cntk")) == []


@pytest.mark.parametrize("kind", CLUSTERS)
def test_a_table_of_one_kind_serves_every_other_one(kind: str) -> None:
    table = {"hosts": ["a"], "partition": "long", "image": "cntk", "scheduler_file": "scheduler.json"}
    assert cluster_of(ClusterConfig(kind=kind, **table)) is CLUSTERS[kind]


def test_an_unknown_kind_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ConfigError, match=r"unknown cluster\.kind 'slrum': known are serial, local, address, slurm"):
        cluster_of(ClusterConfig(kind="slrum"))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"kind": "slurm", "partitoin": "long"}, "unknown key cluster.partitoin: did you mean 'partition'?"),
        ({"kind": "local", "partitoin": "long"}, "unknown key cluster.partitoin: did you mean 'partition'?"),
        ({"worker": 2}, "unknown key cluster.worker: did you mean 'workers'?"),
        (
            {"kind": "ssh", "zzz": 1},
            "unknown key cluster.zzz: known are kind, workers, minimum_workers, threads_per_worker, gpus_per_node, "
            "memory_limit, tls, dashboard, metrics, hosts, interface, python",
        ),
    ],
)
def test_a_key_of_no_kind_is_refused_with_the_nearest_one_before_anything_is_written(
    small_config: Callable[..., RunConfig], table: dict[str, Any], message: str, tmp_path: Path
) -> None:
    config = small_config(cluster=table, store={"path": str(tmp_path / "run")})
    acts: list[Callable[[], object]] = [
        lambda: runs.plan(config),
        lambda: runs.start(config, Recorder(), None),
        lambda: handover.submit(config, Recorder()),
    ]
    for act in acts:
        with pytest.raises(ConfigError) as caught:
            act()
        assert str(caught.value) == message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", CLUSTERS)
def test_more_workers_at_least_than_at_most_mean_nothing_to_any_kind(
    kind: str, small_config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    """Seen to fail: three kinds looked at it when the run was begun, and three never."""
    (tmp_path / "bad.toml").write_text(f'[cluster]\nkind = "{kind}"\nworkers = 2\nminimum_workers = 5\n')
    config = small_config(cluster={"kind": kind, "workers": 2, "minimum_workers": 5})
    for act in (lambda: runs.plan(config), lambda: read_cluster(tmp_path / "bad.toml")):
        with pytest.raises(ConfigError, match=r"minimum_workers = 5 must be at most cluster.workers, here 2"):
            act()


@pytest.mark.usefixtures("no_waiting")
def test_numbers_of_workers_that_nobody_reads_do_not_keep_an_existing_run_from_going_on(
    small_config: Callable[..., RunConfig],
) -> None:
    """Seen to fail: the check of new tables was also made of those of runs, and of requeued jobs."""
    run, trusted = runs.begin_elsewhere(small_config(cluster={"kind": "serial"}), Recorder(), None)
    table = ClusterConfig(kind="serial", workers=2, minimum_workers=5)
    write_trusted(run, replace(trusted, config=trusted.config.model_copy(update={"cluster": table})))
    assert make_report(runs.resume(str(run.path), Recorder(), threading.Event())).complete


def test_a_forecast_of_cards_without_hosts_counts_one_host() -> None:
    """Seen to fail: no slot at all, by which `cntk plan` divided; and workers were told that there are 0 cards."""
    config = ClusterConfig(kind="ssh", gpus_per_node=2, workers=None)
    assert CLUSTERS["ssh"].slots(config) == 2
    require_devices(config.model_copy(update={"workers": 3}), "cuda", uses_devices=True)


def test_certificates_that_are_gone_are_not_asked_for_without_encryption() -> None:
    """Seen to fail: a plain scheduler behind a scheduler file needs none."""
    table = {"scheduler_file": "scheduler.json", "tls_ca_file": "/nonexistent"}
    CLUSTERS["address"].check(ClusterConfig(kind="address", tls=False, **table))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"kind": "local", "minimum_workers": 5000}, "minimum_workers = 5000 must be at most"),
        ({"kind": "address"}, "needs cluster.address .* or cluster.scheduler_file"),
        ({"kind": "address", "address": "tcp://10.0.0.1:1"}, "is not encrypted"),
        ({"kind": "address", "address": "tls://10.0.0.1:1"}, "but cluster.tls_ca_file and cluster.tls_cert and"),
        (
            {"kind": "address", "scheduler_file": "scheduler.json", "tls_ca_file": "/nonexistent"},
            "cannot read cluster.tls_ca_file = '/nonexistent': No such file",
        ),
        ({"kind": "ssh"}, "needs cluster.hosts"),
        ({"kind": "ssh", "hosts": ["a:0"]}, "expected a port from 1 to 65535, got 0"),
        ({"kind": "slurm", "workers": 2}, "needs cluster.workers and cluster.memory_limit"),
        ({"kind": "kubernetes", "workers": 2, "memory_limit": "1GiB"}, "needs cluster.image"),
    ],
)
def test_a_table_that_cannot_be_computed_on_is_refused_before_anything_is_written(
    small_config: Callable[..., RunConfig],
    table: dict[str, Any],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Seen to fail where only the executor refused: the images of the run were written by then."""
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    config = small_config(cluster=table, store={"path": str(tmp_path / "run")})
    acts: list[Callable[[], object]] = [lambda: runs.start(config, Recorder(), threading.Event())]
    if not CLUSTERS[table["kind"]].submitter.drives_itself:
        acts.append(lambda: handover.submit(config, Recorder()))
    for act in acts:
        with pytest.raises(ConfigError, match=message):
            act()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", ["run", "submit", "resume"])
def test_a_cluster_file_with_a_key_of_no_kind_is_named(
    command: str,
    workflow: Path,
    run_small: Callable[..., RunDirectory],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "bad.toml").write_text("[cluster]\nworker = 2\n")
    what = run_small().path if command == "resume" else workflow
    monkeypatch.setattr("sys.argv", ["cntk", command, str(what), "--cluster", str(tmp_path / "bad.toml")])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == cli.USAGE
    assert f"{tmp_path}/bad.toml:\n  unknown key cluster.worker: did you mean 'workers'?" in capfd.readouterr().err


def test_the_keys_of_every_kind_are_listed() -> None:
    page = (
        (Path(__file__).parents[2] / "docs" / "operating.md").read_text().split("| kind | keys of `[cluster]` |", 1)[1]
    )
    rows = [line.split("|") for line in page.split("\n\n", 1)[0].splitlines() if line.startswith("| ")][1:]
    said = {row[1].strip(" `"): [key.strip(" `") for key in row[2].split(",")] for row in rows}
    kinds = {kind: list(cluster.options.model_fields) for kind, cluster in CLUSTERS.items()}
    assert said == {"every kind": list(ClusterConfig.model_fields)} | {kind: own for kind, own in kinds.items() if own}


def test_what_earlier_versions_filled_in_is_what_the_kinds_take_by_themselves() -> None:
    """Otherwise a run of theirs would go on with another value than it was begun with."""
    of_kinds = [cluster.options.model_fields for cluster in CLUSTERS.values()]
    for key, value in EARLIER_DEFAULTS.items():
        assert {repr(fields[key].default) for fields in of_kinds if key in fields} == {repr(value)}, key


def test_what_a_user_gave_is_kept_in_what_earlier_versions_wrote() -> None:
    earlier = EARLIER_DEFAULTS | {"kind": "slurm", "image": None, "partition": "long", "setup": ["a"]}
    assert ClusterConfig(**earlier) == ClusterConfig(kind="slurm", partition="long", setup=["a"])
    assert ClusterConfig(hosts=[], drain_seconds=120.0).options == {"hosts": [], "drain_seconds": 120.0}
