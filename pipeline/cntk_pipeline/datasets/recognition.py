"""The recognition of a data set by its files: the keys of ``[data]`` that read it."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cntk_pipeline.datasets.cifar10_layouts import LAYOUTS
from cntk_pipeline.datasets.folder import SUFFIXES
from cntk_pipeline.datasets.idx import NAMES
from cntk_pipeline.datasets.reading import expanded, reading
from cntk_pipeline.datasets.sklearn_tables import TABLES
from cntk_pipeline.datasets.table import TRAIN_NAMES, USUAL_TARGETS
from cntk_pipeline.datasets.table_files import ENDINGS, read_table
from cntk_pipeline.errors import DataError, DataNotFound

Keys = dict[str, Any]


def recognise(given: str) -> Keys:
    """Find out what a file or a folder is, by its name and its first bytes.

    Parameters
    ----------
    given : str
        A path, or the name of a table that comes with scikit-learn.

    Returns
    -------
    mapping of str to object
        The keys of ``[data]``: the source, the path, and the keys that the source cannot do without.

    Raises
    ------
    DataNotFound
        If there is nothing of that name.
    DataError
        If no source reads it.
    ConfigError
        If it begins with ``~`` and the home folder is not known.
    """
    path = expanded(given)
    if not path.exists():
        if given in TABLES:
            return {"source": "digits"} if given == "digits" else {"source": "sklearn", "path": given}
        raise DataNotFound(
            f"{path.absolute()}: expected a file or folder of data, or one of scikit-learn's {', '.join(TABLES)}, got "
            "nothing there; correct the name"
        )
    found = _folder(path) if path.is_dir() else _file(path)
    return {"source": found.pop("source"), "path": _place(path)} | found


def _place(path: Path) -> str:
    """Write the whole path of a file or folder, without ".." unless links make another place of it."""
    whole = Path(os.path.abspath(path))
    return str(whole if whole.exists() and whole.samefile(path) else path.absolute())


def _file(path: Path) -> Keys:
    """Recognise a file by its ending, or by the beginning of an idx file."""
    name = path.name.lower()
    if name.endswith(".npz"):
        return {"source": "npz"}
    if name.endswith(".npy"):
        return {"source": "npy", "labels": _partner(path, (("images", "labels"), ("x", "y"), ("X", "y")))}
    if name.endswith(ENDINGS):
        return {"source": "table"} | _target(path)
    if "idx3-ubyte" in name:
        return {"source": "idx", "labels": _partner(path, (("images", "labels"), ("idx3", "idx1")), every=True)}
    if name.endswith((".tar.gz", ".tgz")) and "cifar" in name:
        return {"source": "cifar10"}
    raise DataError(
        f"{path}: expected .npz, .npy, {', '.join(ENDINGS)} or an idx file, or a folder, got another ending; convert it"
    )


def _partner(path: Path, words: Sequence[tuple[str, str]], every: bool = False) -> str:
    """Find the file of labels that belongs to a file of images, by one word of its name, or by ``every`` word."""
    names: list[str] = []
    for image_word, label_word in words:
        names.append((names[-1] if every and names else path.name).replace(image_word, label_word, 1))
    partners = (path.with_name(name) for name in names if name != path.name)
    partner = next((each for each in partners if each.exists()), None)
    if partner is None:
        raise DataError(
            f"{path}: expected a file of labels beside it, named alike with {words[0][1]} for {words[0][0]}, got none; "
            'rename it, or write the workflow by hand with data.labels = "FILE"'
        )
    return _place(partner)


def _target(path: Path) -> Keys:
    """Name the label column of a table: nothing where the usual one is there, else the last column."""
    names = read_table(path).column_names
    return {} if set(USUAL_TARGETS) & set(names) else {"target": names[-1]}


def _folder(path: Path) -> Keys:
    """Recognise a folder by the names in it."""
    with reading(path, "a readable folder"):
        entries = sorted(path.iterdir())
    names = [entry.name for entry in entries if entry.is_file()]
    if any(name.startswith(NAMES["train"][0].replace("-idx", sign + "idx")) for name in names for sign in "-."):
        return {"source": "idx"}
    if any(not layout.missing(path) for layout in LAYOUTS[:2]):
        return {"source": "cifar10"}
    tables = [entry for entry in entries if entry.name.lower().endswith(ENDINGS) and entry.name.startswith(TRAIN_NAMES)]
    if tables:
        return {"source": "table"} | _target(tables[0])
    if "x_train.npy" in names or "x.npy" in names:
        return {"source": "npy"}
    if any(each.suffix.lower() in SUFFIXES for entry in entries if entry.is_dir() for each in entry.rglob("*")):
        return {"source": "folder"}
    raise DataError(
        f"{path}: expected folders of pictures, train.csv or train.parquet, x_train.npy, idx files or CIFAR-10, got "
        f"{', '.join(entry.name for entry in entries[:5]) or 'an empty folder'}; docs/data.md lists all formats"
    )
