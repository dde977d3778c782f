"""The tables that come with scikit-learn: no file to fetch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, final

import numpy as np

from cntk_pipeline.datasets.base import Dataset, Loader, as_split
from cntk_pipeline.datasets.targets import assemble
from cntk_pipeline.errors import ConfigError
from cntk_pipeline.models import TaskName

TABLES: Mapping[str, TaskName] = {
    "iris": "classification",
    "wine": "classification",
    "breast_cancer": "classification",
    "digits": "classification",
    "diabetes": "regression",
    "linnerud": "regression",
}
"""The tables, each with its task. Their labels are whole numbers, which do not tell it."""


@final
@dataclass(frozen=True)
class SklearnTable(Loader):
    """Load a table that comes with scikit-learn, by its name. There is no test part.

    The rows are in the published order: those of iris, wine and breast_cancer are sorted by class, so that they need
    ``data.shuffle``.

    Parameters
    ----------
    path : str
        "iris", "wine", "breast_cancer" or "digits" (64 features) to classify, "diabetes" or "linnerud" (3 targets) to
        regress on.

    Raises
    ------
    ConfigError
        If there is no such table.
    """

    PLACES: ClassVar[tuple[str, ...]] = ()  # the path is a name

    def load(self) -> Dataset:
        """Read float64 vectors and their labels, with their names."""
        if self.path is None or self.path not in TABLES:
            raise ConfigError(
                f"data source 'sklearn': expected one of {', '.join(TABLES)}, got {self.path!r}; set data.path to one"
            )
        # Imported here because scikit-learn takes a second, which `cntk --help` should not pay.
        import sklearn.datasets as tables

        readers: Mapping[str, Any] = {
            "iris": tables.load_iris,
            "wine": tables.load_wine,
            "breast_cancer": tables.load_breast_cancer,
            "digits": tables.load_digits,
            "diabetes": tables.load_diabetes,
            "linnerud": tables.load_linnerud,
        }
        table = readers[self.path]()
        names = [str(name) for name in table.get("target_names", [])]
        task = TABLES[self.path] if self.task == "auto" else self.task
        is_named = task == TABLES[self.path] and names
        return assemble(
            f"sklearn {self.path}",
            as_split(np.asarray(table.data, np.float64), table.target),
            task=task,
            names=names if is_named else None,
            features=tuple(str(name) for name in table.feature_names),
        )
