"""A run as one `xarray.Dataset`: every matrix is a data variable, and read-outs, ridges and classes are coordinates."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Any, Literal

import dask.array
import numpy as np

from cntk_pipeline.errors import ConfigError
from cntk_pipeline.gram.tiles import kernel_group, test_group
from cntk_pipeline.inference import RESULTS, Product, asked_of, needs_test_kernel
from cntk_pipeline.opened.results import stored_arrays
from cntk_pipeline.opened.systems import find_system, readout_names
from cntk_pipeline.opened.tiles import Stored
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.solvers import METRICS, System, system_group
from cntk_pipeline.workflow.wanted import find_wanted

Variable = tuple[tuple[str, ...], Any]
"""The names of the axes, and the values."""

KERNEL_VARIABLES = {
    "train": "train_kernel",
    "test": "test_kernel",
    "train_variance": "train_variance",
    "test_variance": "test_variance",
}


def to_dataset(run: RunDirectory) -> Any:
    """Lay out a run as a lazy `xarray.Dataset`; what is not computed yet is NaN.

    Raises
    ------
    ConfigError
        If xarray is not installed.
    """
    if find_spec("xarray") is None:
        raise ConfigError("to_xarray() needs xarray: pip install 'cntk-pipeline[xarray]'")
    import xarray

    names = readout_names(run)
    data, variables = run.specification.data, dict(_kernels(run, names))
    coordinates: dict[str, Any] = {"readout": names, data.column_axis: list(data.classes)}
    if run.specification.has_pivots and run.has_all_pivots:
        coordinates["pivot"] = run.column_rows
    if run.has_inputs():
        coordinates |= dict(_labels(run))
    if run.has_workflow():
        systems = _Systems(run, names)
        variables |= dict(systems.variables())
        coordinates |= systems.coordinates()
        variables |= dict(_of_networks(run))
        coordinates |= dict(_parameters(run))
    attributes = {"path": str(run.path), "fingerprint": run.fingerprint}
    return xarray.Dataset(variables, coordinates, attributes)


def _kernels(run: RunDirectory, names: Sequence[str]) -> Iterator[tuple[str, Variable]]:
    group = kernel_group(run)
    for part, variable in KERNEL_VARIABLES.items():
        yield variable, _stacked([Stored.of(group, f"{name}/{part}") for name in names], "readout")
    if run.has_workflow() and needs_test_kernel(run.workflow().inference):
        group = test_group(run)
        yield "test_test_kernel", _stacked([Stored.of(group, name) for name in names], "readout")


def _labels(run: RunDirectory) -> Iterator[tuple[str, Variable]]:
    """Labels as far as they are known: positions in the classes, or columns of numbers."""
    parts: tuple[Literal["train", "test"], ...] = ("train", "test")
    for part in parts:
        labels = run.labels(part)
        if labels is not None:
            axes = (part, run.specification.data.column_axis)[: labels.ndim]
            yield f"{part}_label", (axes, labels)


def _stacked(arrays: Sequence[Stored], axis: str) -> Variable:
    return (axis, *arrays[0].spec.dimensions), dask.array.stack([array.lazy() for array in arrays])


class _Systems:
    """The systems of a workflow: ridges by read-outs. Where leave-one-out chooses, each read-out has one ridge.

    Parameters
    ----------
    run : RunDirectory
        With a workflow.
    names : sequence of str
        Of its read-outs.
    """

    def __init__(self, run: RunDirectory, names: Sequence[str]) -> None:
        self._run, self._names = run, names
        self._ridges = run.workflow().solve.ridges
        wanted = find_wanted(run, run.workflow()).solves
        self._of: dict[tuple[str, float], System] = {}
        for solve in wanted:
            ridge = 0.0 if self._ridges == "auto" else solve.system.ridge
            self._of[solve.system.readout, ridge] = find_system(run, solve.system.readout, solve.system.ridge)

    def coordinates(self) -> dict[str, Any]:
        """The ridges: an axis, or the chosen one of each read-out."""
        if self._ridges != "auto":
            return {"ridge": list(self._ridges)}
        chosen = [self._of[name, 0.0].ridge if (name, 0.0) in self._of else float("nan") for name in self._names]
        return {"ridge": ("readout", chosen)}

    def variables(self) -> Iterator[tuple[str, Variable]]:
        """Predictions, coefficients, accuracies and the results of inference of all systems."""
        if not self._of:
            return
        for variable, part in (("predictions", "mean"), ("coefficients", "coefficients")):
            yield variable, self._stacked(partial(self._solved, part))
        yield "accuracy", self._accuracies()
        for key, value in asked_of(self._run.workflow().inference).items():
            for name in self._product(key, value, next(iter(self._of.values()))):
                yield name, self._stacked(partial(self._array, key, value, name))

    def _solved(self, part: str, system: System) -> Stored:
        return Stored.of(system_group(self._run, system, {}), part)

    def _array(self, key: str, value: Any, name: str, system: System) -> Stored:
        return self._product(key, value, system)[name]

    def _product(self, key: str, value: Any, system: System) -> dict[str, Stored]:
        products = RESULTS[key].of_system(self._run, system, value, 0)
        return _named(self._run, [product for product in products if product.stage.kind == key])

    def _grid(self) -> list[tuple[str, float]]:
        ridges = [0.0] if self._ridges == "auto" else self._ridges
        return [(name, ridge) for name in self._names for ridge in ridges]

    def _stacked(self, find: Callable[[System], Stored]) -> Variable:
        """Stack an array of all systems; of a system whose ridge is not chosen yet, it is NaN."""
        some = find(next(iter(self._of.values())))
        absent = dask.array.full(some.spec.shape, np.nan, chunks=some.spec.tile)
        parts = [find(self._of[place]).lazy() if place in self._of else absent for place in self._grid()]
        return self._laid_out(dask.array.stack(parts), some.spec.dimensions)

    def _accuracies(self) -> Variable:
        records = [
            self._run.read_record(f"solve/{self._of[place].fingerprint}/metrics.json", METRICS)
            if place in self._of
            else None
            for place in self._grid()
        ]
        shares = [None if record is None else record.accuracy for record in records]
        return self._laid_out(np.array(shares, float), ())

    def _laid_out(self, values: Any, dimensions: tuple[str, ...]) -> Variable:
        if self._ridges == "auto":
            return ("readout", *dimensions), values
        shape = (len(self._names), len(self._ridges), *values.shape[1:])
        return ("readout", "ridge", *dimensions), values.reshape(shape)


def _of_networks(run: RunDirectory) -> Iterator[tuple[str, Variable]]:
    """Results that belong to no system: an axis of networks, in the order of their names in the read-outs."""
    products = find_wanted(run, run.workflow()).run_products
    for key in dict.fromkeys(product.stage.kind for product in products):
        mine = [product for product in products if product.stage.kind == key]
        found = [_named(run, [product]) for product in mine]
        for name in found[0]:
            yield name, _stacked([arrays[name] for arrays in found], "network")


def _parameters(run: RunDirectory) -> Iterator[tuple[str, Any]]:
    """Name the steps of the axes that results of inference have: sizes of training sets, times, networks."""
    wanted = find_wanted(run, run.workflow())
    for product in wanted.products:
        if "sizes" in product.parameters:
            yield "size", product.parameters["sizes"]
    for product in wanted.run_products:
        yield "time", [float(time) for time in (product.specification or {})["times"]]
    if wanted.run_products:
        yield "network", [product.label for product in wanted.run_products]


def _named(run: RunDirectory, products: Sequence[Product]) -> dict[str, Stored]:
    """Name arrays of results by the key and their own names: ``leave_one_out_prediction``."""
    return {
        _variable(product.stage.kind, name): stored
        for product in products
        for name, stored in stored_arrays(run, product).items()
    }


def _variable(key: str, array: str) -> str:
    return key if key.endswith(array) else f"{key}_{array}"
