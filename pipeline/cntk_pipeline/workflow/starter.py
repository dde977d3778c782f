"""A workflow for data that a user shows: recognised, loaded once, and written with comments."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cntk_pipeline.config import RunConfig, parse_config
from cntk_pipeline.config.reading import parse_toml
from cntk_pipeline.datasets import Contents, Dataset, make_loader, select, shuffle
from cntk_pipeline.datasets.reading import expanded
from cntk_pipeline.datasets.recognition import Keys, recognise
from cntk_pipeline.errors import ConfigError
from cntk_pipeline.graphs import is_graph
from cntk_pipeline.sequences import has_absent_pixels, has_absent_steps

TEST_SHARE = 0.2
"""Share of the rows that are tested on where the data have no test part."""

FIRST_ROWS, FIRST_TESTS = 5000, 1000
"""Largest numbers of training and of test images of a workflow that nobody has planned yet."""

SMALLEST_SIDE = 6
"""Images with a shorter side are taken as vectors: convolutions of 3 x 3 see all of them at once."""

RECURRENT = """\
    {layer = "Recurrent", activation = {layer = "Relu"}, w_std = 1.0, u_std = 1.0, b_std = 0.1},
    {layer = "GlobalAvgPool"},  # all steps; LastState takes the last one
    {layer = "Dense"},
"""

CONVOLUTIONS = """\
    {layer = "Conv", filter_shape = 3, w_std = 1.41421356},
    {layer = "Relu"},
    {layer = "Conv", filter_shape = 3, w_std = 1.41421356},
    {layer = "Relu"},
    {layer = "Flatten"},        # GlobalAvgPool is more accurate and takes some hundred times as long
    {layer = "Dense"},
