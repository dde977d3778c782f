"""Networks of a workflow: every field of every layer takes its own type only, and sizes have a bound."""

import dataclasses
import time
from typing import Any, get_type_hints

import pytest

from cntk_pipeline.config import NetworkConfig, ReadoutsConfig
from cntk_pipeline.errors import ConfigError
from cntk_pipeline.gram.networks import MOST_LAYERS
from cntk_pipeline.gram.tiles import readouts_of
from cntk_pipeline.kernels import lower
from cntk_pipeline.layers import LAYERS, Layer
from cntk_pipeline.layers.presets import PRESETS

VALUES = [True, 1, 2.0, "x", [True], [1.5, 2.5], ["x"], {"a": 1}]

KINDS = {bool: (bool,), int: (int,), float: (int, float), str: (str,)}


def fits(annotation: Any, value: Any) -> bool:
    """Tell by exact classes, from the text of the annotation, whether a value of TOML is of a type."""
    text = str(annotation)
    if isinstance(value, list):
        inner = float if "tuple[float" in text else int if "tuple[int" in text else None
        return inner is not None and len(value) != 1 and all(type(item) in KINDS[inner] for item in value)
    words = {annotation.__name__} if isinstance(annotation, type) else set(text.replace(" ", "").split("|"))
    return any(type(value) in KINDS[kind] for kind in KINDS if kind.__name__ in words)


WRONG_FIELDS = {
    (name, field): [value for value in VALUES if not fits(annotation, value)]
    for name, kind in LAYERS.items()
    for field, annotation in get_type_hints(kind).items()
    if field in {each.name for each in dataclasses.fields(kind)} and annotation is not Layer
}

WRONG_OPTIONS = [
    (name, option, value)
    for name, preset in PRESETS.items()
    for option in preset.options
    for value in (True, 1, 2.0, "x")
    if not fits(get_type_hints(preset.build)[option], value)
]


def test_the_cases_are_of_every_field_and_option() -> None:
    fields = {
        (name, field.name)
        for name, kind in LAYERS.items()
        for field in dataclasses.fields(kind)
        if field.type is not Layer
    }
    assert set(WRONG_FIELDS) == fields
    assert all(WRONG_FIELDS.values())
    assert ("Repeat", "times") in fields
    options = {(name, option) for name, preset in PRESETS.items() for option in preset.options}
    assert {case[:2] for case in WRONG_OPTIONS} == options


def refusal(layers: list[Any]) -> str:
    """Return the error of a network, empty where it is taken."""
    try:
        readouts_of(NetworkConfig(layers=layers), ReadoutsConfig())
    except ConfigError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(("layer", "field"), WRONG_FIELDS)
def test_a_field_of_a_layer_takes_no_other_type(layer: str, field: str) -> None:
    for value in WRONG_FIELDS[layer, field]:
        table = {"layer": layer, field: value}
        nested = {"layer": "Residual", "branch": [{"layer": "Relu"}, table]}
        for layers, place in (([table], "network.layers[0]"), ([nested], "network.layers[0].branch[1]")):
            said = refusal(layers)
            assert said.startswith(f"{place}: {layer}: {field} must be "), value
            assert said.endswith(f", got {value!r}")


@pytest.mark.parametrize(("preset", "option", "value"), WRONG_OPTIONS)
def test_an_option_of_a_preset_takes_no_other_type(preset: str, option: str, value: Any) -> None:
    config = NetworkConfig(preset=preset, options={option: value})
    with pytest.raises(ConfigError, match=rf"network\.options\.{option} must be .*, got {value!r}"):
        readouts_of(config, ReadoutsConfig(depths=[8]))


@pytest.mark.slow
@pytest.mark.parametrize("depths", [[100_000], [10**12], [20_000, 20_001], list(range(2, 1000))])
@pytest.mark.parametrize("preset", ["cntk", "fully_connected"])
def test_a_program_that_is_too_large_is_refused_with_its_size_at_once(preset: str, depths: list[int]) -> None:
    began = time.process_time()
    with pytest.raises(ConfigError, match=rf"([0-9]+ layers|depth [0-9]+) .*at most {MOST_LAYERS} can be handled"):
        readouts_of(NetworkConfig(preset=preset), ReadoutsConfig(depths=depths))
    assert time.process_time() - began < 5


def test_layers_in_branches_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cntk_pipeline.gram.networks.MOST_LAYERS", 11)
    block = {"layer": "Residual", "branch": [{"layer": "Relu"}, {"layer": "Dense"}]}
    layers = [{"layer": "Dense"}, block]
    assert readouts_of(NetworkConfig(layers=layers), ReadoutsConfig())
    with pytest.raises(ConfigError, match="the network and its branches have 12 layers together, and at most 11"):
        readouts_of(NetworkConfig(layers=[*layers, block]), ReadoutsConfig())


@pytest.mark.slow
def test_a_network_as_deep_as_anybody_has_used_is_lowered() -> None:
    (readout,) = readouts_of(NetworkConfig(preset="cntk"), ReadoutsConfig(depths=[1000]))
    assert lower([(readout.network, readout.kind)], (4, 4, 1)).plane_entries > 0
