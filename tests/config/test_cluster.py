"""What a ``[cluster]`` table says is understood before anything begins."""

from pathlib import Path
from typing import Any

import pytest
from distributed.worker_memory import parse_memory_limit

from cntk_pipeline.config import ClusterConfig, load_config, read_listener
from cntk_pipeline.errors import ConfigError


@pytest.fixture
def workflow(tmp_path: Path) -> Path:
    path = tmp_path / "w.toml"
    path.write_text('network.preset = "cntk"\n')
    return path


@pytest.mark.parametrize(
    "limit",
    [
        *('"4 potatoes"', '""', '"-1GiB"', '"inf"', '"nan"', '"infGiB"', '"1e999GB"', '"0"', '"0.5"', '"99MB"'),
        *("0", "0.0", "-1", "-0.5", "inf", "nan", "1.5", "99999999", "1e999"),
    ],
)
def test_memory_that_no_worker_can_have_is_refused(workflow: Path, limit: str) -> None:
    message = r"cluster\.memory_limit: (expected bytes \(\"4GiB\"\)|Input should be a finite number)"
    with pytest.raises(ConfigError, match=message):
        load_config(workflow, [f"cluster.memory_limit={limit}"])


@pytest.mark.parametrize("limit", ["auto", "4GiB", "100 MB", "1e9", " 2 gib ", 0.5, 1, 1.0, 10**8, 4e9])
def test_memory_that_is_taken_means_something_to_dask(limit: Any) -> None:
    found = parse_memory_limit(ClusterConfig(memory_limit=limit).memory_limit, 1, 1, logger=None)
    assert found is not None
    assert found > 0


@pytest.mark.parametrize("key", ["dashboard", "metrics"])
@pytest.mark.parametrize(
    "address", ["127.0.0.1", "127.0.0.1:", "127.0.0.1:²", "a:٣", "a:-1", "a:65536", "a:1e3", "a b:1", "::1:80", "[]:1"]
)
def test_an_address_that_is_none_is_refused_before_anything_runs(workflow: Path, key: str, address: str) -> None:
    with pytest.raises(ConfigError, match=rf'cluster\.{key}: expected "HOST:PORT" .*, got '):
        load_config(workflow, [f"cluster.{key}='{address}'"])


def test_an_address_is_read_with_its_brackets_off() -> None:
    assert read_listener("[::1]:80") == ("::1", 80)
    assert read_listener("node-7.example:0") == ("node-7.example", 0)
    assert ClusterConfig(dashboard=":8787").dashboard == ":8787"


@pytest.mark.parametrize("key", ["workers", "minimum_workers", "threads_per_worker"])
def test_a_count_that_no_cluster_has_is_refused(workflow: Path, key: str) -> None:
    with pytest.raises(ConfigError, match=rf"cluster\.{key}: Input should be less than or equal to"):
        load_config(workflow, [f"cluster.{key}=1000000000"])
