"""What is not installed is asked for by the name that pip knows, before anything is written."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from cntk_pipeline.clusters import CLUSTERS
from cntk_pipeline.clusters.extras import METRICS

ABSENT = """
import os, sys
from importlib.machinery import PathFinder

class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        absent = name.partition(".")[0] in os.environ["ABSENT"].split(",")
        return None if absent else PathFinder.find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Finder
"""
"""A ``sitecustomize`` that makes modules absent, as if they had never been installed."""

SCRIPT = """
import sys, threading
from cntk_pipeline.workflow import run as runs
from cntk_pipeline.config import parse_config
from cntk_pipeline.errors import PipelineError
from cntk_pipeline.clusters import CLUSTERS
from cntk_pipeline.rundir.submissions import Submission

TABLES = [
    {"kind": "ssh", "hosts": ["a"]},
    {"kind": "kubernetes", "workers": 2, "memory_limit": "4GiB", "image": "x", "volume_claim": "c"},
    {"kind": "serial", "metrics": "127.0.0.1:0"},
]
for cluster in TABLES:
    config = parse_config({"network": {"preset": "cntk"}, "readouts": {"depths": [2]}, "cluster": cluster}, "test")
    acts = [lambda: runs.start(config, None, threading.Event()), lambda: runs.begin_elsewhere(config, None, None)]
    if cluster["kind"] != "serial":
        acts.append(lambda: CLUSTERS[cluster["kind"]].submitter.check(config))
    for act in acts:
        try:
            act()
        except PipelineError as error:
            print(error)
print(CLUSTERS["kubernetes"].submitter.standing(Submission("kubernetes", "default/cntk-run-1", "here", "now")))
print(CLUSTERS["ssh"].submitter.standing(Submission("ssh", "vm:1 by a", "here", "now")))
"""


@pytest.mark.slow
@pytest.mark.parametrize("kubernetes", ["kr8s", "httpx"])
def test_an_extra_that_is_absent_is_named_with_the_command_that_installs_it(tmp_path: Path, kubernetes: str) -> None:
    (tmp_path / "sitecustomize.py").write_text(ABSENT)
    root = Path(__file__).parents[2] / "pipeline"
    absent = f"asyncssh,{kubernetes},prometheus_client"
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{root}", "ABSENT": absent}
    command = [sys.executable, "-c", SCRIPT]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [
        *3 * ["the \"ssh\" cluster needs asyncssh: pip install 'cntk-pipeline[ssh]'"],
        *3 * [f"the \"kubernetes\" cluster needs {kubernetes}: pip install 'cntk-pipeline[kubernetes]'"],
        *2 * ["cluster.metrics needs prometheus-client: pip install 'cntk-pipeline[metrics]'"],
        "JobStatus(state='unknown', words='cannot be asked for: the \"kubernetes\" cluster needs "
        f"{kubernetes}: pip install \\'cntk-pipeline[kubernetes]\\'', timing='')",
        "JobStatus(state='unknown', words='', timing='')",
    ]
    assert not (tmp_path / "runs").exists()


def test_extras_are_those_of_the_package() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    for extra in [METRICS, *(cluster.extra for cluster in CLUSTERS.values() if cluster.extra is not None)]:
        named = {text.partition(">")[0].replace("-", "_") for text in project["optional-dependencies"][extra.name]}
        assert set(extra.modules) <= named
