"""Labels of any type: class numbers for a classification, columns of numbers for the other tasks."""

from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from cntk_pipeline.datasets.base import Dataset, Split, require_task
from cntk_pipeline.datasets.labels import is_one_hot
from cntk_pipeline.errors import DataError
from cntk_pipeline.inputs import describe_objects
from cntk_pipeline.models import AskedTask, TaskName

MANY_CLASSES, MANY_SHARE = 20, 0.1
"""Numbers with more values than both, the second a share of the rows, are rather measured than classes."""


def assemble(
    name: str,
    train: Split,
    test: Split | None = None,
    *,
    task: AskedTask = "auto",
    names: Sequence[str] | None = None,
    notes: Sequence[str] = (),
    features: tuple[str, ...] = (),
) -> Dataset:
    """Make a data set of images and labels of any type.

    With "auto", numbers that are not whole mean a regression. Strings, truth values, whole numbers and one-hot rows
    mean a classification. Several columns of 0 and 1 mean several classes an image, and other columns a regression.

    Class numbers from 0 stay as they are. Other labels are numbered in their sorted order, and their names are kept.

    Parameters
    ----------
    name : str
        The origin of the data, for messages.
    train, test : Split
        With labels of any type, (n,) or (n, columns); a test part may have none.
    task : str
        The task, or "auto".
    names : sequence of str, optional
        Names of the classes or of the targets.
    notes : sequence of str
        Remarks on the reading of the data.
    features : tuple of str
        Names of the features of vectors, where they are known.

    Raises
    ------
    DataError
        If the labels do not fit the task or the names, or `Dataset` refuses the data.
    ConfigError
        If there is no such task.

    Examples
    --------
    >>> import numpy as np
    >>> from cntk_pipeline.datasets import as_split
    >>> data = assemble("pets", as_split(np.zeros((3, 2)), ["dog", "cat", "dog"]))
    >>> data.classes, data.train.labels
    (('cat', 'dog'), array([1, 0, 1]))
    """
    require_task(task, get_args(AskedTask), name)
    parts = {"train": train} if test is None else {"train": train, "test": test}
    columns = {part: _row(split.labels) for part, split in parts.items() if split.labels is not None}
    given = _decoded(columns, name)
    if "train" not in given:
        raise DataError(f"{name}: expected labels of the training images, got none; add them")
    for part, labels in given.items():
        _check_type(labels, f"{name}: {part}")
    chosen, more = (task, ()) if task != "auto" else _task_of(list(given.values()), name, names is not None)
    for part, labels in given.items():
        _check_task(labels, chosen, f"{name}: {part}")
    if chosen == "classification":
        given = {part: labels.argmax(axis=1) if is_matrix(labels) else labels for part, labels in given.items()}
        classes, known = _classify(given, names, name)
    else:
        classes, known = _columns(given, names, name)
    splits = {part: Split(split.images, known.get(part)) for part, split in parts.items()}
    return Dataset(name, classes, splits["train"], splits.get("test"), (*notes, *more), chosen, features)


def is_matrix(labels: npt.NDArray[Any]) -> bool:
    """Tell whether labels have several columns."""
    return labels.ndim == 2


