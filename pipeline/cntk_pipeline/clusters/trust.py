"""Trust in run directories: their settings of where to compute are followed only if this user wrote them.

A run directory may belong to somebody else, or be written by others. Everybody can look at its numbers. But a scheduler
that it names can run code in every client, ``setup`` lines are shell, the specification may name a function to import,
and the older run that tiles are taken over from may be readable for this user only. So workflow.json carries a
signature of its writer. docs/security.md has the whole table.
"""

import hashlib
import json
from dataclasses import dataclass

from cntk_pipeline.clusters import CLUSTERS
from cntk_pipeline.config import ClusterConfig, RunConfig
from cntk_pipeline.config.loopback import is_loopback
from cntk_pipeline.errors import NotTrusted
from cntk_pipeline.rundir.code import UserCode, code_of
from cntk_pipeline.rundir.directory import RunDirectory
from cntk_pipeline.rundir.growth import Growth
from cntk_pipeline.rundir.signature import find_key, is_signed, key_path, sign
from cntk_pipeline.storage import open_path
from cntk_pipeline.units import shell_word

_HARMLESS = {"kind", "workers", "minimum_workers", "threads_per_worker", "gpus_per_node", "memory_limit"}
"""Keys for the amount of computing at once: with kinds that compute here, they are followed from any writer."""

_PURPOSE = "workflow"


@dataclass(frozen=True)
class Trusted:
    """A workflow of a run directory, with its trusted settings.

    Attributes
    ----------
    config : RunConfig
        The workflow. It was read only once, so that the checked values are used.
    source : str or None
        The older run whose tiles are taken over; None where there is none, or its name is not trusted.
    code : UserCode, optional
        The word to import the code that the specification names; None where it names none.
    refused_source : str, optional
        The older run that is named, but not followed; None where there is none.
    shown : tuple of str
        Settings that are followed without a signature, one line each, for the user who allowed it.
    """

    config: RunConfig
    source: str | None
    code: UserCode | None = None
    refused_source: str | None = None
    shown: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """The digest of the followed settings; a submitted driver gets it, and follows no others."""
        return digest(self.config.cluster, self.source, self.code)


def digest(cluster: ClusterConfig, source: str | None, code: UserCode | None = None) -> str:
    """Digest what is followed, 64 hexadecimal digits.

    Parameters
    ----------
    cluster : ClusterConfig
        The table.
    source : str or None
        The older run to take tiles over from.
    code : UserCode, optional
        To import.
    """
    # Without defaults: a key that a later version adds must not end all trust.
    followed: list[object] = [cluster.model_dump(mode="json", exclude_defaults=True), source]
    if code is not None:
        followed += [code.name, code.digest, code.folder]
    return hashlib.sha256(_canonical(followed)).hexdigest()


def read_trusted(
    run: RunDirectory, *, cluster: ClusterConfig | None = None, trust: bool = False, told: str | None = None
) -> Trusted:
    """Read the workflow of a run directory, if it may be followed.

    Parameters
    ----------
    run : RunDirectory
        The run directory.
    cluster : ClusterConfig, optional
        A table of the user's own, to be used instead; it is no word to import code.
    trust : bool
        Whether the user wants to follow the directory.
    told : str, optional
        The digest that a submitted driver got from its submitter.

    Raises
    ------
    NotTrusted
        If the table could do harm or the specification names code, and this user did not write it; with the effects
        and the ways out.
    RunNotFound
        If a driver stopped before it wrote a workflow.
    """
    config, signature, source = run.workflow(), run.workflow_signature(), _source(run)
    code = code_of(run, config)

    def is_mine(source: str | None) -> bool:
        known = digest(config.cluster, source, code)
        return told == known or is_signed(signature, _PURPOSE, run.fingerprint, known)

    whole = is_mine(source)
    followed = source if whole or trust else None
    refused = source if followed is None else None
    may_follow = whole or trust or is_mine(None)
    shown: list[str] = []
    if trust and not whole:
        shown = (describe(config.cluster, source) if cluster is None else []) + _deed_of(code)
    if code is not None and not may_follow:
        raise NotTrusted(_refusal_of_code(run, code, told))
    if cluster is not None:
        config = config.model_copy(update={"cluster": cluster})
    elif not (may_follow or is_harmless(config.cluster)):
        raise NotTrusted(_refusal(run, config.cluster, source, told))
    return Trusted(config, followed, code, refused, tuple(shown))


