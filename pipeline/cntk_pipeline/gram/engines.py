"""Engines of workflows and of runs: named in ``[kernel]`` by people, and in a specification by who began the run."""

import contextlib
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
from pydantic import ValidationError

from cntk_pipeline.config import KernelConfig, Section, read_options
from cntk_pipeline.errors import SpecificationMismatch
from cntk_pipeline.graphs import NodeCounts
from cntk_pipeline.kernels import Engine, Question
from cntk_pipeline.layers import LAYERS, spelling
from cntk_pipeline.rundir.code import UserCode
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.rundir.provenance import library_versions
from cntk_pipeline.rundir.specification import EngineRecord


def read_engine(kernel: KernelConfig) -> EngineRecord:
    """Read which engine a workflow names, and the engine's own keys, with defaults where the workflow has none.

    Code that the workflow names is imported: the workflow must be the user's own, and not one of a run directory.

    Raises
    ------
    ConfigError
        If there is no such engine, or a key or a value means nothing to it, with the nearest that is known.
    SpecificationMismatch
        If the workflow names a digest, and the code has another one.
    """
    from cntk_pipeline.kernels import find_engine  # the compiler comes with the engines

    engine = find_engine(kernel.engine, "kernel.engine")
    options = engine.load_code(read_options(engine.options_type or Section, kernel, "kernel"))
    return EngineRecord(kernel.engine, options.model_dump(mode="json", exclude_none=True))


def load_code(run: RunDirectory, code: UserCode) -> None:
    """Import the code that computes the values of a run, by the user's word.

    Parameters
    ----------
    run : RunDirectory
        Its specification names the code and its digest.
    code : UserCode
        What the user has allowed.

    Raises
    ------
    ConfigError
        If there is no such code on this machine.
    SpecificationMismatch
        If its source is another one, or this installation does not know the engine with these options.
    """
    from cntk_pipeline.kernels import find_engine

    _require_known(run)
    record = run.specification.engine
    allowed = {"plugin": code.name, "plugin_digest": code.digest, "plugin_folder": code.folder}
    engine = find_engine(record.name)
    with _options_understood(run):
        options = (engine.options_type or Section).model_validate(record.options | allowed)
    engine.load_code(options)


def make_engine(record: EngineRecord, question: Question) -> Engine:
    """Put a question to an engine.

    Parameters
    ----------
    record : EngineRecord
        As of `read_engine`, or of an earlier process.

    Raises
    ------
    ConfigError
        If there is no such engine.
    LayerError
        If the engine cannot compute what is asked.
    pydantic.ValidationError
        If its options are another version's.
    """
    from cntk_pipeline.kernels import find_engine

    engine = find_engine(record.name)
    options = (engine.options_type or Section).model_validate(record.options)
    return engine.ask(question, options if engine.options_type else None)


def open_engine(run: RunDirectory, numbers: Sequence[int]) -> Engine:
    """Put some read-outs of a run, by number, to its engine.

    Raises
    ------
    SpecificationMismatch
        If this installation does not know the engine, or not with these options.
    """
    _require_known(run)
    question = _question(run, numbers)
    with _options_understood(run):
        return make_engine(run.specification.engine, question)


def _question(run: RunDirectory, numbers: Sequence[int]) -> Question:
    specification = run.specification
    chosen = [specification.readouts[number] for number in numbers]
    readouts = tuple((spelling.read(readout.network, LAYERS), readout.kind) for readout in chosen)
    return Question(readouts, specification.data.shape, specification.dtype, specification.flips)


@lru_cache(maxsize=4)
def _version_of(run: RunDirectory, engine: type[Engine], numerics_version: int) -> int:
    """Ask an engine of a version for that of a run's values, once for a run that is open: every tile asks."""
    return engine.version_for(_question(run, range(len(run.specification.readouts))))


@contextlib.contextmanager
def _options_understood(run: RunDirectory) -> Iterator[None]:
    """Turn options of another version into an error that names the run."""
    try:
        yield
    except ValidationError as error:
        raise SpecificationMismatch(
            f"{run.path} is computed by the engine {run.specification.engine}, which does not take these options here: "
            f"{error.errors()[0]['msg']}. Finish it with the version that began it, or compute it anew in another "
            "--store"
        ) from None


def is_known(run: RunDirectory) -> bool:
    """Tell whether this installation has the engine of a run."""
    from cntk_pipeline.kernels import ENGINES

    return run.specification.engine.name in ENGINES


def uses_devices(run: RunDirectory) -> bool:
    """Tell whether the engine of a run, which is known here, computes on graphics cards."""
    from cntk_pipeline.kernels import ENGINES

    return ENGINES[run.specification.engine.name].uses_devices


def versions_for(record: EngineRecord) -> dict[str, str]:
    """List the versions here that values of an engine may depend on: those of all engines, and of its own libraries."""
    from cntk_pipeline.kernels import ENGINES

    return library_versions(ENGINES[record.name].libraries if record.name in ENGINES else ())


def other_versions(run: RunDirectory) -> dict[str, tuple[str, str]]:
    """Compare the libraries of a run's engine with those that the run began with.

    Returns
    -------
    mapping of str to (str, str)
        The version of the run and the one here, by library; nothing of libraries that the run has no version of, as
        runs of earlier versions.
    """
    before, here = run.provenance.versions, versions_for(run.specification.engine)
    own = set(here) - set(library_versions())
    return {name: (before[name], here[name]) for name in sorted(own) if before.get(name, here[name]) != here[name]}


def require_numerics(run: RunDirectory) -> None:
    """Refuse to add tiles to a kernel that another engine has computed, or another version: bits must not be mixed.

    Raises
    ------
    SpecificationMismatch
        With the engine or the versions, and what to do.
    """
    from cntk_pipeline.kernels import ENGINES

    _require_known(run)
    engine, version = ENGINES[run.specification.engine.name], run.specification.numerics_version
    here = _version_of(run, engine, engine.numerics_version)
    if version != here:
        raise SpecificationMismatch(
            f"{run.path} holds a kernel of numerics version {version}, of which tiles are missing, and this cntk "
            f"computes version {here}: values would be mixed. Finish it with the version that began "
            "it, or compute it anew in another --store"
        )


def _require_known(run: RunDirectory) -> None:
    from cntk_pipeline.kernels import ENGINES

    if not is_known(run):
        name = run.specification.engine.name
        raise SpecificationMismatch(
            f"{run.path} holds a kernel of the engine {name!r}, of which tiles are missing, and this cntk knows "
            f"{', '.join(ENGINES)}. Finish it with an installation that has the engine, or compute it anew with "
            "another kernel.engine in another --store"
        )


def kernel_task_bytes(engine: Engine, tile: int, nodes: NodeCounts | None = None) -> int:
    """Bytes a kernel task holds: both sides' images in two layouts, the engine's own, each read-out's tile thrice.

    Of graphs ``nodes`` tells those of the largest task; without them they are as many as their rows could hold.
    """
    question = engine.question
    item = np.dtype(question.dtype).itemsize
    images = 4 * tile * int(np.prod(question.input_shape)) * item
    own = engine.working_bytes(tile) if nodes is None else engine.bytes_of_graphs(tile, nodes)
    return images + own + 3 * len(question.readouts) * tile * tile * item