def _row(labels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Turn a single column into a row."""
    return labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels


def _decoded(given: dict[str, npt.NDArray[Any]], name: str) -> dict[str, npt.NDArray[Any]]:
    """Turn bytes into text; `DataError` where different ones become one text, as they are not UTF-8."""
    if not any(labels.dtype.kind == "S" for labels in given.values()):
        return given
    found = {p: np.char.decode(x, "utf-8", "replace") if x.dtype.kind == "S" else x for p, x in given.items()}
    texts: dict[str, bytes] = {}
    for part, labels in given.items():
        for raw in np.unique(labels).tolist() if labels.dtype.kind == "S" else ():
            text = raw.decode("utf-8", "replace")
            if texts.setdefault(text, raw) != raw:
                raise DataError(
                    f"{name}: {part} labels: expected texts of bytes in UTF-8, and {texts[text]!r} and {raw!r} would "
                    'both be one class; decode them, for example with numpy.char.decode(labels, "latin-1")'
                )
    return found


def _task_of(labels: Sequence[npt.NDArray[Any]], name: str, are_named: bool) -> tuple[TaskName, tuple[str, ...]]:
    """Choose the task by the type of the labels; return it with a note where another one may be meant."""
    whole = all(part.dtype.kind not in "f" or bool((part == np.floor(part)).all()) for part in labels)
    if is_matrix(labels[0]):
        if all(is_matrix(part) and is_one_hot(part) for part in labels):
            note = (
                f'{name}: rows with a single 1 are taken as classes; data.task = "multilabel" takes each column alone'
            )
            return "classification", (note,)
        zeros_and_ones = all(bool(((part == 0) | (part == 1)).all()) for part in labels)
        return ("multilabel" if zeros_and_ones else "regression"), ()
    if not whole and not are_named:
        return "regression", ()
    notes: tuple[str, ...] = ()
    if labels[0].dtype.kind in "iuf" and not are_named:
        count, rows = len(np.unique(labels[0])), len(labels[0])
        if count > max(MANY_CLASSES, MANY_SHARE * rows):
            notes = (
                f"{name}: the labels are {count} different whole numbers in {rows} rows, taken as classes; data.task = "
                '"regression" regresses on them',
            )
    return "classification", notes


def _check_type(labels: npt.NDArray[Any], where: str) -> None:
    """Raise `DataError` where labels are of a type or shape that no task can use, or one is missing."""
    kind, what = labels.dtype.kind, f"{labels.dtype} of shape {labels.shape}"
    if kind == "O":
        what = f"{describe_objects(labels)}, of shape {labels.shape}"
    if kind not in "biufU" or labels.ndim not in ((1,) if kind == "U" else (1, 2)) or labels.size == 0:
        raise DataError(
            f"{where} labels: expected numbers or truth values of shape (n,) or (n, columns), or text of shape (n,), "
            f"got {what}; drop the rows without a label, and convert the others"
        )
    if kind == "f" and not np.isfinite(labels).all():
        row = int(np.argwhere(~np.isfinite(labels))[0][0])
        raise DataError(f"{where} labels: expected a label for each image, got {labels[row]} at image {row}; drop it")


def _check_task(labels: npt.NDArray[Any], task: TaskName, where: str) -> None:
    """Raise `DataError` where a task cannot use labels."""
    kind, what = labels.dtype.kind, f"{labels.dtype} of shape {labels.shape}"
    if task == "classification" and is_matrix(labels) and not is_one_hot(labels):
        raise DataError(
            f"{where} labels: expected one class for each image, got {what}; give a single column, or "
            'data.task = "multilabel" or "regression"'
        )
    if task == "classification" and kind == "f" and not (labels == np.floor(labels)).all():
        row = int((labels != np.floor(labels)).argmax())
        raise DataError(
            f"{where} labels: expected classes, got {labels[row]:g} at image {row}; for measured values give data.task "
            '= "regression"'
        )
    if task == "multilabel" and not is_matrix(labels):
        raise DataError(
            f"{where} labels: expected a column of 0 and 1 for each class, got {what}; give data.task = "
            '"classification", or the columns'
        )
    if task != "classification" and kind == "U":
        raise DataError(
            f"{where} labels: expected numbers for a {task}, got text like {str(labels.flat[0])!r}; convert it, or "
            'give data.task = "classification"'
        )


def _classify(
    given: dict[str, npt.NDArray[Any]], names: Sequence[str] | None, name: str
) -> tuple[tuple[str, ...], dict[str, npt.NDArray[Any]]]:
    """Number the classes; return their names, and the class numbers of each part."""
    is_text = any(labels.dtype.kind == "U" for labels in given.values())
    if is_text and any(labels.dtype.kind != "U" for labels in given.values()):
        raise DataError(f"{name}: expected labels of one type, got text and numbers; convert one part's labels")
    if not is_text and any(labels.dtype.kind == "b" for labels in given.values()) and names is None:
        return ("False", "True"), {part: labels.astype(np.int64) for part, labels in given.items()}
    exact = _kept_apart(given)
    together = np.concatenate(list(exact.values()))
    values = np.unique(together)
    if names is not None:
        numbers = {text: number for number, text in enumerate(names)}
        unknown = [str(value) for value in values if str(value) not in numbers] if is_text else []
        if unknown:
            raise DataError(
                f"{name}: expected labels among the classes {', '.join(names)}, got {unknown[0]!r}; name it under "
                "classes"
            )
        if is_text:
            looked_up = {p: np.array([numbers[str(x)] for x in labels], np.int64) for p, labels in given.items()}
            return tuple(names), looked_up
        return tuple(names), {part: labels.astype(np.int64) for part, labels in given.items()}
    # Numbers from 0 keep their gaps: so the classes of a run are those that its specification has named before.
    if not is_text and len(values) and values[0] == 0 and values[-1] < len(together):
        counted = tuple(str(number) for number in range(int(values[-1]) + 1))
        return counted, {part: labels.astype(np.int64) for part, labels in given.items()}
    texts = tuple(str(value) if is_text else str(int(value)) for value in values)
    return texts, {part: np.searchsorted(values, labels).astype(np.int64) for part, labels in exact.items()}


def _kept_apart(given: dict[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    """Turn labels into Python's numbers where their joint dtype is a float one, in which large integers are equal."""
    whole = [labels for labels in given.values() if labels.dtype.kind in "iu"]
    largest = max((max(int(labels.max()), -int(labels.min())) for labels in whole), default=0)
    if np.result_type(*given.values()).kind != "f" or largest <= 2**53:
        return given
    return {part: labels.astype(object) for part, labels in given.items()}


def _columns(
    given: dict[str, npt.NDArray[Any]], names: Sequence[str] | None, name: str
) -> tuple[tuple[str, ...], dict[str, npt.NDArray[Any]]]:
    """Turn labels into float64 columns; return their names, and the columns of each part."""
    known = {part: labels.reshape(len(labels), -1).astype(np.float64) for part, labels in given.items()}
    counts = sorted({columns.shape[1] for columns in known.values()})
    if len(counts) > 1:
        raise DataError(f"{name}: expected labels of as many columns in both parts, got {counts[0]} and {counts[1]}")
    if names is None:
        names = ["target"] if counts[0] == 1 else [str(number) for number in range(counts[0])]
    if len(names) != counts[0]:
        raise DataError(
            f"{name}: expected a name for each of the {counts[0]} columns of the labels, got {len(names)} names; "
            "correct classes"
        )
    return tuple(names), known
