"""What the predictive means of images say: a class, several classes, or numbers."""

import json
from collections.abc import Mapping
from itertools import count
from typing import Any

import numpy as np

from cntk_pipeline.rundir.specification import DataSpecification
from cntk_pipeline.solvers.scores import THRESHOLD
from cntk_pipeline.storage.tiled_array import Array


def predicted_of(data: DataSpecification, means: Array) -> Array:
    """Turn predictive means ``(n, columns)`` into predictions.

    Returns
    -------
    array
        The name of the class of the largest mean, ``(n,)``; of several classes an image, 0 or 1 for each,
        ``(n, columns)``; of a regression the means, ``(n,)`` where there is one target.
    """
    if data.task == "classification":
        return np.array(data.classes)[means.argmax(1)]
    if data.task == "multilabel":
        return (means > THRESHOLD).astype(np.int64)
    return means[:, 0] if means.shape[1] == 1 else means


def named_columns(data: DataSpecification, means: Array) -> dict[str, Array]:
    """Lay out predictive means as columns of a table: the classes where there are any, and each mean under its name.

    Several classes of an image are joined by semicolons; a name that holds one, or a quote, is in quotes as in JSON.
    """
    if data.task == "regression":
        return {name: means[:, k] for k, name in enumerate(data.classes)}
    found = predicted_of(data, means)
    if data.task == "multilabel":
        quoted = np.array(
            [json.dumps(name, ensure_ascii=False) if set(name) & set(';"') else name for name in data.classes]
        )
        found = np.array([";".join(quoted[row == 1]) for row in found])
    return {"class": found} | {f"score_{name}": means[:, k] for k, name in enumerate(data.classes)}


def joined(*tables: Mapping[str, Any]) -> dict[str, Any]:
    """Join columns of tables; a name that is there already gets a number, such as "image_2", so that none is lost.

    The name with its number is of no other column, be it of a later table.

    Examples
    --------
    >>> joined({"image": 1}, {"image": 2, "image_2": 3})
    {'image': 1, 'image_3': 2, 'image_2': 3}
    """
    given = {name for table in tables for name in table}
    found: dict[str, Any] = {}
    for table in tables:
        for name, values in table.items():
            numbered = (f"{name}_{number}" for number in count(2))
            free = (each for each in numbered if each not in given and each not in found)
            found[next(free) if name in found else name] = values
    return found
