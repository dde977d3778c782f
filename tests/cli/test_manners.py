"""Help, wrong usage, dry runs and lists of runs: what every command owes its users.

Seen to fail: with ``rich_markup_mode="rich"``, which took "[cluster]" out of the help of ``--cluster``; with a summary
of a command that is longer than its line; with a dry run that began its run directory; with a list that counted a run
as complete whose result of inference was gone.
"""

import ast
import errno
import json
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from support.problems import Recorder, stop_after
from support.processes import as_nobody

from cntk_pipeline import __version__
from cntk_pipeline.cli import main as cli
from cntk_pipeline.config import RunConfig
from cntk_pipeline.errors import Interrupted, StoreError
from cntk_pipeline.rundir import lease
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.units import shell_word
from cntk_pipeline.workflow import run as runs
from cntk_pipeline.workflow.listing import list_runs

Cntk = Callable[..., tuple[int, str, str]]
COMMANDS = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
VISIBLE = sorted(name for name, command in COMMANDS.items() if not command.hidden)
WITH_FILE = ["network", "plan", "run", "submit"]
WITH_RUN = ["cancel", "drive", "export", "inspect", "report", "resume", "status", "verify"]
WITH_MORE = ["compare", "init", "predict"]
"""Commands that need more than a run, or other things."""


