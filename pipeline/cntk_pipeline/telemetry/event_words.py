"""The events of a log in plain words."""

from collections import defaultdict

from cntk_pipeline.telemetry.log_tail import Line

WORDS = {
    "began": "{tile} was begun on {worker}",
    "finished": "{tile} was finished on {worker}",
    "failed": "{tile} failed on {worker}: {error}",
    "retry": "{tile} is tried again: {error}",
    "backup": "{tile} takes long, so a second worker computes it too",
    "gave_up": "{tile} cannot be computed: {error}",
    "quarantined": "{tile} is set aside, because it ends its workers",
    "driver_started": "a driver began: {executor}",
    "stage_began": "{stage} began, {done} of {total} tiles are done",
    "stage_ended": "{stage} ended after {seconds} s, {done} of {total} tiles are done",
    "worker_joined": "a worker came: {peer}",
    "worker_lost": "the worker {peer} was lost, with {tiles} tiles",
    "workers_restarted": "all workers of {node} ended with exit code {code}, and are started again",
    "workers_given_up": "all workers of {node} ended with exit code {code}, and are not started again",
    "stop_requested": "the driver stops, after {in_flight} tiles in flight",
    "drained": "the driver has stopped, {done} of {total} tiles are done",
    "driver_ended": "the driver ended",
    "library": "Dask warns: {message}",
}
"""A text for each event; a name in braces is a field of its line."""


def words_of(line: Line) -> str:
    """Describe an event by one line of text; a field that its log line lacks becomes "?"."""
    fields = defaultdict(lambda: "?", {name: _text(value) for name, value in line.items()})
    fields["tile"] = f"{fields['stage'].partition(':')[0]} tile ({fields['row']}, {fields['col']})"
    fields["executor"] = fields["executor"].partition(", dashboard ")[0]
    event = str(line.get("event"))
    text = WORDS.get(event, event.replace("_", " ")).format_map(fields)
    if event == "retry" and line.get("alone"):
        text = f"{fields['tile']} is tried again alone, because its worker died"
    if event == "driver_ended" and line.get("error"):
        text += f": {fields['error']}"
    return text.partition("\n")[0]


def _text(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
