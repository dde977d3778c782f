"""Runs that nothing happens to, with which runs are compared that something happened to."""

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest
from support.problems import Recorder
from support.processes import workflow

from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.workflow import run as runs


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[dict[str, Any]], RunDirectory]:
    """Return what makes the run of some sections in this process, once for all tests, which only read it.

    Its values do not depend on the kind of cluster, and a cluster takes seconds to start.
    """
    made: dict[str, RunDirectory] = {}

    def find(sections: dict[str, Any]) -> RunDirectory:
        key = json.dumps(sections, sort_keys=True)
        if key not in made:
            path = tmp_path_factory.mktemp("undisturbed") / "run"
            made[key] = runs.start(workflow(path, "serial", sections), Recorder(), threading.Event())
        return made[key]

    return find
