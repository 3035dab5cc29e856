"""What a worker logs of each task that it runs: a line when it starts, and one when it ends."""

import logging

from taskiq import TaskiqMessage

from dagster_taskiq.wire.labels import JOB_LABEL, RUN_LABEL, STEP_LABEL
from dagster_taskiq.wire.safe_text import printable
from dagster_taskiq.wire.task_counts import Outcome

logger = logging.getLogger(__name__)

#: How many characters of the id of a run are shown, as in Dagster's UI.
SHORT_ID = 8
#: How many characters of any other name, and of the reason of an end, are shown.
LONGEST_NAME = 200
LONGEST_REASON = 1000

#: Seconds in a minute, and minutes in an hour.
MINUTE = 60

#: What is said of each end, before its time, and how severe it is.
_ENDS = {
    Outcome.SUCCEEDED: ("succeeded in", logging.INFO),
    Outcome.FAILED: ("failed after", logging.ERROR),
    Outcome.LOST: ("was lost after", logging.ERROR),
    Outcome.REVOKED: ("was revoked after", logging.WARNING),
    Outcome.RETRIED: ("is to run again, after", logging.WARNING),
    Outcome.HANDED_OVER: ("was handed over after", logging.INFO),
}

#: The labels that name a step or run.
_LABELS = (JOB_LABEL, RUN_LABEL, STEP_LABEL)


def log_start(message: TaskiqMessage) -> None:
    """Log that a task starts: "ship_parcels · weigh_parcel[eggs] started (run f9c9a8fd)".

    A user's own task may be short, and one of thousands in a second: there, the line is one for
    debugging, and that of the end is enough.
    """
    level = logging.INFO if message.labels.get(RUN_LABEL) else logging.DEBUG
    if logger.isEnabledFor(level):
        title, whose = _names_of(message)
        logger.log(level, "%s started%s", title, whose)


def log_end(message: TaskiqMessage, outcome: Outcome, seconds: float, why: str) -> None:
    """Log that a task has ended, in one line.

    Args:
        message: the task.
        outcome: how.
        seconds: for how long it ran.
        why: why it did not succeed, if anything is known; the first line of it is logged.
    """
    end, level = _ENDS[outcome]
    if logger.isEnabledFor(level):
        title, whose = _names_of(message)
        lines = why.strip().splitlines() if why else ()
        reason = f": {printable(lines[0][:LONGEST_REASON])}" if lines else ""
        fields = {"outcome": outcome.value, "seconds": round(seconds, 3)}
        logger.log(
            level, "%s %s %s%s%s", title, end, duration(seconds), whose, reason, extra=fields
        )


def duration(seconds: float) -> str:
    """Return a time as people read it: "0.4 s", "12 min 5 s", "3 h 20 min"."""
    if seconds < 1:
        return f"{round(seconds, 3):.2g} s"
    if round(seconds, 1) < MINUTE:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), MINUTE)
    if minutes < MINUTE:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, MINUTE)
    return f"{hours} h {minutes} min"


def _names_of(message: TaskiqMessage) -> tuple[str, str]:
    """Return by what people know a task, and what of it is put in brackets, with a space before."""
    labels = message.labels
    if not (labels.get(STEP_LABEL) or labels.get(RUN_LABEL)):
        return _name(message.task_name), f" (task {_name(message.task_id)})"
    job, run_id, step_key = (_name(labels.get(each, "")) for each in _LABELS)
    run = f"run {run_id[:SHORT_ID]}"
    if step_key:
        return " · ".join(filter(None, (job, step_key))), f" ({run})"
    return " · ".join(filter(None, (job, run))), ""


def _name(text: object) -> str:
    return printable(str(text)[:LONGEST_NAME])
