import json
import shutil
import threading
from collections.abc import Callable

import numpy as np
import pytest
import xarray
import zarr
from support.problems import SPECIFICATION, TEST, TRAIN, Recorder, whole_matrix

from cntk_pipeline import kernel_matrix
from cntk_pipeline.config import KernelConfig, NetworkConfig, ReadoutsConfig, RunConfig
from cntk_pipeline.errors import ConfigError, SpecificationMismatch, StoreError
from cntk_pipeline.gram import tiles as gram
from cntk_pipeline.gram.tiles import readouts_of
from cntk_pipeline.layers import LAYERS, Conv, Flatten, Relu, Residual, Sequential, presets, spelling
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.rundir.specification import EngineRecord
from cntk_pipeline.tasks import Stage, Task
from cntk_pipeline.workflow import run as runs

Run = Callable[..., RunDirectory]


def test_the_store_holds_the_kernel_of_every_readout(run_small: Run) -> None:
    run = run_small(readouts={"depths": [3, 4]})
    train, test = (np.asarray(run.inputs(f"{part}_images")[:]) for part in ("train", "test"))
    for readout in readouts_of(run.workflow().network, run.workflow().readouts):
        expected = kernel_matrix(readout.network, train, kind=readout.kind)
        np.testing.assert_array_equal(whole_matrix(run, readout.name, "train"), expected)
        cross = kernel_matrix(readout.network, test, train, kind=readout.kind)
        np.testing.assert_array_equal(whole_matrix(run, readout.name, "test"), cross)
        own = np.diagonal(kernel_matrix(readout.network, test, kind=readout.kind))
        np.testing.assert_array_equal(whole_matrix(run, readout.name, "test_variance"), own)
        np.testing.assert_array_equal(whole_matrix(run, readout.name, "train_variance"), np.diagonal(expected))


@pytest.mark.slow
@pytest.mark.parametrize("tile", [7, 32, 4096])
def test_any_tile_gives_the_same_bits(run_small: Run, tile: int) -> None:
    first = run_small()
    other = run_small(kernel={"tile": tile}, store={"path": str(first.path.with_name("other"))})
    for readout in first.specification.readouts:
        for part in ("train", "test", "train_variance", "test_variance"):
            np.testing.assert_array_equal(
                whole_matrix(first, readout.name, part), whole_matrix(other, readout.name, part)
            )


def test_only_the_lower_triangle_is_stored(run_small: Run) -> None:
    run = run_small()
    chunks = {
        path.relative_to(path.parents[1]).as_posix()
        for path in run.kernel("depth3-gap-ntk", "train").path.glob("c/*/*")
    }
    assert chunks == {"0/0", "1/0", "1/1", "2/0", "2/1", "2/2"}


@pytest.mark.slow
def test_xarray_opens_a_readout_with_named_axes(run_small: Run) -> None:
    run = run_small()
    dataset = xarray.open_zarr(run.kernel_path, group="depth3-gap-ntk", consolidated=False)
    assert dict(dataset.sizes) == {"train_row": TRAIN, "train": TRAIN, "test": TEST}
    assert dataset["test"].dims == ("test", "train") or dataset["test"].dims == ("test",)


def test_zarr_reads_the_lower_triangle_and_nan_above(run_small: Run) -> None:
    run = run_small()
    values = zarr.open_array(run.kernel_path, path="depth3-flatten-ntk/train", mode="r")[:]
    assert np.isfinite(values[np.tril_indices(TRAIN)]).all()
    assert np.isnan(values[0, 16:]).all()


@pytest.mark.slow
def test_a_run_in_float64_stores_float64(run_small: Run) -> None:
    run = run_small(kernel={"dtype": "float64"})
    assert run.kernel("depth3-flatten-ntk", "train").dtype == np.float64