@pytest.fixture
def cntk(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cntk:
    """Run a command in this process on a terminal of 80 columns; return its exit code, its output and its errors."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERMINAL_WIDTH", "80")

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["cntk", *map(str, arguments)])
        for name in ("stdout", "stderr"):
            monkeypatch.setattr(sys, name, getattr(sys, name))  # which the command replaces
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
        said = capfd.readouterr()
        assert isinstance(end.value.code, int)
        return end.value.code, said.out, said.err

    return run


def texts_of(name: str) -> Iterator[str]:
    """List the texts that the help of a command is made of."""
    yield COMMANDS[name].callback.__doc__
    for parameter in COMMANDS[name].params:
        yield parameter.help or ""


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_shows_every_word_that_is_written(cntk: Cntk, name: str) -> None:
    code, shown, _ = cntk(name, "--help")
    assert code == 0
    together = "".join(shown.split())
    for text in texts_of(name):
        for paragraph in text.split("\n\n"):
            assert "".join(paragraph.split()) in together


def test_the_list_of_commands_cuts_no_sentence_off(cntk: Cntk) -> None:
    code, shown, _ = cntk("--help")
    assert code == 0
    commands = shown.partition("Commands:")[2]
    lines = commands.splitlines()
    assert sorted(line.split()[0] for line in lines if line.strip()) == VISIBLE
    assert "..." not in commands
    assert max(map(len, shown.splitlines())) <= 80


def test_the_version_has_one_source(cntk: Cntk) -> None:
    assert cntk("--version") == (0, f"cntk {__version__}\n", "")
    assert re.fullmatch(r"\d+\.\d+\.\d+", __version__)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_an_unknown_option_is_wrong_usage(cntk: Cntk, name: str) -> None:
    code, _, said = cntk(name, "--no-such-option")
    assert (code, "No such option: --no-such-option" in said) == (2, True)


@pytest.mark.parametrize("name", WITH_FILE + WITH_RUN + WITH_MORE)
def test_a_missing_argument_is_wrong_usage(cntk: Cntk, name: str) -> None:
    code, _, said = cntk(name)
    assert (code, "Missing argument" in said) == (2, True)


def test_every_command_with_an_argument_is_among_those() -> None:
    needy = [name for name, command in COMMANDS.items() if any(each.required for each in command.params)]
    assert sorted(needy) == sorted(WITH_FILE + WITH_RUN + WITH_MORE)


@pytest.mark.parametrize("name", WITH_FILE)
def test_a_workflow_that_is_not_there_is_wrong_usage(cntk: Cntk, name: str) -> None:
    code, _, said = cntk(name, "nowhere.toml")
    assert (code, said.startswith("error: ")) == (2, True)
    assert "nowhere.toml" in said


@pytest.mark.parametrize("name", WITH_RUN)
def test_a_run_that_is_not_there_is_wrong_usage(cntk: Cntk, tmp_path: Path, name: str) -> None:
    code, _, said = cntk(name, tmp_path / "nowhere")
    assert (code, "holds no run (no run.json)" in said) == (2, True)
    assert list(tmp_path.iterdir()) == []


def test_data_that_are_not_there_are_wrong_usage(cntk: Cntk, tmp_path: Path) -> None:
    code, _, said = cntk("init", tmp_path / "nowhere")
    assert (code, said.startswith(f"error: {tmp_path}/nowhere: expected a file or folder of data")) == (2, True)


def test_an_unknown_command_is_wrong_usage(cntk: Cntk) -> None:
    code, _, said = cntk("rnu")
    assert (code, "No such command 'rnu'" in said) == (2, True)


@pytest.mark.parametrize("name", ["run", "submit"])
def test_a_cluster_that_nobody_described_is_wrong_usage(cntk: Cntk, tmp_path: Path, name: str) -> None:
    (tmp_path / "w.toml").write_text('network.preset = "cntk"\n')
    code, _, said = cntk(name, tmp_path / "w.toml", "--cluster", "nowhere")
    assert (code, "no cluster is called 'nowhere': known are local, serial" in said) == (2, True)


@pytest.mark.parametrize("name", WITH_FILE)
def test_a_network_that_cannot_be_computed_is_wrong_usage(
    cntk: Cntk, tmp_path: Path, small_npz: Path, name: str
) -> None:
    path = tmp_path / "w.toml"
    path.write_text(
        f'data = {{ source = "npz", path = "{small_npz}", train = 12, test = 3 }}\n'
        'network.layers = [{layer = "Conv", filter_shape = [1, 2]}, {layer = "Flatten"}]\nkernel.flips = true\n'
        f'store.path = "{tmp_path}/run"\n'
    )
    code, _, said = cntk(name, path)
    assert (code, said.startswith("error: averaging over flips needs a network")) == (2, True)
    assert not (tmp_path / "run").exists()


WORKFLOW = """
data = {{ source = "npz", path = "{data}", train = 12, test = 3 }}
network = {{ preset = "cntk" }}
readouts = {{ depths = [2] }}
kernel = {{ tile = 8 }}
solve = {{ ridges = [1e-2], tile = 8 }}
"""


@pytest.mark.slow
def test_a_dry_run_is_a_plan_and_writes_nothing(
    cntk: Cntk, tmp_path: Path, small_npz: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.toml").write_text(WORKFLOW.format(data=small_npz))
    plan, dry_run = cntk("plan", "w.toml"), cntk("run", "w.toml", "--dry-run", "--store", "run")
    assert "memory per worker about" in plan[1]
    times = re.compile(r"[\d.]+ (us|ms|s|min|h)\b")  # are measured anew
    assert [times.sub("T", said) for said in dry_run[1:]] == [times.sub("T", said) for said in plan[1:]]
    assert (plan[0], dry_run[0]) == (0, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["w.toml"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["local", "serial"])
def test_the_kinds_of_this_machine_are_names_of_clusters(
    cntk: Cntk, tmp_path: Path, small_npz: Path, kind: str
) -> None:
    (tmp_path / "w.toml").write_text(WORKFLOW.format(data=small_npz))
    other = 'cluster = { kind = "slurm", partition = "long" }'
    (tmp_path / "w.toml").write_text((tmp_path / "w.toml").read_text() + other)
    code, said, problem = cntk("run", tmp_path / "w.toml", "--store", tmp_path / "run", "--cluster", kind)
    assert code == 0, problem
    assert ("computing on this process" in said) == (kind == "serial")
    assert ("local workers, dashboard http://" in said) == (kind == "local")
    assert cntk("resume", tmp_path / "run", "--cluster", kind)[0] == 0


def test_a_folder_without_runs_is_said_to_have_none(cntk: Cntk, tmp_path: Path) -> None:
    code, said, _ = cntk("list", tmp_path)
    assert (code, said) == (0, f"no run lies in {tmp_path} or in its folders: give another FOLDER\n")
    code, _, problem = cntk("list", tmp_path / "nowhere")
    assert (code, "there is no folder" in problem) == (2, True)
    (tmp_path / "file").write_text("")
    (tmp_path / "dangling").symlink_to("nowhere")
    for name in ("file", "dangling"):
        assert cntk("list", tmp_path / name)[0] == 2


@pytest.mark.slow
def test_a_list_follows_a_link_that_is_named(
    cntk: Cntk, tmp_path: Path, run_small: Callable[..., RunDirectory]
) -> None:
    """Seen to fail where each link is left out: "no run lies in link", with ``runs -> /scratch/me/runs``."""
    run_small(store={"path": str(tmp_path / "runs" / "a")})
    (tmp_path / "link").symlink_to("runs")
    for given in (f"{tmp_path}/link", f"{tmp_path}/link/"):
        assert [run.path for run in list_runs(given).runs] == [f"{tmp_path}/link/a"]
    assert [run.path for run in list_runs(str(tmp_path)).runs] == [f"{tmp_path}/runs/a"]


@pytest.mark.slow
def test_a_closed_folder_of_another_user_is_left_out_and_named(
    cntk: Cntk, tmp_path: Path, run_small: Callable[..., RunDirectory], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen to fail where the first such folder ends the list, and where one inside a run does."""
    tmp_path.chmod(0o755)
    for name in ("b", "half"):
        run_small(store={"path": str(tmp_path / name)})
    for name, mode in (("a", 0), ("c", 0o444), ("d/e", 0o700), ("half/log", 0)):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / name).chmod(mode)
    monkeypatch.chdir(tmp_path)
    with as_nobody():
        found = list_runs(".")
        code, said, problem = cntk("list", ".")
    assert [(run.path, run.state) for run in found.runs] == [("b", "complete"), ("half", "damaged")]
    assert found.closed == ("a", "c", "d/e")
    assert (code, problem) == (0, "left out, since it cannot be read: a and 2 more\n")
    assert len(said.splitlines()) == 3
    with as_nobody(), pytest.raises(StoreError, match="Permission denied"):
        list_runs("a")


