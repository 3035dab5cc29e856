"""The labels of a message: where it goes, what it belongs to, and how long its task may take.

A label is what taskiq sends with a task's arguments; users of taskiq set one with
``task.kicker().with_labels(time_limit=60).kiq()``. The labels of ``UNITS`` are numbers, and 0 means
the same as no label.
"""

import base64
import json
import math
import time
from collections.abc import Mapping
from typing import Any

from dagster_taskiq.errors import (
    ConfigError,
)

#: Seconds between SIGTERM and SIGKILL for a task that is stopped, unless its worker has another
#: setting. A task that uses a database or a warehouse, as dbt does, needs more than ten seconds to
#: cancel its queries there.
KILL_GRACE_SECONDS = 30.0

#: Seconds that a cancelled task of a library, which only watches a step, has to end before it is
#: stopped. The task of dagster-celery-k8s checks its run every ten seconds, and deletes the step's
#: Kubernetes Job when the run is not STARTED any more.
CUSTOM_STEP_SECONDS = 30.0

#: Seconds that the task may run; its process is killed then. Replaces the worker's own limit.
TIME_LIMIT_LABEL = "time_limit"
#: Seconds after which the task is stopped as if it were cancelled. Replaces the worker's own limit.
SOFT_TIME_LIMIT_LABEL = "soft_time_limit"
#: taskiq's own: seconds that the task may run, counted from its start. It fails with a
#: ``TimeoutError`` then; a plain function is stopped as at its soft limit.
TIMEOUT_LABEL = "timeout"
#: Seconds for which the broker keeps the message before a worker may claim it. taskiq-aio-pika has
#: a label of this name and meaning.
DELAY_LABEL = "delay"
#: When the task expires, in seconds since the epoch, by the clock of the worker that would start
#: it: from then on it is not started, and becomes REVOKED when a worker claims its message.
EXPIRES_AT_LABEL = "expires_at"

#: Why such a task has ended.
EXPIRED = "It expired before it started."

#: The labels that are numbers, with their units.
UNITS = {
    DELAY_LABEL: "seconds",
    TIME_LIMIT_LABEL: "seconds",
    SOFT_TIME_LIMIT_LABEL: "seconds",
    EXPIRES_AT_LABEL: "seconds since the epoch",
}


def read_time(labels: Mapping[str, Any], name: str) -> float:
    """Return the value of one of the labels in ``UNITS``; 0 if there is no such label.

    Raises:
        ConfigError: it is not a number, or less than 0.
    """
    value = labels.get(name) or 0
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number < math.inf:
        raise ConfigError(
            f'The label "{name}" must be a number of {UNITS[name]}, 0 or more, but it is {value!r}.'
        )
    return number


def check_times(labels: Mapping[str, Any]) -> None:
    """Check all labels in ``UNITS``, before a message is sent.

    Raises:
        ConfigError: one is not a number, or less than 0.
    """
    for name in UNITS:
        read_time(labels, name)


def has_expired(labels: Mapping[str, Any]) -> bool:
    """Return whether a task that has not started has expired, and must not start.

    Raises:
        ConfigError: its label is not a number.
    """
    expires_at = read_time(labels, EXPIRES_AT_LABEL)
    return 0 < expires_at <= time.time()


#: Label of a message: the queue it waits in.
QUEUE_LABEL = "queue_name"


#: Label of a message: the steps of the pipeline it belongs to, as taskiq-pipelines writes them.
_PIPELINE_LABEL = "_pipe_data"


def last_of_pipeline(labels: Mapping[str, Any]) -> str:
    """Return the id of the last task of a message's pipeline; empty if it has none."""
    try:
        return str(json.loads(labels[_PIPELINE_LABEL])[-1]["task_id"])
    except (KeyError, IndexError, TypeError, ValueError):
        return ""


#: Label of a message: its priority, higher first.
PRIORITY_LABEL = "priority"


#: Label of a message: the run it belongs to.
RUN_LABEL = "run_id"


#: Label of a message: the step it executes.
STEP_LABEL = "step_key"


#: Label of a message: the name of the Dagster job to which its run or step belongs.
JOB_LABEL = "job_name"


#: Label of a message: when it was sent, in seconds since the epoch, by the clock of its sender. A
#: project's own formatter does not add it.
SENT_LABEL = "dagster_taskiq_sent_at"


def due_at(labels: Mapping[str, Any]) -> float | None:
    """Return when a message began to wait, in seconds since the epoch: when it was sent, or due.

    ``None`` if it does not have that, or has what is none.
    """
    try:
        sent_at = float(labels[SENT_LABEL])
        delay = read_time(labels, DELAY_LABEL)
    except (KeyError, TypeError, ValueError, ConfigError):
        return None
    return sent_at + delay if 0 < sent_at < math.inf else None


#: Label of a message: Dagster's pool in which its step holds a slot.
POOL_LABEL = "pool"


#: Label of a message, with any value: its task only watches a step that runs elsewhere. Another
#: task may go on watching it, so a worker that is to end stops watching at once, and the step goes
#: on. At SIGTERM, the task ends what it watches.
WATCHES_LABEL = "watches"


#: Label of a message: seconds that the task, if it only watches a step and is cancelled, has to end
#: by itself before it is stopped; ``CUSTOM_STEP_SECONDS`` if there is no such label.
CANCEL_SECONDS_LABEL = "cancel_seconds"


#: Label of a message: the working directory of the code it runs. Modules of different directories
#: are never loaded into one process.
CODE_LABEL = "code"


#: Label of a message: whether there are values of :mod:`dagster_taskiq.wire.typed_values` among its
#: arguments. Those of any other message are taken as they are.
TYPED_LABEL = "typed_values"


#: Label that the worker puts on a message it has started: its own id.
WORKER_LABEL = "dagster_taskiq_worker"


#: Label of a message: how many attempts its task has had before, each of which its worker has ended
#: by putting the task back (a retry or requeue of a user's own task). No label means 0.
ATTEMPT_LABEL = "dagster_taskiq_attempt"


def attempt_of(labels: Mapping[str, Any]) -> int:
    """Return the attempt that a message is for: 0 if it does not have one, or has what is none."""
    try:
        return max(0, int(labels.get(ATTEMPT_LABEL) or 0))
    except (TypeError, ValueError, OverflowError):
        return 0


def written_labels(labels: Mapping[str, Any]) -> dict[str, Any]:
    """Return labels as a message has them, which are read again where it arrives.

    Of the values that taskiq's messages have types for, JSON has no bytes. taskiq reads those of
    the others again that it has read before.
    """
    return {
        name: base64.b64encode(value).decode() if isinstance(value, bytes) else value
        for name, value in labels.items()
    }


#: taskiq's label that decides when a message is acknowledged.
_ACKNOWLEDGE_LABEL = "ack_type"


#: The labels that mean something to a worker, besides those of which the names begin as ours do.
_OURS = frozenset(
    {
        *UNITS,
        TIMEOUT_LABEL,
        QUEUE_LABEL,
        PRIORITY_LABEL,
        RUN_LABEL,
        STEP_LABEL,
        JOB_LABEL,
        POOL_LABEL,
        WATCHES_LABEL,
        CANCEL_SECONDS_LABEL,
        CODE_LABEL,
        TYPED_LABEL,
        _PIPELINE_LABEL,
        _ACKNOWLEDGE_LABEL,
    }
)


def is_ours(name: str) -> bool:
    """Return whether a label decides what a worker does with its message."""
    return name in _OURS or name.startswith("dagster_taskiq")
