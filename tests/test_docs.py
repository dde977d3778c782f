"""The documentation shows code that exists, and names every layer."""

import contextlib
import dataclasses
import io
import json
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import threading
import tomllib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import obstore.store
import prometheus_client
import pytest
import typer
import zarr
import zarr.storage
from support.adding import hunks_of
from support.problems import Recorder
from typer.testing import CliRunner

from cntk_pipeline.cli.main import app
from cntk_pipeline.clusters import CLUSTERS
from cntk_pipeline.config import RunConfig
from cntk_pipeline.datasets import DATASETS
from cntk_pipeline.inference import RESULTS
from cntk_pipeline.kernels import ENGINES
from cntk_pipeline.layers import LAYERS
from cntk_pipeline.plots import DISPLAYS
from cntk_pipeline.solvers import SOLVERS
from cntk_pipeline.telemetry.events import EVENTS
from cntk_pipeline.telemetry.metrics import Metrics
from cntk_pipeline.workflow import run as runs
from cntk_pipeline.workflow.keys import workflow_keys

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


def test_every_layer_has_its_line_in_the_table_of_networks() -> None:
    rows = [line.split("|")[1] for line in (DOCS / "networks.md").read_text().splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`(\w+)\(", row)}
    assert set(LAYERS) <= named


def test_every_engine_has_its_line_in_the_table_of_engines() -> None:
    rows = (DOCS / "extending.md").read_text().partition("| engine | file |")[2].splitlines()
    files = dict(re.findall(r"^\| `([\w-]+)` \| `([\w/.]+)` \|", "\n".join(rows), re.MULTILINE))
    assert set(ENGINES) == set(files)
    for name, file in files.items():
        assert ENGINES[name].__module__ == "cntk_pipeline." + file.removesuffix(".py").replace("/", ".")


def test_every_figure_has_its_line_in_the_table_of_figures() -> None:
    rows = [line.split("|")[1] for line in (DOCS / "plots.md").read_text().splitlines() if line.startswith("| `")]
    assert set(DISPLAYS) <= {name for row in rows for name in re.findall(r"`(\w+)`", row)}


def test_the_layer_that_is_shown_is_the_one_that_exists() -> None:
    section = (DOCS / "extending.md").read_text().partition("\n# Adding a data set\n")[0]
    (file,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    assert file == (ROOT / "pipeline/cntk_pipeline/layers/gaussian.py").read_text()
    hunks = [hunk for diff in re.findall(r"```diff\n(.*?)```", section, re.DOTALL) for hunk in hunks_of(diff)]
    tables = {"pipeline/cntk_pipeline/layers/__init__.py", "pipeline/cntk_pipeline/finite/activations.py"}
    assert {hunk.file for hunk in hunks} == tables | {"tests/twin/pointwise.py"}
    for hunk in hunks:
        assert (ROOT / hunk.file).read_text().count(hunk.new) == 1, hunk


def test_the_readme_begins_with_the_installation_and_three_lines_of_python() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 120
    (install, first), *_ = re.findall(r"(?ms)^```\n(pip install [^\n]*)\n```\n\n```python\n(.*?)```", text)
    assert text.index("```") == text.index(f"```\n{install}")  # no block stands before them
    code = [line for line in first.splitlines() if line and not line.startswith(("from ", "import "))]
    assert len(code) == 3
    assert "KernelClassifier(" in code[1]
    for term in ("read-out", "CNTK-V", "CNTK-GAP"):  # defined where it first occurs
        assert f"*{term}*" in text[: text.index(term) + len(term) + 1], term


@pytest.mark.slow
@pytest.mark.parametrize("page", ["estimators.md", "finite.md", "inference.md", "plots.md", "runs.md", "../README.md"])
def test_examples_print_what_their_comments_say(page: str) -> None:
    code = "\n".join(re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL))
    if "cntk_pipeline.finite" in code or "import finite" in code:
        pytest.importorskip("torch")
    # Behind a print stands its line, or below a loop a line for each of its turns.
    promised = re.findall(r"(?m)^(?:print\(.*\)  )?# (.+)$", code)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, page, "exec"), {})
    assert printed.getvalue().splitlines() == promised


@pytest.mark.slow
def test_the_calls_on_the_page_of_networks_run(capsys: pytest.CaptureFixture[str]) -> None:
    code = "\n".join(re.findall(r"```python\n(.*?)```", (DOCS / "networks.md").read_text(), re.DOTALL))
    rng = np.random.default_rng(0)
    names = {f"x_{part}": rng.standard_normal((2, 8, 8, 3)) for part in ("train", "test")}
    exec(compile(code, "networks.md", "exec"), names)
    assert names["k"].shape == (4, 2, 2, 2)
    assert "GlobalAvgPool()" in capsys.readouterr().out