@pytest.mark.slow
@pytest.mark.parametrize("code", [errno.ENOTCONN, errno.ESTALE, errno.EIO])
def test_a_mount_that_is_gone_is_left_out_and_named(
    code: int, cntk: Cntk, tmp_path: Path, run_small: Callable[..., RunDirectory], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen to fail: one dead mount ended the whole list with a traceback."""
    run_small(store={"path": str(tmp_path / "b")})
    (tmp_path / "dead").mkdir()
    look = os.stat

    def look_or_fail(path: Any, *given: Any, **options: Any) -> os.stat_result:
        if str(path).endswith("dead"):
            raise OSError(code, os.strerror(code), str(path))
        return look(path, *given, **options)

    monkeypatch.setattr(os, "stat", look_or_fail)
    monkeypatch.setattr(os, "lstat", lambda path, **options: look_or_fail(path, follow_symlinks=False, **options))
    monkeypatch.chdir(tmp_path)
    assert cntk("list", ".")[::2] == (0, "left out, since it cannot be read: dead\n")
    assert [run.path for run in list_runs(".").runs] == ["b"]
    with pytest.raises(StoreError, match=os.strerror(code)):
        list_runs("dead")


@pytest.mark.slow
def test_a_list_has_each_run_below_a_folder_with_its_best_accuracy(
    cntk: Cntk, tmp_path: Path, run_small: Callable[..., RunDirectory], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen to fail, in the pipe: the path, which alone tells a run from others, was cut off at 80 columns."""
    monkeypatch.delenv("COLUMNS")
    runs = tmp_path / "runs" / ("of a long name " * 5)
    whole = run_small(store={"path": str(runs / "b" / "whole")}, inference={"leave_one_out": True})
    run_small(store={"path": str(runs / "a")})
    cut = run_small(store={"path": str(runs / "cut")}, inference={"leave_one_out": True})
    damaged = run_small(store={"path": str(runs / "damaged")})
    (runs / "loop").symlink_to(runs)
    next(Path(cut.path).glob("solve/*/inference/leave_one_out.json")).unlink()
    (Path(damaged.path) / "run.json").write_text("{}")
    found = {run.path: run for run in list_runs(str(runs)).runs}
    assert {Path(path).relative_to(runs).as_posix(): run.state for path, run in found.items()} == {
        "a": "complete",
        "b/whole": "complete",
        "cut": "incomplete",
        "damaged": "damaged",
    }
    entry = found[str(whole.path)]
    accuracies = [json.loads(path.read_text())["accuracy"] for path in Path(whole.path).glob("solve/*/metrics.json")]
    assert entry.accuracy == max(accuracies)
    assert entry.readouts == 4
    assert entry.bytes == sum(file.stat().st_size for file in Path(whole.path).rglob("*") if file.is_file())
    code, said, _ = cntk("list", runs)
    assert code == 0
    assert len(said.splitlines()) == 5
    assert f"{100 * max(accuracies):.2f}%" in said
    assert all(any(line.startswith(f"{path} ") for line in said.splitlines()) for path in found)
    assert max(map(len, said.splitlines())) < 80 + len(str(runs))
    assert json.loads(cntk("list", runs, "--json")[1])[1]["path"] == str(whole.path)


@pytest.mark.slow
def test_a_list_reads_no_tile(tmp_path: Path, run_small: Callable[..., RunDirectory]) -> None:
    run = run_small()
    for array in ("kernel.zarr", "inputs.zarr", "journal"):
        (Path(run.path) / array).rename(tmp_path / array)
    assert [found.state for found in list_runs(str(run.path)).runs] == ["complete"]


@pytest.mark.slow
def test_a_run_at_work_is_listed_as_running_and_says_where_it_computes(
    tmp_path: Path, run_small: Callable[..., RunDirectory], small_config: Callable[..., RunConfig]
) -> None:
    from cntk_pipeline.workflow.report import make_report

    path, seen = str(small_config().store.path), []

    class Looker(Recorder):
        def progress(self, progress: object) -> None:
            seen.append((list_runs(path).runs[0].state, make_report(RunDirectory(path)).executor))

    run_small(Looker())
    assert set(seen) == {("running", "this process")}
    assert make_report(RunDirectory(path)).executor is None


PRINTED = re.compile(
    r"cntk (?:cancel|inspect|plan|report|resume|status)(?: --\w+)* (?P<place>'(?:[^']|'\"'\"')*'|[^\s-]\S*)"
)


@pytest.mark.slow
@pytest.mark.parametrize("name", [r"""my runs/it's é "\a""", "runs/plain-1_a.b"])
def test_commands_that_are_printed_can_be_typed(
    cntk: Cntk,
    tmp_path: Path,
    small_config: Callable[..., RunConfig],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    """Seen to fail with the path as it is: a shell takes its parts for several arguments."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(lease, "PATIENCE_SECONDS", 0.0)
    view, stop = stop_after(3)
    config = small_config(store={"path": name})
    with pytest.raises(Interrupted):
        runs.start(config, view, stop)
    acts = ["inspect", "inspect --all", "status", "verify", "cancel", "resume", "inspect --all"]
    said = " ".join(" ".join(cntk(*act.split(), name)[1:]) for act in acts)
    assert cntk("list", "runs" if "plain" in name else "my runs")[0] == 0
    places = [shlex.split(match["place"].strip("`")) for match in PRINTED.finditer(said)]
    assert len(places) >= 5
    assert {tuple(place) for place in places} == {(name,)}
    opened = re.findall(r"open_run\((.*)\)", said)
    assert len(opened) >= 3
    assert {ast.literal_eval(text.partition(").")[0]) for text in opened} == {name}
    if "plain" in name:
        assert f'cntk_pipeline.open_run("{name}")' in said
        assert f"cntk inspect {name}" in said


def test_each_command_with_a_path_is_written_as_a_shell_reads_it() -> None:
    """Seen to fail with ``cntk resume {run.path}`` and ``cntk {command} {path}`` in any file of the package."""
    package = Path(cli.__file__).parents[1]
    acts = "|".join(COMMANDS)
    bare = re.compile(rf"cntk (?:{acts}|\{{\w+\}})(?: --\w+)* \{{(?!escape\(shell_word\(|shell_word\(|word\b|\{{ word)")
    files = [*package.rglob("*.py"), *package.rglob("*.html"), *package.rglob("*.j2")]
    assert [f"{file}: {line}" for file in files for line in file.read_text().splitlines() if bare.search(line)] == []


@pytest.mark.parametrize(
    ("path", "word"),
    [("runs/a", "runs/a"), ("s3://bucket/a-b", "s3://bucket/a-b"), ("a b", "'a b'"), ("-a", "./-a"), ("", "''")],
)
def test_a_path_is_one_word_of_a_shell(path: str, word: str) -> None:
    assert shell_word(path) == word
    assert shlex.split(word) in ([path], [f"./{path}"])
