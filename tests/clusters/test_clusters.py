import os
from pathlib import Path

import pytest
from support.processes import as_nobody

from cntk_pipeline.config import ClusterConfig, load_cluster, load_config
from cntk_pipeline.config.cluster_files import find_cluster
from cntk_pipeline.errors import ConfigError

WORKFLOW = '[network]\npreset = "cntk"\n[cluster]\nkind = "serial"\nworkers = 7\n'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CNTK_CLUSTERS", str(tmp_path))
    (tmp_path / "big.toml").write_text('[cluster]\nkind = "slurm"\nworkers = 64\n')
    (tmp_path / "workflow.toml").write_text(WORKFLOW)
    return tmp_path


def test_a_cluster_file_takes_the_place_of_the_workflows_table_and_overrides_come_last(folder: Path) -> None:
    for name in ("big", str(folder / "big.toml")):
        cluster = load_config(folder / "workflow.toml", ["cluster.threads_per_worker=2"], find_cluster(name)).cluster
        assert (cluster.kind, cluster.workers, cluster.threads_per_worker) == ("slurm", 64, 2)
    (folder / "kind.toml").write_text('[cluster]\nkind = "local"\n')
    cluster = load_config(folder / "workflow.toml", [], find_cluster("kind")).cluster
    assert cluster.workers is None, "keys of the workflow's table are not mixed in"


def test_an_unknown_cluster_is_named_with_the_known_ones(folder: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"no cluster is called 'bigg': known are big, local, serial, workflow\. Put bigg\.toml"
    ):
        find_cluster("bigg")
    with pytest.raises(ConfigError, match=r"there is no cluster file .*gone\.toml"):
        find_cluster(str(folder / "gone.toml"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[cluster]\nworkers = true\n", r"bad\.toml:\n  cluster\.workers: Input should be a valid integer"),
        ("[cluster]\n[data]\n", r"\[cluster\] table and nothing else, got cluster, data"),
        ("", "nothing else, got nothing"),
        ("[cluster\n", "is not valid TOML"),
    ],
)
def test_what_is_wrong_with_a_cluster_file_is_said_by_its_own_name(folder: Path, text: str, message: str) -> None:
    (folder / "bad.toml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_cluster(folder / "bad.toml")
    with pytest.raises(ConfigError, match=message):
        load_config(folder / "workflow.toml", [], folder / "bad.toml")


@pytest.mark.parametrize("kind", ["local", "serial"])
def test_this_machine_is_a_cluster_that_needs_no_file_and_a_file_of_its_name_comes_first(
    folder: Path, kind: str
) -> None:
    assert load_cluster(find_cluster(kind)) == ClusterConfig(kind=kind)
    (folder / f"{kind}.toml").write_text('[cluster]\nkind = "local"\nworkers = 3\n')
    assert load_cluster(find_cluster(kind)).workers == 3


def test_a_closed_home_has_no_cluster_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen to fail with `Path.is_file`, which raises there (PermissionError)."""
    folder = tmp_path / ".config" / "cntk" / "clusters"
    folder.mkdir(parents=True)
    (folder / "local.toml").write_text('[cluster]\nkind = "local"\nworkers = 3\n')
    monkeypatch.delenv("CNTK_CLUSTERS", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    for closed in (folder, tmp_path / ".config"):
        assert load_cluster(find_cluster("local")).workers == 3
        closed.chmod(0)
        with as_nobody():
            assert load_cluster(find_cluster("local")) == ClusterConfig(kind="local")
            with pytest.raises(
                ConfigError, match=r"no cluster is called 'far': known are local, serial\. Put far\.toml"
            ):
                find_cluster("far")
            with pytest.raises(ConfigError, match="there is no cluster file"):
                find_cluster(str(folder / "local.toml"))
        closed.chmod(0o755)


@pytest.mark.usefixtures("no_home")
def test_a_user_without_a_home_has_the_clusters_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen to fail where the home is asked for without a guard (RuntimeError)."""
    monkeypatch.delenv("CNTK_CLUSTERS", raising=False)
    with pytest.raises(RuntimeError):
        Path.home()
    assert load_cluster(find_cluster("serial")) == ClusterConfig(kind="serial")
    message = r"known are local, serial\. Put far\.toml with a \[cluster\] table into a folder, and name it in \$CNTK"
    with pytest.raises(ConfigError, match=message):
        find_cluster("far")


def test_a_name_that_no_file_can_have_is_no_cluster(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"no cluster is called 'a{300}'"):
        find_cluster("a" * 300)
    with pytest.raises(ConfigError, match="there is no cluster file"):
        find_cluster(os.sep + "a" * 300)
