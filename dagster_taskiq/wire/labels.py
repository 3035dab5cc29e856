"""How long a task may take: the labels of a message that say so, and the time it has to stop.

A label is what taskiq sends beside a task's arguments; whoever uses taskiq sets one with
``task.kicker().with_labels(time_limit=60).kiq()``. All of these are numbers, and 0 says no more
than a label that is not there.
"""

import math
import time
from collections.abc import Mapping
from typing import Any

from dagster_taskiq.errors import (
    ConfigError,
)

#: Seconds between SIGTERM and SIGKILL for a task that is stopped, where its worker was not told
#: otherwise: what talks to a database or a warehouse, as dbt does, needs more than ten of them to
#: cancel its queries there.
KILL_GRACE_SECONDS = 30.0

#: How long a cancelled task that watches a step, and is none of ours, has to end by itself before
#: it is stopped, in seconds. That of dagster-celery-k8s looks at its run every ten seconds, and
#: deletes the step's Kubernetes Job when the run is not STARTED any more.
CUSTOM_STEP_SECONDS = 30.0

#: Seconds that the task may run; its process is killed then. Counts instead of the worker's own.
TIME_LIMIT_LABEL = "time_limit"
#: Seconds after which the task is stopped gently, as one that is cancelled. Counts instead of the
#: worker's own.
SOFT_TIME_LIMIT_LABEL = "soft_time_limit"
#: Seconds for which the message waits at the broker before anybody may have it. taskiq-aio-pika has
#: a label of this name and meaning.
DELAY_LABEL = "delay"
#: When the task is not wanted any more, in seconds since the epoch, by the clock of whoever would
#: start it: from then on it is not started, and ends as REVOKED when its turn comes.
EXPIRES_AT_LABEL = "expires_at"

#: Why such a task has ended.
EXPIRED = "It expired before it started."

#: All of them, with what each is a number of.
UNITS = {
    DELAY_LABEL: "seconds",
    TIME_LIMIT_LABEL: "seconds",
    SOFT_TIME_LIMIT_LABEL: "seconds",
    EXPIRES_AT_LABEL: "seconds since the epoch",
}


def read_time(labels: Mapping[str, Any], name: str) -> float:
    """Return what one of the labels in ``UNITS`` says; 0 where it is not there.

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
    """Look at all of them, before a message is sent.

    Raises:
        ConfigError: one is not a number, or less than 0.
    """
    for name in UNITS:
        read_time(labels, name)


def has_expired(labels: Mapping[str, Any]) -> bool:
    """Return whether a task that has not started must not start any more.

    Raises:
        ConfigError: its label is not a number.
    """
    expires_at = read_time(labels, EXPIRES_AT_LABEL)
    return 0 < expires_at <= time.time()


#: Label of a message: the queue it waits in.
QUEUE_LABEL = "queue_name"


#: Label of a message: its priority, higher first.
PRIORITY_LABEL = "priority"


#: Label of a message: the run it belongs to.
RUN_LABEL = "run_id"


#: Label of a message: the step it executes.
STEP_LABEL = "step_key"


#: Label of a message: Dagster's pool in which its step holds a slot.
POOL_LABEL = "pool"


#: Label of a message: the working directory of the code it runs, whose modules shall not meet those
#: of another.
CODE_LABEL = "code"


#: Label that the worker puts on a message it has started: its own id.
WORKER_LABEL = "dagster_taskiq_worker"