def test_layers_in_a_workflow_make_the_network(run_small: Run) -> None:
    layers = [
        {"layer": "Conv", "filter_shape": [3, 2], "strides": [3, 1], "w_std": 1.5, "b_std": 0.1},  # attention costs N^3
        {"layer": "MaxPool", "window_shape": [1, 2], "padding": "SAME"},
        {"layer": "Dense", "parameterization": "standard", "fan_in": 32},
        {"layer": "Product", "branch": [{"layer": "Relu"}], "gate": [{"layer": "Dense"}, {"layer": "Maxout"}]},
        {"layer": "Dense", "rate": 0.5},
        {"layer": "Repeat", "block": [{"layer": "Relu"}, {"layer": "Dense"}], "times": 2, "inject": True},
        {"layer": "Concatenate", "first": {"layer": "Relu"}, "second": {"layer": "Abs"}, "share": 0.25},
        {"layer": "PositionalEmbedding", "w_std": 0.5, "correlation": "sinusoidal"},
        {"layer": "LinearAttention", "w_out_std": 0.1},
        {"layer": "Attend", "keys": [{"layer": "Dense"}, {"layer": "PositionalEmbedding"}], "plus_identity": True},
        {"layer": "GlobalAvgPool"},
        {"layer": "Dense"},
    ]
    run = run_small(network={"preset": None, "layers": layers}, readouts={"depths": [], "poolings": []})
    assert [readout.name for readout in run.specification.readouts] == ["ntk", "nngp"]
    images = np.asarray(run.inputs("train_images")[:])
    network = readouts_of(run.workflow().network, run.workflow().readouts)[0].network
    np.testing.assert_array_equal(whole_matrix(run, "ntk", "train"), kernel_matrix(network, images))