"""


@dataclass(frozen=True)
class Starter:
    """A workflow for some data.

    Attributes
    ----------
    text : str
        Of the file, TOML with comments.
    config : RunConfig
        The same, read.
    contents : Contents
        The chosen images.
    notes : tuple of str
        Remarks on the reading of the data.
    """

    text: str
    config: RunConfig
    contents: Contents
    notes: tuple[str, ...]


def make_starter(data: str, given: Mapping[str, Any] | None = None) -> Starter:
    """Recognise data, load them, and write a workflow for them.

    Parameters
    ----------
    data : str
        A file or folder, or the name of one of scikit-learn's tables.
    given : mapping of str to object, optional
        Further keys of ``[data]``, such as ``resize``; they win over what was recognised.

    Raises
    ------
    ConfigError, DataError, DataNotFound
        If the data cannot be recognised or read, with what to do.
    """
    keys = recognise(data) | dict(given or {})
    loaded = make_loader(keys["source"], {key: value for key, value in keys.items() if key != "source"}).load()
    text = _write(_name_of(data), keys, loaded)
    config = parse_config(parse_toml(text, "the workflow that was written"), "the workflow that was written")
    mixed = loaded if config.data.shuffle is None else shuffle(loaded, config.data.shuffle)
    chosen = select(mixed, config.data.train, config.data.test, config.data.train_blocks)
    return Starter(text, config, Contents.of(chosen), loaded.notes)


def write_starter(starter: Starter, path: Path) -> None:
    """Write the file of a workflow, unless there is one.

    Raises
    ------
    ConfigError
        If the file exists, or cannot be written; nothing of it stays.
    """
    is_new = False
    try:
        with path.open("x", encoding="utf-8") as file:
            is_new = True
            file.write(starter.text)
    except FileExistsError:
        raise exists(path) from None
    except OSError as error:
        if is_new:
            path.unlink(missing_ok=True)
        raise ConfigError(f"{path}: cannot be written ({error.strerror}); name another file with --out") from error


def exists(path: Path) -> ConfigError:
    """Make the error for a file that is there."""
    return ConfigError(f"{path}: expected no file of that name, got one; name another with --out, or move it away")


def default_path(data: str) -> Path:
    """Name the file of a workflow by the data."""
    return Path(f"{_name_of(data)}.toml")


def _name_of(data: str) -> str:
    """Make a name of a run from a path."""
    stem = expanded(data).absolute().name.split(".")[0]
    return re.sub(r"^[^A-Za-z0-9]+", "", re.sub(r"[^A-Za-z0-9._-]+", "-", stem)) or "run"


def _write(name: str, keys: Keys, data: Dataset) -> str:
    """Write the tables of a workflow that suits the data."""
    parts = [
        f"name = {json.dumps(name)}\n",
        _data_table(keys, data),
        _network_table(keys, data),
        '[solve]\nridges = "auto"          # by leave-one-out on the training images; or a list, like [1e-4, 1e-2]\n',
        "[inference]              # further results; remove the # of those that you want\n"
        "# leave_one_out = true\n"
        + ("# learning_curve = true\n" if data.test is None or data.test.labels is not None else "")
        + "# posterior_variance = true\n",
        '[cluster]\nkind = "local"           # all cores of this machine; docs/operating.md has the others\n',
    ]
    return "# All keys: docs/workflow.md\n" + "\n".join(parts)


def _data_table(keys: Keys, data: Dataset) -> str:
    lines = ["[data]", *(f"{key} = {_toml(value)}" for key, value in ({"task": data.task} | keys).items())]
    rows = len(data.train)
    if rows > FIRST_ROWS and "train" not in keys:
        lines.append(f"train = {FIRST_ROWS}             # of {rows}: raise it when a plan says what it takes")
    if data.test is None and "test" not in keys:
        held_out = TEST_SHARE if FIRST_ROWS >= rows >= 1 / TEST_SHARE else max(1, min(FIRST_TESTS, rows - FIRST_ROWS))
        lines.append(f"test = {held_out}               # the data have no test part: rows behind the training rows")
    if data.test is None and "shuffle" not in keys:
        lines.append("shuffle = 0              # a seed: the rows in a random order before they are divided")
    if data.train.images.ndim == 2 and data.train.images.dtype.kind == "f":
        lines.append('standardize = "per_feature"')
    if is_graph(data.train.images.shape[1:]):
        lines.append("standardize = false")
    return "\n".join(lines) + "\n"


def _network_table(keys: Keys, data: Dataset) -> str:
    """Choose convolutions for images, recurrent layers for sequences, dense layers for vectors and for small images."""
    parts = [part.images for part in (data.train, data.test) if part is not None]
    if keys.get("layout") == "sequences":
        padded = '    {layer = "Padded"},         # steps that hold NaN are absent\n'
        return _layers_table((padded if any(map(has_absent_steps, parts)) else "") + RECURRENT)
    if data.train.images.ndim == 4 and any(map(has_absent_pixels, parts)):
        return _layers_table(f'    {{layer = "Masked"}},         # pixels that hold NaN are absent\n{CONVOLUTIONS}')
    if is_graph(data.train.images.shape[1:]):
        return (
            '[network]\npreset = "gntk"\n\n[readouts]               # all come out of one pass\ndepths = [1, 2]\n'
            'kinds = ["ntk"]          # and "nngp"\n'
        )
    is_image = data.train.images.ndim == 4 and min(data.train.images.shape[1:3]) >= SMALLEST_SIDE
    preset, depths = ("cntk", [3, 6]) if is_image else ("fully_connected", [2, 3, 5])
    lines = [
        "[network]",
        f'preset = "{preset}"' + ("          # or myrtle, resnet, ..." if is_image else ""),
        "",
        "[readouts]               # all come out of one pass",
        f"depths = {json.dumps(depths)}",
    ]
    if is_image:
        lines.append('poolings = ["flatten"]   # "gap" is more accurate and takes some hundred times as long')
    lines.append('kinds = ["ntk"]          # and "nngp"')
    return "\n".join(lines) + "\n"


def _layers_table(layers: str) -> str:
    """Write a network by its layers, which no preset has."""
    return f'[network]\nlayers = [\n{layers}]\n\n[readouts]\nkinds = ["ntk"]          # and "nngp"\n'


def _toml(value: Any) -> str:
    """Write a value as TOML does; texts as JSON, which is a part of it but for the character DEL."""
    text = json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)
    return text.replace("\x7f", "\\u007f")
