"""Names that the package does not have: an import of one ends in a line that says what to write."""

import sys
from collections.abc import Callable


def explain_missing(error_of: Callable[[str], Exception | None]) -> None:
    """Raise an error of ours where an import finds no module, in place of a bare `ModuleNotFoundError`.

    ``from room import name`` asks for a module as well, where the room has no such name. An `AttributeError` of the
    room's ``__getattr__`` is lost there, so that the text has to come from here.

    Parameters
    ----------
    error_of : callable
        The error for the full name of a module, or None where there is nothing to say.
    """
    sys.meta_path.append(_LastFinder(error_of))


class _LastFinder:
    """Asked by Python behind all finders that look for files, so that no import that succeeds is slower."""

    def __init__(self, error_of: Callable[[str], Exception | None]) -> None:
        self._error_of = error_of

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if error := self._error_of(name):
            raise error


def moved_module(name: str) -> ImportError | None:
    """Say where a module of an earlier version is now."""
    package, _, module = name.partition(".")
    if package != __package__ or module not in MOVED:
        return None
    return ImportError(f"{name} has moved: import {package}.{MOVED[module]}", name=name)


MOVED = {
    "arrays": "storage.tiled_array",
    "checkup": "workflow.checkup",
    "cli.units": "units",
    "clusters.access": "clusters.address.access",
    "clusters.certificates": "clusters.dask.certificates",
    "clusters.clock": "clusters.dask.clock",
    "clusters.clusters": "config.cluster_files",
    "clusters.dask.access": "clusters.address.access",
    "clusters.host": "clusters.ssh.host",
    "clusters.manifests": "clusters.kubernetes.manifests",
    "clusters.on_worker": "clusters.dask.on_worker",
    "clusters.order": "clusters.ssh.messages",
    "clusters.records": "rundir.submissions",
    "clusters.remote": "clusters.ssh.remote",
    "clusters.scaling": "clusters.dask.scaling",
    "clusters.settings": "clusters.dask.settings",
    "clusters.slurm.steps": "clusters.slurm.job_steps",
    "clusters.slurm_states": "clusters.slurm.states",
    "clusters.starting": "clusters.dask.starting",
    "clusters.steps": "clusters.slurm.job_steps",
    "clusters.submitters": "clusters.submitter",
    "clusters.there": "clusters.ssh.first_host",
    "display": "cli.display",
    "driver.stages": "driver.phases",
    "durable": "storage.explanations",
    "entry": "cli.entry",
    "events": "telemetry.events",
    "executors": "clusters",
    "extras": "clusters.extras",
    "gram.memory": "gram.engines",
    "growth": "rundir.growth",
    "handover": "workflow.handover",
    "inference.arguments": "regression.arguments",
    "inference.covariance": "inference.posterior_covariance",
    "inference.curve": "inference.learning_curve",
    "inference.dynamics": "regression.dynamics",
    "inference.eigenvalues": "regression.eigenvalues",
    "inference.ensembles": "regression.ensembles",
    "inference.extremes": "inference.spectrum",
    "inference.factors": "regression.factors",
    "inference.left_out": "inference.leave_one_out",
    "inference.posterior": "regression.posterior",
    "inference.prediction": "solvers.prediction",
    "inference.products": "inference.base",
    "inference.ridges": "inference.auto_ridge",
    "inference.scores": "regression.scores",
    "inference.selection": "regression.selection",
    "inference.trained": "inference.ensemble",
    "inference.uncertainty": "inference.posterior_variance",
    "journal": "rundir.journal",
    "kernels.engine": "kernels.evaluator",
    "kernels.summary": "kernels.summaries",
    "lease": "rundir.lease",
    "loading": "workflow.load",
    "loopback": "config.loopback",
    "memory": "clusters.memory",
    "metrics": "telemetry.metrics",
    "networks": "gram.networks",
    "observed": "driver.observed",
    "opened.predicted": "opened.columns",
    "opened.predicting": "opened.predict_on_cluster",
    "opened.prediction": "opened.predict_in_memory",
    "patience": "driver.stragglers",
    "plan": "workflow.plan",
    "plots.sampling": "plots.tile_sample",
    "preflight": "workflow.preflight",
    "provenance": "rundir.provenance",
    "redaction": "telemetry.redaction",
    "report": "workflow.report",
    "rounds": "driver.rounds",
    "rundir.trust": "clusters.trust",
    "signature": "rundir.signature",
    "solvers.headroom": "solvers.blas",
    "specification": "rundir.specification",
    "stages": "driver.phases",
    "stopping": "cli.stopping",
    "storage.durable": "storage.explanations",
    "store": "rundir.directory",
    "stored_data": "rundir.stored_data",
    "streams": "cli.streams",
    "submission": "clusters",
    "takeover": "rundir.takeover",
    "timing": "driver.timing",
    "trust": "clusters.trust",
    "verification": "rundir.verification",
    "wanted": "workflow.wanted",
    "watch": "cli.watch",
}
"""Modules of earlier versions, below `cntk_pipeline`, and where each is now.

An import stops at the first folder that it does not find, so that the files of ``executors`` and ``submission`` stand
here below ``clusters``, where the line about their folder sends them.
"""