@pytest.mark.parametrize(
    ("network", "readouts", "message"),
    [
        ({"preset": "cntkk"}, {"depths": [3]}, r"unknown preset 'cntkk': did you mean 'cntk'\?"),
        ({"preset": "cntk"}, {}, "readouts.depths is empty"),
        ({"preset": "cntk"}, {"depths": [1]}, "depth 1: cntk counts convolutions plus one"),
        ({"preset": "cntk"}, {"depths": [3], "poolings": ["gapp"]}, r"preset cntk .*knows .*\"gap\", .* got 'gapp'"),
        ({"preset": "cntk"}, {"depths": [3], "poolings": [""]}, "preset cntk .*knows .* got ''"),
        ({"preset": "cntk"}, {"depths": [3], "poolings": ["lapN"]}, r"\"lap4\" or likewise .* got 'lapN'"),
        (
            {"preset": "fully_connected"},
            {"depths": [3], "poolings": ["gap"]},
            "has no poolings: leave readouts.pooling",
        ),
        ({"preset": "resnet"}, {"depths": [8, 9]}, "depth 9: resnet: .* one of 8, 14, 20, 26, ..., got 9"),
        ({"preset": "myrtle", "options": {"w_std": -1}}, {"depths": [5]}, "preset myrtle .* w_std must be a finite"),
        (
            {"layers": [{"layer": "Residual", "branch": [{"layer": "Relu"}, {"layer": "Rellu"}]}]},
            {},
            r"network.layers\[0\].branch\[1\]: unknown layer 'Rellu': did you mean 'Relu'\?",
        ),
        ({"preset": "cntk", "options": {"trained_end": True}}, {"depths": [3]}, r"did you mean 'trained_ends'\?"),
        ({"preset": "cntk"}, {"depths": [3, 3]}, "readouts repeat"),
        ({"layers": [{"layer": "Convv"}]}, {}, r"layers\[0\]: unknown layer 'Convv': did you mean 'Conv'\?"),
        ({"layers": [{"layer": "Dense", "wstd": 1.0}]}, {}, r"Dense has no field 'wstd': did you mean 'w_std'\?"),
        ({"layers": [{"layer": "Conv"}]}, {}, r"layers\[0\]: .*filter_shape"),
        ({"layers": [{"layer": "Dense", "w_std": "x"}]}, {}, r"layers\[0\]: .*w_std"),
        ({"layers": [{"layer": "Dense"}]}, {"depths": [3]}, "belong to a preset"),
    ],
)
def test_a_network_that_means_nothing_is_refused(
    network: dict[str, object], readouts: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        readouts_of(NetworkConfig.model_validate(network), ReadoutsConfig.model_validate(readouts))


def test_local_pooling_is_a_readout_with_its_radius() -> None:
    readouts = readouts_of(
        NetworkConfig(preset="cntk"), ReadoutsConfig(depths=[3], poolings=["gap", "lap4", "lap11"], kinds=["nngp"])
    )
    assert [readout.name for readout in readouts] == ["depth3-gap-nngp", "depth3-lap4-nngp", "depth3-lap11-nngp"]
    assert readouts[1].network == presets.cntk(3, "lap4")


def test_without_poolings_a_preset_takes_its_first() -> None:
    (readout,) = readouts_of(NetworkConfig(preset="wide_resnet"), ReadoutsConfig(depths=[10]))
    assert (readout.name, readout.network) == ("depth10-gap-ntk", presets.wide_resnet(10))


def test_nested_layers_in_a_workflow_make_the_network() -> None:
    branch = [{"layer": "Relu"}, {"layer": "Conv", "filter_shape": 3}]
    layers = [{"layer": "Conv", "filter_shape": 3}, {"layer": "Residual", "branch": branch}, {"layer": "Flatten"}]
    (readout,) = readouts_of(NetworkConfig.model_validate({"layers": layers}), ReadoutsConfig())
    assert readout.network == Sequential(Conv(3), Residual(Sequential(Relu(), Conv(3))), Flatten())


def test_the_specification_spells_networks_as_json_reads_them_back() -> None:
    readouts = readouts_of(NetworkConfig(preset="resnet"), ReadoutsConfig(depths=[8]))
    specification = gram.specify(SPECIFICATION.data, readouts, KernelConfig(), EngineRecord(), 16)
    record = specification.to_json()
    assert json.loads(json.dumps(record)) == record
    assert spelling.read(specification.readouts[0].network, LAYERS) == presets.resnet(8)


@pytest.mark.slow
def test_a_worker_of_other_versions_is_refused(run_small: Run) -> None:
    run = run_small()
    with pytest.raises(ConfigError, match=r"differ in numpy \(driver 0.1, worker .*install the same versions"):
        gram.prepare_worker(str(run.path), {"numpy": "0.1"})


def test_a_late_tile_of_a_run_that_was_deleted_is_not_written_into_the_next_one_there(
    run_small: Run, small_config: Callable[..., RunConfig]
) -> None:
    run = run_small()
    gram.compute(str(run.path), Task(Stage("train"), 0, 0))  # a worker that knows the run
    shutil.rmtree(str(run.path))
    config = small_config(network={"options": {"trained_ends": False}})
    runs.begin_elsewhere(config, Recorder(), None)
    gram.kernel_group(RunDirectory(run.path)).create()
    late = Task(Stage("train"), 1, 0)
    with pytest.raises(
        SpecificationMismatch, match="another run by now, or none: what was computed for the one before"
    ):
        gram.compute(str(run.path), late)
    places = RunDirectory(run.path).kernel("depth3-gap-ntk", "train")
    assert not places.chunk_path(1, 0).exists()
    shutil.rmtree(str(run.path))
    with pytest.raises((SpecificationMismatch, StoreError)):
        gram.compute(str(run.path), late)


def test_the_engine_of_a_run_is_its_own_whatever_run_lay_at_its_path(
    run_small: Run, small_config: Callable[..., RunConfig]
) -> None:
    first = run_small()
    before = gram.engine_of(first).question.readouts
    shutil.rmtree(str(first.path))
    run, _ = runs.begin_elsewhere(small_config(readouts={"depths": [4]}), Recorder(), None)
    assert gram.engine_of(run).question.readouts == tuple(
        (each.network, each.kind) for each in readouts_of(run.workflow().network, run.workflow().readouts)
    )
    assert gram.engine_of(run).question.readouts != before


def test_fewer_training_images_than_a_tile_are_fine(run_small: Run) -> None:
    run = run_small(data={"train": 3, "test": 1})
    assert run.kernel("depth3-gap-ntk", "train").read(0, 0).shape == (3, 3)


def test_a_single_training_image_is_fine(small_config: Callable[..., RunConfig]) -> None:
    run = runs.start(small_config(data={"train": 1, "test": 1}), Recorder(), threading.Event())
    assert run.kernel("depth3-gap-ntk", "train").read(0, 0).shape == (1, 1)
