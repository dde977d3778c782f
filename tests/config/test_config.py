import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cntk_pipeline.config import RunConfig, load_config, make_config, parse_config
from cntk_pipeline.errors import ConfigError
from cntk_pipeline.inference import asked_of, require_options
from cntk_pipeline.layers import LAYERS, Shape, spelling
from cntk_pipeline.layers.presets import PRESETS
from cntk_pipeline.workflow.load import load

WORKFLOW = """
name = "example"
[data]
source = "digits"
[network]
preset = "cntk"
[readouts]
depths = [3]
"""


@pytest.fixture
def workflow(tmp_path: Path) -> Path:
    path = tmp_path / "workflow.toml"
    path.write_text(WORKFLOW)
    return path


def test_values_are_read_and_the_rest_takes_defaults(workflow: Path) -> None:
    config = load_config(workflow)
    assert (config.name, config.readouts.depths, config.kernel.dtype) == ("example", [3], "float32")


def test_overrides_replace_values(workflow: Path) -> None:
    overrides = ["kernel.dtype=float64", "solve.ridges=[0.1, 1]", "data.path=/some/where", "data.train=7"]
    config = load_config(workflow, overrides)
    assert (config.kernel.dtype, config.solve.ridges) == ("float64", [0.1, 1.0])
    assert (config.data.path, config.data.train) == ("/some/where", 7)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sovle.ridges=[1]", r"unknown key sovle: did you mean 'solve'\?"),
        ("kernel.dtype='float16'", r"kernel.dtype: Input should be 'float32' or 'float64' \(got 'float16'\)"),
        ("kernel.tile=0", r"kernel: tile must be \"auto\" or at least 1, got 0"),
        ("solve.ridges=[-1]", "ridges must be at least 0, got -1"),
        ("solve.ridges=[1, 1]", "ridges repeat"),
        ("solve.ridges=[]", "solve.ridges: List should have at least 1 item"),
        ("solve.ridges=[inf]", r"solve.ridges\[0\]: Input should be a finite number"),
        ("solve.solver='lu'", r"unknown solve.solver 'lu': known are cholesky, cg"),
        ("solve.rank=5", r'solve.rank belongs to solver = "cg", not to "cholesky": leave it out'),
        ("solve={solver='cg', rank=-1}", "solve.rank: Input should be greater than or equal to 0"),
        ("solve.tolerance=1e-8", r'tolerance belongs to solver = "cg" or factor_dtype = "float32"'),
        ("solve={factor_dtype='float64', tolerance=1e-8}", 'tolerance belongs to solver = "cg" or factor_dtype'),
        ("solve.max_iterations=9", r"max_iterations belongs to .*a factor in float64 solves without iterations"),
        (
            "solve={solver='cg', factor_dtype='float32'}",
            r'solve.factor_dtype belongs to solver = "cholesky", not to "cg"',
        ),
        ("solve={solver='cg', tolerance=0}", "solve.tolerance: Input should be greater than 0"),
        ("solve={solver='cg', max_iterations=0}", "solve.max_iterations: Input should be greater than or equal to 1"),
        ("solve={solver='cg', ridges='auto'}", r'solve.ridges = "auto" compares .*: take solver = "cholesky" with'),
        (
            "solve={factor_dtype='float32', ridges='auto'}",
            r'ridges = "auto" .* factor_dtype = "float64", or give ridges',
        ),
        ("data.train=0", "data.train: Input should be greater than or equal to 1"),
        ("data.shuffle=-1", "data.shuffle: Input should be greater than or equal to 0"),
        ("data.shuffle=true", r"data.shuffle: Input should be a valid integer \(got true\)"),
        ("data.shuffle=4294967296", "data.shuffle: Input should be less than 4294967296"),
        ("data={shuffle=0, train_blocks=5}", "data: train_blocks means nothing with shuffle, which mixes the blocks"),
        (
            "data.standardize='feature'",
            r"data.standardize: Input should be true, false or \"per_feature\" \(got 'feature'",
        ),
        ("data.standardize=1", r'data.standardize: Input should be true, false or "per_feature" \(got 1\)'),
        ("readouts.kinds=['cntk']", r"readouts.kinds\[0\]: Input should be 'ntk' or 'nngp'"),
        ("network.layers=[]", "network: give either preset or layers"),
        ("network.layers=3", r"network.layers: Input should be a valid list \(got 3\)"),
        ("network.layers=['Relu']", r"network.layers\[0\]: Input should be a table \(got 'Relu'\)"),
        (
            "network.layers=[{layer = 'Residual', branch = [{layer = 2020-01-01}]}]",
            r"network.layers\[0\].branch\[0\].layer: Input should be a number, a string, a truth value, or a list or",
        ),
        ("name='../x'", "name: String should match pattern"),
        ("data.train", "--set takes section.key=value"),
        (
            "data={standardize = false, standardize_first = 3}",
            "data: standardize_first means nothing with standardize = false: leave out one of them",
        ),
        ("name.x=1", "name is a value, not a section"),
    ],
)
def test_what_means_nothing_is_refused_with_its_place(workflow: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        require_options(load_config(workflow, [override]))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the workflow file .*absent.toml: No such file"):
        load_config(tmp_path / "absent.toml")


def test_broken_toml_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("[data\n")
    with pytest.raises(ConfigError, match=r"bad.toml is not valid TOML.*line 1"):
        load_config(tmp_path / "bad.toml")


def test_a_config_survives_the_round_trip_through_json(workflow: Path) -> None:
    config = load_config(workflow)
    assert parse_config(config.model_dump(mode="json"), "stored") == config


@pytest.mark.parametrize(
    "options",
    [
        "solve={solver='cg', rank=0, tolerance=1e-6, max_iterations=50}",
        "solve={factor_dtype='float32', tolerance=1e-6, max_iterations=50}",
        "solve={solver='cholesky', factor_dtype='float64'}",
    ],
)
def test_options_of_a_solver_go_with_it_and_survive_the_round_trip(workflow: Path, options: str) -> None:
    config = load_config(workflow, [options])
    assert parse_config(config.model_dump(mode="json"), "stored") == config


def test_layers_nest_as_deep_as_they_like(workflow: Path) -> None:
    inner = {"layer": "Residual", "branch": [{"layer": "Conv", "filter_shape": [3, 3]}]}
    layers = [{"layer": "Residual", "branch": [inner, {"layer": "Dense"}], "shortcut": inner}]
    config = parse_config({"network": {"layers": layers}}, "test")
    assert config.network.layers == layers
    assert parse_config(config.model_dump(mode="json"), "stored") == config


def test_the_shipped_workflows_are_valid() -> None:
    files = sorted((Path(__file__).parents[2] / "workflows").glob("*.toml"))
    assert len(files) >= 3
    assert [load_config(file).name for file in files] == [file.stem for file in files]


def test_the_presets_in_the_readme_of_the_workflows_are_those_there_are() -> None:
    text = (Path(__file__).parents[2] / "workflows/README.md").read_text(encoding="utf-8")
    rows = {row[0]: row[1:] for row in re.findall(r"^\| `(\w+)` [^|]*\|[^|]*\|([^|]*)\|([^|]*)\|$", text, re.MULTILINE)}
    assert set(rows) == set(PRESETS)
    page = (Path(__file__).parents[2] / "docs/workflow.md").read_text(encoding="utf-8")
    assert all(f'`preset = "{name}"`' in page for name in PRESETS)
    for name, (poolings, options) in rows.items():
        assert tuple(re.findall(r"\w+", poolings)) == PRESETS[name].poolings
        assert tuple(re.findall(r"\w+", options)) == PRESETS[name].options
    examples = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    assert len(examples) == 3
    for example in examples:
        layers = parse_config(tomllib.loads(example), "example").network.layers
        assert layers is not None
        assert spelling.read(layers, LAYERS).output_shape(Shape((32, 32), 3)).spatial is None


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "inference.learning_curve=[5,3]",
            r"inference.learning_curve: expected true, false, or rising sizes .* \[5, 3\]",
        ),
        ("inference.learning_curve=[]", r"inference.learning_curve: expected true, false, or rising sizes .* got \[\]"),
        ("inference.spectrum=0", r"inference.spectrum: expected true, false, or a count of at least 1, got 0"),
        ("inference.times=[-1.0]", r'inference.times: expected times of at least 0, or "inf", got -1.0'),
        ("inference.posterior_varience=true", r"unknown key .*_varience: did you mean 'posterior_variance'"),
        ("inference.learning_curve=[5,0.5]", r"inference.learning_curve\[1\]: Input should be a valid integer"),
    ],
)
def test_an_inference_that_means_nothing_is_refused(tmp_path: Path, override: str, message: str) -> None:
    (tmp_path / "w.toml").write_text('[network]\npreset = "cntk"\n')
    with pytest.raises(ConfigError, match=message):
        require_options(load_config(tmp_path / "w.toml", [override]))