@pytest.mark.slow
def test_the_page_of_data_structures_shows_a_run_that_anybody_can_make(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (DOCS / "data-structures.md").read_text()
    monkeypatch.chdir(tmp_path)
    Path("small.toml").write_text(re.findall(r"```toml\n(.*?)```", text, re.DOTALL)[0])
    command = re.findall(r"(?m)^\$ cntk (run small\.toml .*)$", text)[0]
    subprocess.run([sys.executable, "-m", "cntk_pipeline", *command.split()], check=True, timeout=200)
    names: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*consolidated.*")
        code = "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))
        exec(compile(code, "data-structures.md", "exec"), names)
    assert np.array_equal(names["kernel"], names["run"].kernel("depth3-gap-ntk").compute())
    assert names["predictions"].shape == (10, 10)
    assert {"train", "test", "train_variance", "test_variance"} == set(names["group"].data_vars)
    assert np.array_equal(names["group"]["test"], names["run"].kernel("depth3-gap-ntk", "test").compute())


def test_every_command_that_is_shown_exists() -> None:
    commands = typer.main.get_command(app)
    assert isinstance(commands, typer.core.TyperGroup)
    pages = [
        ROOT / "README.md",
        *DOCS.rglob("*.md"),
        *(ROOT / "deploy").rglob("*.md"),
        *(ROOT / "workflows").rglob("*.md"),
    ]
    shown = [
        line
        for page in pages
        for block in re.findall(r"(?ms)^```[^\n]*\n(.*?)^```", page.read_text())
        for line in re.findall(r"(?m)^(?:\$ )?cntk (.+?)(?:\s+#.*|\s*[|>].*)?$", block)
    ]
    assert len(shown) > 25
    for line in shown:
        name, *words = line.split()
        known = {option for each in commands.commands[name].params for option in each.opts}
        assert {word.partition("=")[0] for word in words if word.startswith("-")} <= known, line


def test_every_file_of_faults_has_a_row_in_the_guarantees() -> None:
    table = (DOCS / "guarantees.md").read_text().partition("\n## The faults\n")[2]
    files = {file.name for file in (ROOT / "tests/faults").glob("test_*.py")}
    assert files - set(re.findall(r"`(test_\w+\.py)`", table)) == set()


def test_every_option_of_a_command_is_in_the_table_of_commands() -> None:
    commands = typer.main.get_command(app)
    assert isinstance(commands, typer.core.TyperGroup)
    table = (DOCS / "running.md").read_text().partition("\n## The commands\n")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `cntk ")]
    for name, command in commands.commands.items():
        if command.hidden:
            continue
        shown = "".join(row for row in rows if row.startswith(f" `cntk {name}"))
        options = {each.opts[0] for each in command.params if each.opts[0].startswith("--")} - {"--help"}
        assert options <= set(re.findall(r"--[a-z-]+", shown)), name


def test_the_manifests_of_shown_commands_are_there_from_the_top_of_a_checkout() -> None:
    pages = [*(ROOT / "deploy").rglob("*.md"), *(ROOT / "deploy").rglob("*.yaml"), *DOCS.rglob("*.md")]
    shown = [file for page in pages for file in re.findall(r" -f ([\w./-]+\.yaml)\b", page.read_text())]
    assert len(shown) > 5
    assert [file for file in shown if not (ROOT / file).exists()] == []


def test_every_event_and_every_metric_has_its_line() -> None:
    rows = [line.split("|") for line in (DOCS / "observability.md").read_text().splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`(\w+)", row[1])}
    registry = prometheus_client.CollectorRegistry()
    Metrics(registry)
    families = [(family.name, family.type) for family in registry.collect()]
    metrics = {f"{name}_total" if kind == "counter" else name for name, kind in families}
    assert named == set(EVENTS) | metrics | {"library"}
    told_by = {name: row[2].strip() for row in rows for name in re.findall(r"`(\w+)", row[1])}
    for event, (logger, _) in EVENTS.items():
        assert told_by[event] == logger.removeprefix("cntk_pipeline."), event


@pytest.mark.skipif(shutil.which("jq") is None, reason="jq is not installed")
@pytest.mark.slow
def test_recipes_for_jq_find_what_they_say(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    lines = [
        {"time": 1, "level": "info", "event": "driver_started", "worker": "a-1"},
        {"time": 2, "level": "info", "event": "began", "stage": "train", "row": 0, "col": 0, "worker": "a-2"},
        {"time": 3, "level": "warning", "event": "failed", "stage": "train", "row": 0, "col": 0, "worker": "a-2"},
        {"time": 4, "level": "info", "event": "began", "stage": "train", "row": 0, "col": 0, "worker": "a-2"},
        {"time": 5, "level": "info", "event": "began", "stage": "train", "row": 1, "col": 0, "worker": "a-3"},
        {"time": 6, "level": "info", "event": "finished", "stage": "train", "row": 0, "col": 0, "worker": "a-2"},
    ]
    lines[-1]["seconds"] = 2.5
    (tmp_path / "log/a-1.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    block = re.findall(r"```sh\n(# what went.*?)```", (DOCS / "observability.md").read_text(), re.DOTALL)[0]
    found = []
    for recipe in (line for line in block.splitlines() if line.startswith("jq")):
        answer = subprocess.run(recipe, shell=True, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert answer.returncode == 0, answer.stderr
        found.append(answer.stdout)
    assert json.loads(found[0])["event"] == "failed"
    assert found[1] == "2 train 0 0\n"
    assert json.loads(found[2])["seconds"] == 2.5
    assert found[3] == "a-2 1 2.5\n"
    assert found[4] == "train 1 0\n"


def test_links_between_documents_lead_somewhere() -> None:
    for document in [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "workflows" / "README.md",
        *DOCS.rglob("*.md"),
    ]:
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
            assert target.startswith("http") or (document.parent / target).exists(), f"{document.name}: {target}"


def test_the_page_of_the_workflow_is_what_its_script_prints() -> None:
    page = runpy.run_path(str(DOCS / "make_workflow_page.py"))["page"]
    assert (DOCS / "workflow.md").read_text() == page(), "python docs/make_workflow_page.py > docs/workflow.md"


def test_the_first_workflow_of_its_page_prints_what_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (DOCS / "workflow.md").read_text()
    monkeypatch.chdir(tmp_path)
    for name, content in re.findall(r"`(\w+\.toml)`[^`]*?:\n\n```toml\n(.*?)```", text, re.DOTALL):
        Path(name).write_text(content)
    shown = "".join(re.findall(r"(?ms)^```\n(\$ .*?)^```", text))
    commands = [block.splitlines() for block in shown.split("$ cntk ")[1:]]
    assert [lines[0].split()[0] for lines in commands] == ["plan", "run", "run", "plan"]
    for command, *lines in commands:
        done = CliRunner().invoke(app, shlex.split(command))
        assert done.exit_code == 0, done.output
        # The time of a pair and the last digits of a residual depend on the machine.
        varying = r"[\d.]+ \w+ a pair|[\d.]+e-\d+$"
        printed = re.sub(varying, "#", done.output, flags=re.MULTILINE)
        for line in lines:
            assert line == "..." or re.sub(varying, "#", line) in printed.splitlines(), printed


def test_arrays_of_the_page_of_data_come_to_a_run_by_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    section = (DOCS / "data.md").read_text().partition("Arrays of your own come")[2].partition("\n## ")[0]
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    exec(compile(code, "data.md", "exec"), {})
    ((command, shown),) = re.findall(r"```\n\$ cntk ([^\n]*)\n(.*?)```", section, re.DOTALL)
    done = CliRunner().invoke(app, shlex.split(command))
    assert (done.exit_code, done.output) == (0, shown)
    (table,) = (tomllib.loads(each) for each in re.findall(r"```toml\n(.*?)```", section, re.DOTALL))
    written = tomllib.loads(Path("own.toml").read_text())
    assert written["data"] == table["data"] | {"path": str(tmp_path / table["data"]["path"])}
    run = CliRunner().invoke(app, ["run", "own.toml", "--dry-run"])
    assert run.exit_code == 0, run.output


def test_every_key_of_a_workflow_has_a_type_and_a_meaning() -> None:
    tables = workflow_keys()
    nameless = [(table.section, table.kind, key.name) for table in tables for key in table.keys if not key.meaning]
    assert nameless == []
    assert [key.name for table in tables for key in table.keys if not key.type] == []
    numbers = [key for table in tables for key in table.keys if key.type in ("number", "whole number")]
    assert [key.name for key in numbers if key.default.startswith('"')] == []  # a text
    assert {table.section for table in tables} == {"", *RunConfig.model_fields} - {"name"}


def test_every_key_that_a_model_reads_is_in_the_page() -> None:
    listed = {(table.section, table.kind): {key.name for key in table.keys} for table in workflow_keys()}
    for section, field in RunConfig.model_fields.items():
        if section not in ("name", "inference"):
            assert listed[section, ""] == set(field.annotation.model_fields)
    for name, loader in DATASETS.items():
        assert listed["data", f'source = "{name}"'] == {each.name for each in dataclasses.fields(loader)} - {"task"}
    for name, solver in SOLVERS.items():
        assert listed["solve", f'solver = "{name}"'] == set(solver.options.model_fields)
    for name, cluster in CLUSTERS.items():
        assert listed.get(("cluster", f'kind = "{name}"'), set()) == set(cluster.options.model_fields)
    assert listed["inference", ""] == set(RESULTS)


def test_the_line_of_the_page_of_stores_opens_an_array(small_config: Callable[..., RunConfig], bucket: str) -> None:
    readouts = {"depths": [3], "poolings": ["gap"], "kinds": ["ntk"]}
    config = small_config(readouts=readouts, store={"path": f"s3://{bucket}/shown"})
    run = runs.start(config, Recorder(), threading.Event())
    (code,) = re.findall(r"```python\n(.*?)```", (DOCS / "stores.md").read_text(), re.DOTALL)
    for shown, real in (("my-bucket", bucket), ('prefix="..."', 'prefix="shown/kernel.zarr"')):
        assert shown in code
        code = code.replace(shown, real)
    array = eval(code.replace('path="..."', 'path="depth3-gap-ntk/train"'), {"zarr": zarr, "obstore": obstore})
    np.testing.assert_array_equal(array[:16, :16], run.kernel("depth3-gap-ntk", "train").read(0, 0))
