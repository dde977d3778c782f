"""`cntk init`: data of every format are recognised, and the workflow that is written can be planned."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.formats import write_formats
from typer.testing import CliRunner

from cntk_pipeline.cli.main import app, main
from cntk_pipeline.config import load_config
from cntk_pipeline.datasets.recognition import recognise
from cntk_pipeline.errors import ConfigError, DataError, DataNotFound
from cntk_pipeline.sequences import pad
from cntk_pipeline.workflow import run as runs
from cntk_pipeline.workflow.starter import make_starter, write_starter

pytestmark = pytest.mark.slow

FORMATS = {
    "shapes.npz": ("npz", {}),
    "arrays": ("npy", {}),
    "images.npy": ("npy", {}),
    "pets": ("folder", {}),
    "holiday": ("folder", {"resize": [8, 8], "mode": "RGB"}),
    "houses.csv": ("table", {}),
    "houses.parquet": ("table", {}),
    "pictures.parquet": ("table", {}),
    "mnist": ("idx", {}),
    "mnist/train-images-idx3-ubyte": ("idx", {}),
    "digits": ("digits", {}),
    "iris": ("sklearn", {}),
    "linnerud": ("sklearn", {}),
}


@pytest.mark.parametrize("name", FORMATS)
def test_the_workflow_for_data_of_each_format_can_be_planned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    write_formats(tmp_path)
    monkeypatch.chdir(tmp_path)
    source, given = FORMATS[name]
    starter = make_starter(name, given)
    assert starter.config.data.source == source
    write_starter(starter, tmp_path / "out.toml")
    config = load_config(tmp_path / "out.toml")
    assert config == starter.config
    plan = runs.plan(config)
    assert plan.train >= 1
    assert plan.test >= 1
    assert plan.contents == starter.contents


def test_a_measured_column_is_regressed_on_and_a_last_column_is_the_target(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("rooms,street,rent\n3,elm,1.5\n4,oak,2.5\n2,elm,1.25\n")
    config = make_starter(str(tmp_path / "t.csv")).config
    assert config.data.task == "regression"
    assert config.data.options == {"target": "rent"}
    assert config.network.preset == "fully_connected"
    assert config.data.standardize == "per_feature"


def test_images_get_convolutions_and_few_rows_of_many(tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(0, 256, (6000, 8, 8), np.uint8)
    np.savez(tmp_path / "many.npz", x=x, y=np.arange(6000) % 3)
    config = make_starter(str(tmp_path / "many.npz")).config
    assert config.network.preset == "cntk"
    assert (config.data.train, config.data.test, config.data.shuffle) == (5000, 1000, 0)


@pytest.mark.parametrize("lengths", [[5, 5, 5], [5, 3, 4]], ids=["equal", "unequal"])
def test_sequences_get_a_recurrent_layer_and_unequal_ones_get_padded(tmp_path: Path, lengths: list[int]) -> None:
    rng = np.random.default_rng(0)
    x = pad([rng.standard_normal((steps, 2)) for steps in lengths * 4])
    np.savez(tmp_path / "steps.npz", x=x, y=np.arange(12) % 2)
    starter = make_starter(str(tmp_path / "steps.npz"), {"layout": "sequences"})
    assert [layer["layer"] for layer in starter.config.network.layers] == [
        *(["Padded"] if len(set(lengths)) > 1 else []),
        "Recurrent",
        "GlobalAvgPool",
        "Dense",
    ]
    assert runs.plan(starter.config).readouts


def test_images_with_absent_pixels_get_a_network_that_takes_them(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((12, 8, 8, 1))
    x[10, 2:4, 3] = np.nan
    np.savez(tmp_path / "gaps.npz", x_train=x[:8], y_train=np.arange(8) % 2, x_test=x[8:], y_test=np.arange(4) % 2)
    starter = make_starter(str(tmp_path / "gaps.npz"))
    assert starter.config.network.layers[0] == {"layer": "Masked"}
    assert runs.plan(starter.config).readouts


def test_pictures_of_mixed_sizes_are_refused_with_the_key_that_helps(tmp_path: Path) -> None:
    write_formats(tmp_path)
    with pytest.raises(
        DataError, match=r"expected 4 x \d pixels \(height x width\) .* give --set 'data\.resize=\[4, \d\]'"
    ):
        make_starter(str(tmp_path / "holiday"))


REFUSED = {
    "nothing": ("none", DataNotFound, "expected a file or folder of data, or one of scikit-learn's iris, .*"),
    "another ending": ("a.xyz", DataError, r"a\.xyz: expected .npz, .npy, .csv, .*got another ending; convert it"),
    "an array alone": ("x.npy", DataError, "x.npy: expected a file of labels beside it, named alike with labels"),
    "an empty folder": ("empty", DataError, "got an empty folder; docs/data.md lists all formats"),
    "another folder": ("other", DataError, "expected folders of pictures, train.csv .*got notes.txt; docs/data.md"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_not_recognised_is_refused_with_what_is(tmp_path: Path, kind: str) -> None:
    name, error, message = REFUSED[kind]
    (tmp_path / "a.xyz").write_text("x")
    np.save(tmp_path / "x.npy", np.zeros(3))
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other/notes.txt").write_text("x")
    with pytest.raises(error, match=message):
        recognise(str(tmp_path / name))


def test_a_path_is_written_without_dots_unless_links_make_another_place_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_formats(tmp_path)
    for name in ("work", "far/away"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far" / "away")
    (tmp_path / "far" / "shapes.npz").write_bytes((tmp_path / "shapes.npz").read_bytes())
    monkeypatch.chdir(tmp_path / "work")
    assert recognise("../shapes.npz")["path"] == str(tmp_path / "shapes.npz")
    assert recognise("../link/../shapes.npz")["path"] == str(tmp_path / "work" / "../link/../shapes.npz")


def test_a_name_with_any_character_is_written_as_toml(tmp_path: Path) -> None:
    """Seen to fail: TOML takes no DEL as it is, and the workflow that was written was refused."""
    path = tmp_path / 'a\x7fb\\"\u2028\n.csv'
    path.write_text("rooms,street,rent\n3,elm,1.5\n4,oak,2.5\n2,elm,1.25\n")
    assert make_starter(str(path)).config.data.path == str(path)


def test_a_file_that_is_there_is_never_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "iris.toml").write_text("mine")
    with pytest.raises(ConfigError, match=r"iris.toml: expected no file of that name, got one; name another"):
        write_starter(make_starter("iris"), Path("iris.toml"))
    monkeypatch.setattr("sys.argv", ["cntk", "init", "iris"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert (tmp_path / "iris.toml").read_text() == "mine"


def test_the_command_says_what_it_saw_and_what_is_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for label, side in (("a", 8), ("b", 9)):
        (tmp_path / "pets" / label).mkdir(parents=True)
        for number in range(5):
            Image.new("L", (side, 8), number).save(tmp_path / "pets" / label / f"{number}.png")
    answer = CliRunner().invoke(app, ["init", "pets", "--set", "data.resize=[8, 8]", "--out", "w.toml"])
    assert answer.exit_code == 0, answer.output
    assert "8 training and 2 test images of 8 x 8 pixels in 1 channel, 2 classes" in answer.output
    assert "resized 5 of 10 images to 8 x 8 pixels" in answer.output
    assert answer.output.endswith("written: w.toml; forecast it with: cntk plan w.toml\n")
    planned = CliRunner().invoke(app, ["run", "w.toml", "--dry-run"])
    assert planned.exit_code == 0, planned.output
    assert "read-outs in one pass of the engine cpu" in planned.output
    assert not (tmp_path / "runs").exists()
    with pytest.raises(ConfigError, match=r"--set takes data\.key=value here, got 'solve\.ridges=3'"):
        CliRunner().invoke(app, ["init", "pets", "--set", "solve.ridges=3"], catch_exceptions=False)