def test_inference_is_asked_for_in_a_workflow(tmp_path: Path) -> None:
    (tmp_path / "w.toml").write_text(
        '[network]\npreset = "cntk"\n[inference]\ntimes = [1, "inf"]\nlearning_curve = true\n'
    )
    asked = asked_of(load_config(tmp_path / "w.toml").inference)
    assert [float(time) for time in asked["ensemble"]] == [1.0, float("inf")]
    assert asked["learning_curve"] is True
    assert "spectrum" not in asked


@pytest.mark.parametrize("solve", ["{solver='cg'}", "{factor_dtype='float32'}"])
@pytest.mark.parametrize(
    "option",
    ["leave_one_out", "evidence", "calibration", "learning_curve", "posterior_variance", "posterior_covariance"],
)
def test_what_needs_an_exact_factor_is_refused_without_one(workflow: Path, solve: str, option: str) -> None:
    message = (
        rf'inference.{option} needs the factor of the solve: take solver = "cholesky" with factor_dtype = "float64"'
    )
    with pytest.raises(ConfigError, match=message):
        require_options(load_config(workflow, [f"solve={solve}", f"inference.{option}=true"]))


@pytest.mark.parametrize("solve", ["{solver='cg'}", "{factor_dtype='float32'}"])
def test_what_needs_the_kernel_only_is_allowed_without_a_factor(workflow: Path, solve: str) -> None:
    config = load_config(workflow, [f"solve={solve}", "inference={spectrum=3, times=[1.0, 'inf']}"])
    require_options(config)


def test_an_idle_option_is_warned_of(small_config: Callable[..., RunConfig]) -> None:
    config = small_config(cluster={"kind": "serial", "hosts": ["a"], "time_limit": "1:00:00"})
    assert load(config).warnings == ('a cluster of kind "serial" does not look at cluster.hosts, cluster.time_limit',)


def test_values_of_python_may_be_numbers_and_arrays_of_numpy() -> None:
    tables = {"network": {"preset": "cntk"}, "readouts": {"depths": np.arange(3, 5)}}
    given = {"solve.ridges": np.logspace(-1, 1, 3), "data.train": np.int64(7), "kernel.flips": np.bool_(True)}
    config = make_config(tables, given | {"readouts.kinds": ("ntk",)})
    plain = {"solve.ridges": [0.1, 1.0, 10.0], "data.train": 7, "kernel.flips": True, "readouts.kinds": ["ntk"]}
    assert config == make_config(tables | {"readouts": {"depths": [3, 4]}}, plain)
    assert isinstance(tables["readouts"]["depths"], np.ndarray)  # what was given is not changed
