"""Every key of a workflow takes what its type says, and nothing that could be turned into it."""

import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest
from pydantic import BaseModel, JsonValue

from cntk_pipeline.config import RunConfig, load_config
from cntk_pipeline.errors import ConfigError
from cntk_pipeline.inference import RESULTS, require_options
from cntk_pipeline.solvers import SOLVERS

VALUES = ["true", "5", "2.0", "1.5", '"5"', '"2.0"', '"true"', '"x"', "[]", "[true]", "[5]", '["5"]', "[2.0]", "{}"]
"""Values of TOML; what each of them is, Python says."""


def keys(model: type[BaseModel], place: str = "") -> Iterator[tuple[str, Any]]:
    for name, field in model.model_fields.items():
        annotation = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from keys(inner, f"{place}{name}.")
        else:
            yield f"{place}{name}", annotation


def fits(annotation: Any, value: Any) -> bool:
    """Tell whether a value is of a type, by the exact classes of Python's values; a whole number is a number."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation in (Any, JsonValue):  # any JSON
        return True
    if origin is Annotated:
        return fits(arguments[0], value)
    if origin in (Union, types.UnionType):
        return any(fits(argument, value) for argument in arguments)
    if origin is Literal:
        return any(type(value) is type(choice) and value == choice for choice in arguments)
    if origin is list:
        return type(value) is list and all(fits(arguments[0], item) for item in value)
    if origin is dict:
        return type(value) is dict and all(fits(arguments[1], item) for item in value.values())
    return type(value) in ((int, float) if annotation is float else (annotation,))


KEYS = dict(keys(RunConfig))
for _solver in SOLVERS.values():
    KEYS |= {f"solve.{key}": annotation for key, annotation in keys(_solver.options)}
KEYS |= {f"inference.{key}": result.option for key, result in RESULTS.items()}
OF_ANOTHER_SOLVER = {
    **dict.fromkeys(("solve.rank", "solve.kernel_bytes", "solve.sketch"), ("solve.solver=cg",)),
    "solve.centres": ("solve.solver=centres",),
    **dict.fromkeys(
        ("solve.centre_choice", "solve.centre_seed", "solve.centre_jitter", "solve.centres_tolerance"),
        ("solve.solver=centres", "solve.centres=5"),
    ),
}
WRONG = {
    key: [text for text in VALUES if not fits(annotation, eval(text, {"true": True}))]
    for key, annotation in KEYS.items()
}


def test_the_cases_are_of_every_key() -> None:
    assert len(KEYS) > 40
    assert all(WRONG.values())
    assert sum(map(len, WRONG.values())) > 400


@pytest.fixture(scope="module")
def workflow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("strict") / "w.toml"
    path.write_text('network.preset = "cntk"\n')
    return path


def refusal(workflow: Path, key: str, text: str) -> list[str]:
    """Return the lines of the error of a value, without the name of the file; none where the value is taken."""
    try:
        require_options(load_config(workflow, [f"{key}={text}", *OF_ANOTHER_SOLVER.get(key, ())]))
    except ConfigError as error:
        return [line for line in str(error).splitlines() if not line.endswith("w.toml:")]
    return []


@pytest.mark.parametrize("key", KEYS)
def test_a_value_of_another_type_is_refused_by_the_name_of_its_key(workflow: Path, key: str) -> None:
    for text in WRONG[key]:
        lines = refusal(workflow, key, text)
        assert lines, f"{text} is taken"
        # Nothing but keys and positions stands in front of the colon, not the types that pydantic tried.
        places = {line.strip().partition(":")[0].partition("[")[0] for line in lines}
        section = key.rpartition(".")[0]
        assert places <= {key, section or key}, (text, lines)


def test_a_whole_number_stands_where_a_number_is_asked_for(workflow: Path) -> None:
    config = load_config(workflow, ["solve.ridges=[1]"])
    assert config.solve.ridges == [1.0]
    assert isinstance(config.solve.ridges[0], float)
