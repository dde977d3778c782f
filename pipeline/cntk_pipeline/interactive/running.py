"""A workflow run from Python: in a script, a notebook or a thread."""

import contextlib
import signal
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cntk_pipeline.cli.display import RunView
from cntk_pipeline.config import RunConfig, make_config
from cntk_pipeline.driver.driver import Progress
from cntk_pipeline.driver.phases import View
from cntk_pipeline.errors import ConfigError, Interrupted
from cntk_pipeline.inputs import short_repr
from cntk_pipeline.interactive.arrays import stored
from cntk_pipeline.opened import OpenRun, open_run
from cntk_pipeline.units import shell_word
from cntk_pipeline.workflow import run as runs


class _Silent:
    """A view that shows nothing."""

    def say(self, text: str) -> None:
        pass

    def begin(self, phase: str) -> None:
        pass

    def progress(self, progress: Progress) -> None:
        pass


def run(
    workflow: str | Path | Mapping[str, Any] | RunConfig,
    *,
    data: Mapping[str, object] | None = None,
    progress: bool = True,
    **overrides: Any,
) -> OpenRun:
    """Run a workflow to its end, or go on with it where its run directory has been begun; return it opened.

    It works in scripts, also without ``if __name__ == "__main__":``, in notebooks and in threads. In the main thread
    the first Ctrl-C lets the tiles in flight finish; the same call goes on later.

    Parameters
    ----------
    workflow : str, Path, mapping of str to object, or RunConfig
        The name of a workflow file, its tables as a dictionary, or a `RunConfig`.
    data : mapping of str to object, optional
        Arrays in memory as the data set, by the keys of the data source "npz": ``x_train``, ``y_train``, and perhaps
        ``x_test``, ``y_test``, ``classes``. They are stored in the run directory, and take the place of the workflow's
        data source.
    progress : bool
        False shows nothing. Otherwise there is a bar in a terminal, a widget in a notebook that has ipywidgets, and
        lines elsewhere.
    **overrides : object
        Values in the place of the workflow's, as ``section__key=value``: ``solve__ridges=[1e-3]``,
        ``store__path="runs/new"``.

    Raises
    ------
    ConfigError, DataError, DataNotFound, LayerError
        If the workflow, the data or an override are wrong; nothing is written then.
    Interrupted
        If it was stopped by Ctrl-C, or by `cntk cancel`.
    SpecificationMismatch, RunLocked, TilesFailed, NotPositiveDefinite, NotConverged, WorkersLost, StoreError
        As the command `cntk run`.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> import cntk_pipeline
    >>> rng = np.random.default_rng(0)
    >>> data = {"x_train": rng.standard_normal((20, 4)), "y_train": np.arange(20) % 2}
    >>> workflow = {"network": {"preset": "fully_connected"}, "readouts": {"depths": [2]}}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     place = {"store__path": f"{folder}/run", "cluster__kind": "serial"}
    ...     run = cntk_pipeline.run(workflow, data=data, progress=False, data__train=15, **place)
    ...     run.predictions().shape
    (5, 2)
    """
    given = {_key(name): value for name, value in overrides.items()}
    with contextlib.ExitStack() as stack:
        if data is not None:
            _require_no_other_data(given)
            place = runs.run_path(make_config(workflow, given))
            path = stack.enter_context(stored(data, place))
            given |= {"data.source": "npz", "data.path": str(path)}
        config = make_config(workflow, given)
        view = stack.enter_context(RunView()) if progress else _Silent()
        return _run(config, view)


def _require_no_other_data(given: Mapping[str, Any]) -> None:
    """Refuse an override that names a data set beside arrays in memory."""
    for key in ("data.source", "data.path"):
        if given.get(key, "npz") != "npz":
            raise ConfigError(
                f"data and {key.replace('.', '__')}={short_repr(given[key])} name two data sets: leave one out"
            )


def _run(config: RunConfig, view: View) -> OpenRun:
    with _stop_on_interrupt(view) as stop:
        try:
            return open_run(runs.start(config, view, stop).path)
        except Interrupted as error:
            resume = f"cntk resume {shell_word(runs.run_path(config))}"
            raise Interrupted(f"{error}. The same call goes on, or: {resume}") from None


def _key(name: str) -> str:
    parts = name.split("__")
    if not all(parts) or (len(parts) == 1 and name != "name"):
        raise ConfigError(
            f"run() takes values of a workflow as section__key=value, got {name}; write solve__ridges=[0.1]"
        )
    return ".".join(parts)


@contextlib.contextmanager
def _stop_on_interrupt(view: View) -> Iterator[threading.Event]:
    """Yield an event that the first Ctrl-C sets; the second raises as always. Only the main thread hears signals.

    Where Ctrl-C is ignored, or has a handler in C (None), which Python could not set again, it is left as it is.
    """
    stop = threading.Event()
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or signal.getsignal(signal.SIGINT) in (signal.SIG_IGN, None):
        yield stop
        return

    def first(_number: int, _frame: Any) -> None:
        stop.set()
        signal.signal(signal.SIGINT, before)
        view.say("stopping: tiles in flight are finished first; interrupt again to end at once")

    before = signal.signal(signal.SIGINT, first)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)