def of_user(run: RunDirectory, config: RunConfig) -> Trusted:
    """Trust a workflow that the user has just given; only the older run to grow from may come from the directory."""
    source, given, code = _source(run), config.store.grow_from, code_of(run, config)
    if source is not None and (given is None or str(open_path(given).absolute()) != source):
        before = run.workflow() if run.has_workflow() else None
        known = None if before is None else digest(before.cluster, source, code_of(run, before))
        if known is None or not is_signed(run.workflow_signature(), _PURPOSE, run.fingerprint, known):
            return Trusted(config, None, code, source)
    return Trusted(config, source, code)


def write_trusted(run: RunDirectory, trusted: Trusted) -> None:
    """Write a workflow with this user's signature."""
    run.write_workflow(trusted.config, sign(_PURPOSE, run.fingerprint, trusted.digest))


def warnings(trusted: Trusted) -> list[str]:
    """List settings that are not followed, or will not be known as this user's own, one line each."""
    lines = []
    if trusted.refused_source is not None:
        lines.append(
            f"growth.json names {json.dumps(trusted.refused_source)}, and not by your word: nothing is taken over from "
            "it. cntk resume --trust does so"
        )
    key = find_key()
    problem = key.problem or ("" if key.secret else f"the key {key_path()} cannot be written")
    if problem and trusted.code is not None:
        lines.append(f"{problem}. Without it `cntk resume` asks for --trust: docs/security.md")
    elif problem and not is_harmless(trusted.config.cluster):
        lines.append(f"{problem}. Without it `cntk resume` asks for --cluster or --trust: docs/security.md")
    return lines


def is_harmless(cluster: ClusterConfig) -> bool:
    """Tell whether a table makes no connection, runs only this package, and gives others no access."""
    kind = CLUSTERS.get(cluster.kind)
    if kind is None or not kind.computes_here:
        return False
    # The kind ignores keys of other kinds. Such a key is asked about all the same, unless its own kind lists it as
    # harmless.
    others = {key for each in CLUSTERS.values() for key in each.harmless_options} - set(kind.options.model_fields)
    said = set(cluster.model_dump(exclude_defaults=True)) - _HARMLESS - kind.harmless_options - others
    opens = [where for where in (cluster.dashboard, cluster.metrics) if where is not None]
    local = all(is_loopback(where.rpartition(":")[0]) for where in opens)
    return local and said <= {"dashboard", "metrics"}


def describe(cluster: ClusterConfig, source: str | None) -> list[str]:
    """Describe the effects of following a directory, one line each; as JSON, so that no text acts on a terminal."""
    kind = CLUSTERS.get(cluster.kind)
    lines = [f"this would {'compute on a cluster of this kind' if kind is None else kind.deed}:"]
    said = {"kind": cluster.kind} | cluster.model_dump(mode="json", exclude_defaults=True)
    lines += [f"  {name} = {json.dumps(value)}" for name, value in said.items()]
    if source is not None:
        lines.append(f"  and take finished tiles over from {json.dumps(source)}")
    return lines


def _deed_of(code: UserCode | None) -> list[str]:
    return [] if code is None else [f"this would import and call the function {code}"]


def _refusal_of_code(run: RunDirectory, code: UserCode, told: str | None) -> str:
    record, problem = run.path / "workflow.json", find_key().problem
    if told is not None:
        why = f"{record} is not what this driver was submitted with: somebody has changed since what to import"
    else:
        why = f"{run.path} is computed by code beside this package, and {record} is not signed by you"
    return (
        f"{why}{f' ({problem})' if problem else ''}; {_deed_of(code)[0]}.\nAllow it with the workflow itself (cntk run "
        f"FILE --store {shell_word(run.path)}), or, if you know who wrote the run, with --trust (in Python, "
        "open_run(path, trust=True)). docs/security.md says more"
    )


def _refusal(run: RunDirectory, cluster: ClusterConfig, source: str | None, told: str | None) -> str:
    record, problem = run.path / "workflow.json", find_key().problem
    if told is not None:
        why = f"{record} is not what this driver was submitted with: somebody has changed since where to compute"
    else:
        why = f"{record} is not signed by you, so it is not followed in where to compute"
    first, *rest = describe(cluster, source)
    resume = f"cntk resume {shell_word(run.path)}"
    lines = [
        f"{why}{f' ({problem})' if problem else ''}; {first}",
        *rest,
        f"Compute where you say: {resume} --cluster NAME (local is this machine).",
        f"Or follow it, if you know who wrote it: {resume} --trust. docs/security.md says more",
    ]
    return "\n".join(lines)


def _source(run: RunDirectory) -> str | None:
    growth = Growth.of(run)
    return None if growth is None else growth.path


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
