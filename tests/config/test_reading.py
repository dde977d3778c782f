"""What a workflow file may be, byte by byte, and what a place in it means."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cntk_pipeline.clusters.address.options import AddressOptions
from cntk_pipeline.config import load_cluster, load_config
from cntk_pipeline.config.cluster_files import find_cluster
from cntk_pipeline.config.reading import DEEPEST, LARGEST_BYTES, read_toml
from cntk_pipeline.errors import ConfigError

WORKFLOW = b'network.preset = "cntk"\n'
NETWORK = ["network.preset=cntk"]


def refusal(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    message = str(caught.value)
    assert str(path) in message
    return message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (WORKFLOW + b"[data]\npath = 'a\xff'\n", r"is no text in UTF-8 (byte 0xff, line 3, column 10): save it in"),
        (WORKFLOW.decode().encode("utf-16"), "is no text in UTF-8 (byte 0xff, line 1, column 1)"),
        (b"a = 1\0", "is not valid TOML"),
        (b"x = " + 500 * b"[" + 500 * b"]", "lists and tables lie more than 100 deep within one another"),
        (b"x = " + 150 * b"[" + 150 * b"]", "x: lists and tables lie more than 100 deep within one another"),
        (b"x" + 150 * b".x" + b" = 1", "x: lists and tables lie more than 100 deep within one another"),
        (b"[data]\ntrain = " + 5000 * b"9", "a number is too long"),
        (b"[data]\ntrain = " + 30 * b"9", "data.train: a whole number has at most 64 bits"),
        (b"[data]\ntrain = 0x" + 5000 * b"f", "data.train: a whole number has at most 64 bits"),
        (b"a = [" + LARGEST_BYTES * b" " + b"]", f"it is larger than {LARGEST_BYTES} bytes, which none needs"),
        (b"", "network: Field required"),
        (b"\xef\xbb\xbf", "network: Field required"),
        (b"network = 5", "network: Input should be a table (got 5)"),
        (b"network.preset = " + 10_000 * b"[1], ", "is not valid TOML"),
    ],
)
def test_what_is_no_workflow_is_refused_in_words(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "w.toml"
    path.write_bytes(content)
    assert message in refusal(path)


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    path = tmp_path / "w.toml"
    path.write_bytes(b"\xef\xbb\xbf" + WORKFLOW.replace(b"\n", b"\r\n"))
    assert load_config(path).network.preset == "cntk"


def test_a_value_as_deep_as_allowed_is_read(tmp_path: Path) -> None:
    path = tmp_path / "w.toml"
    path.write_text(f"x = {'[' * (DEEPEST - 1)}1{']' * (DEEPEST - 1)}")
    assert read_toml(path, "file")


def test_a_long_wrong_value_is_not_shown_whole(tmp_path: Path) -> None:
    path = tmp_path / "w.toml"
    path.write_text(f"network.preset = {[1] * 10_000}")
    assert len(refusal(path)) < 1000


def test_a_pipe_is_not_waited_for_and_a_device_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), Path("/dev/null")):
        assert "it is a device or a pipe; name a regular file" in refusal(path)
        with pytest.raises(ConfigError, match="it is a device or a pipe"):
            load_cluster(path)
    assert "it is a folder; name the file in it" in refusal(tmp_path)


PLACES = ["data.path", "store.path", "store.grow_from", "cluster.scheduler_file", "cluster.tls_key"]


def value_of(workflow: Path, key: str, text: str) -> str:
    section, name = key.split(".")
    config = load_config(workflow, given={key: text})
    of = {"cluster": AddressOptions.of(config.cluster), "data": config.data, "store": config.store}
    return str(getattr(of[section], name))


@pytest.fixture
def workflow(tmp_path: Path) -> Path:
    path = tmp_path / "w.toml"
    path.write_bytes(WORKFLOW)
    return path


@pytest.mark.parametrize("key", PLACES)
def test_a_tilde_is_the_home_folder(workflow: Path, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somebody")
    assert value_of(workflow, key, "~/x") == "/somebody/x"
    assert value_of(workflow, key, "a~/x") == "a~/x"
    assert value_of(workflow, key, "s3://bucket/~x") == "s3://bucket/~x"
    with pytest.raises(ConfigError, match=f"{key}: the home folder that ~ stands for is not known"):
        value_of(workflow, key, "~nobody-of-this-name/x")


@pytest.mark.parametrize("key", PLACES)
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"expected the name of a file or folder \(got ''\)"),
        ("a\0b", r"holds no NUL \(got 'a\\x00b'\)"),
        ("a\udcff", r"expected text in UTF-8, got bytes that are none at position 1.* \(got 'a\\udcff'\)"),
    ],
)
def test_a_place_that_is_none_is_refused(workflow: Path, key: str, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"{key}: .*{message}"):
        value_of(workflow, key, text)


@pytest.mark.parametrize("text", ["\N{GRINNING FACE}", "a'\"\\ b", "\x7f", "\t", "\\ud83d", "*?", "2024", "true", "[x"])
def test_a_given_place_goes_where_it_says(workflow: Path, text: str) -> None:
    assert value_of(workflow, "store.path", text) == text


def test_an_override_with_a_quote_is_toml_or_refused(workflow: Path) -> None:
    assert load_config(workflow, ["store.path=\N{GRINNING FACE}"]).store.path == "\N{GRINNING FACE}"
    assert load_config(workflow, [r'store.path="\U0001F600"']).store.path == "\N{GRINNING FACE}"
    with pytest.raises(ConfigError, match=r"--set store.path=.*: the value is not valid TOML: .*not a Unicode scalar"):
        load_config(workflow, [r'store.path="\ud83d\ude00"'])
    with pytest.raises(ConfigError, match="--set takes one value"):
        load_config(workflow, ["data.train=5\nnetwork.preset='myrtle'"])
    with pytest.raises(ConfigError, match="--set takes one value"):
        load_config(workflow, ["solve.ridges=[5]\nnetwork.preset='myrtle'"])
    with pytest.raises(ConfigError, match=r"--set takes text in UTF-8, got 'name=a\\udcff'"):
        load_config(workflow, ["name=a\udcff"])
    assert load_config(workflow, ["data.path=2020-01-01"]).data.path == "2020-01-01"


def test_a_cluster_file_lies_in_the_home_folder_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "c.toml").touch()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_cluster("~/c.toml") == tmp_path / "c.toml"
    monkeypatch.setenv("CNTK_CLUSTERS", "~")
    assert find_cluster("c") == tmp_path / "c.toml"


LOCALES = [{"LC_ALL": "C"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}]


@pytest.mark.slow
@pytest.mark.parametrize("locale", LOCALES, ids=["C", "C without UTF-8"])
@pytest.mark.parametrize("name", ["\N{GRINNING FACE}".encode(), b"a\xff"], ids=["UTF-8", "other"])
def test_a_folder_has_its_name_in_any_locale_or_is_refused_by_it(
    tmp_path: Path, locale: dict[str, str], name: bytes
) -> None:
    workflow = tmp_path / "w.toml"
    workflow.write_text('network.preset = "cntk"\nreadouts.depths = [2]\ndata = {train = 3, test = 2}\n')
    environment = {key: value for key, value in os.environ.items() if not key.startswith("LC_")}
    environment |= {"PYTHONPATH": str(Path(__file__).parents[2] / "pipeline")} | locale
    command = [
        sys.executable,
        "-m",
        "cntk_pipeline.cli",
        "run",
        workflow,
        "--set",
        'cluster.kind="serial"',
        "--store",
        name,
    ]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, timeout=120)
    made = {entry for entry in os.listdir(os.fsencode(tmp_path))} - {b"w.toml"}
    is_text = locale == LOCALES[0] and name != b"a\xff"
    assert (result.returncode, made) == ((0, {name}) if is_text else (2, set())), result.stderr
    if not is_text:
        assert b"store.path: " in result.stderr
        assert b"Traceback" not in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "message"),
    [
        (b"", "^error: expected the name of a file or folder, got ''"),
        (b"a\xff", r"^error: expected text in UTF-8, got bytes that are none at position 1: .*, got 'a\\udcff'"),
        (b"~/there", r"/somebody/there holds no run"),
    ],
)
def test_a_directory_on_the_command_line_goes_where_it_says(tmp_path: Path, name: bytes, message: str) -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "pipeline"), "HOME": "/somebody"}
    command = [sys.executable, "-m", "cntk_pipeline.cli", "status", name]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert result.returncode == 2
    assert re.search(message, result.stderr)
    assert "Traceback" not in result.stderr
