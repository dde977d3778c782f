"""The results of ``[inference]`` of a run, by their keys."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cntk_pipeline.errors import ConfigError, NotComputed
from cntk_pipeline.inference import RESULTS, Product, asked_of
from cntk_pipeline.layers import spelling
from cntk_pipeline.opened.tables import shown_html, shown_text
from cntk_pipeline.opened.tiles import Stored, next_step
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.solvers import System


@dataclass(frozen=True)
class Inferred:
    """A result of ``[inference]`` for one system or network.

    Attributes
    ----------
    key : str
        In ``[inference]``.
    label : str
        Of the system or the network.
    summary : object
        Its record: numbers by name, such as ``summary.accuracy``.
    arrays : mapping of str to object
        Its arrays by name, as lazy Dask arrays; ``result["prediction"]`` is one of them.
    """

    key: str
    label: str
    summary: Any
    arrays: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        """Return an array by its name.

        Raises
        ------
        ConfigError
            If it has no such array.
        """
        if name not in self.arrays:
            raise ConfigError(f"{self.key} has no array {name!r}{spelling.nearest(name, list(self.arrays))}")
        return self.arrays[name]

    def __repr__(self) -> str:
        arrays = ", ".join(f"{name} {array.shape}" for name, array in self.arrays.items())
        return f"{shown_text(RESULTS[self.key].show([(self.label, self.summary)]))}\narrays: {arrays or 'none'}"

    def _repr_html_(self) -> str:
        return shown_html(RESULTS[self.key].show([(self.label, self.summary)]))


def require_key(run: RunDirectory, key: str) -> Any:
    """Return the value of a key of ``[inference]`` that the workflow of a run asks for.

    Raises
    ------
    ConfigError
        If there is no such result, or the workflow does not ask for it.
    """
    if key not in RESULTS:
        raise ConfigError(f"there is no result {key!r} of inference{spelling.nearest(key, list(RESULTS))}")
    asked = asked_of(run.workflow().inference)
    if key not in asked:
        raise ConfigError(
            f"{run.path} was not asked for inference.{key}: add it to the workflow file and run that again; what is "
            "computed is kept"
        )
    return asked[key]


def find_product(run: RunDirectory, key: str, system: System) -> Product:
    """Describe a result for a system, or for the network of its read-out.

    Raises
    ------
    ConfigError
        If the workflow does not ask for it, or the network has none.
    """
    value, asked = require_key(run, key), asked_of(run.workflow().inference)
    found = [product for product in RESULTS[key].of_system(run, system, value, 0) if product.stage.kind == key]
    for product in RESULTS[key].of_run(run, asked):
        said = product.specification or {}
        if system.readout in (said.get("readout"), said.get("nngp")):
            found.append(product)
    if not found:
        raise ConfigError(f"{run.path} has no {key} of {system.readout}")
    return found[0]


def stored_arrays(run: RunDirectory, product: Product) -> dict[str, Stored]:
    """Describe the arrays of a result by their names."""
    group = product.group(run)
    return {spec.name: Stored.of(group, spec.name) for spec in product.arrays}


def read_result(run: RunDirectory, key: str, system: System) -> Inferred:
    """Read a result for a system, or for the network of its read-out.

    Raises
    ------
    ConfigError
        As in `find_product`.
    NotComputed
        If it is not computed yet, with how far it is.
    """
    product = find_product(run, key, system)
    stored, summary = stored_arrays(run, product), product.read(run)
    counts = [array.count() for array in stored.values()]
    there, total = (sum(column) for column in zip(*counts, strict=True)) if counts else (int(summary is not None), 1)
    if summary is None or there < total:
        raise NotComputed(
            f"{run.path}: {key} of {product.label} is not computed yet, {there} of {total} tiles are there. "
            f"{next_step(run)}"
        )
    return Inferred(key, product.label, summary, {name: array.lazy(whole=True) for name, array in stored.items()})
