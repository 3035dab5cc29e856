"""What a worker is started with."""

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

from dagster_taskiq.errors import ConfigError
from dagster_taskiq.settings.env import read_variable
from dagster_taskiq.wire.labels import KILL_GRACE_SECONDS
from dagster_taskiq.worker.cores import usable_cores
from dagster_taskiq.worker.local_status.sockets import StartedWith

#: The variable with the number of slots of a worker for which none is given.
CONCURRENCY_ENV = "DAGSTER_TASKIQ_CONCURRENCY"
#: The variables of the options of the same names, which count where these are not given.
DRAIN_TIMEOUT_ENV = "DAGSTER_TASKIQ_DRAIN_TIMEOUT"
KILL_GRACE_ENV = "DAGSTER_TASKIQ_KILL_GRACE"
HTTP_PORT_ENV = "DAGSTER_TASKIQ_HTTP_PORT"
LOG_FORMAT_ENV = "DAGSTER_TASKIQ_LOG_FORMAT"
ASYNC_TASKS_ENV = "DAGSTER_TASKIQ_ASYNC_TASKS"
POD_DELETION_COST_ENV = "DAGSTER_TASKIQ_POD_DELETION_COST"


def default_concurrency() -> tuple[int, str]:
    """Return how many slots a worker has if no number is given, and the source of the number.

    That is ``$DAGSTER_TASKIQ_CONCURRENCY``, or the cores that this process may use: a step that
    computes needs a core, and more of them at once would only take turns.

    Raises:
        ConfigError: the variable is not a positive integer.
    """
    text = read_variable(CONCURRENCY_ENV)
    if text is None:
        return usable_cores()
    if not text.isdigit() or int(text) < 1:
        raise ConfigError(f"{CONCURRENCY_ENV} must be a positive integer, but it is {text!r}.")
    return int(text), CONCURRENCY_ENV


def default_async_tasks() -> int:
    """Return how many async tasks a slot executes at once if no number is given.

    That is ``$DAGSTER_TASKIQ_ASYNC_TASKS``, or 0.

    Raises:
        ConfigError: the variable is not an integer of 0 or more.
    """
    text = read_variable(ASYNC_TASKS_ENV) or "0"
    if not text.isdigit():
        raise ConfigError(f"{ASYNC_TASKS_ENV} must be an integer of 0 or more, but it is {text!r}.")
    return int(text)


def default_name() -> str:
    """Return a worker's name if none is given: the host, and the process on it."""
    return f"{socket.gethostname()}-{os.getpid()}"


#: How many runs a worker holds at once if no number is given, unless it has more slots than that.
DEFAULT_MAX_RUNS = 10


class LogFormat(str, Enum):
    """What a worker writes its log in, by the names on the command line."""

    #: Lines for people.
    TEXT = "text"
    #: An object in each line, for what collects logs.
    JSON = "json"


@dataclass(frozen=True)
class PoolOptions:
    """How children are kept."""

    #: How many tasks run at once.
    concurrency: int
    #: How many runs are held at once, whether they work or wait for their own steps.
    max_runs: int
    #: How many users' async tasks a slot executes at once, in one process; 0: each task has a
    #: process and a slot of its own.
    async_tasks: int = 0
    #: Modules each child imports when it starts.
    include: tuple[str, ...] = ()
    #: The modules, files and directories from which children load jobs; empty: from any that a
    #: message names.
    allow: tuple[str, ...] = ()
    #: The project's own app, ``module`` or ``module:name``, whose broker has its tasks.
    app: str | None = None
    #: The form of what children log that no code of the user's has configured.
    log_format: LogFormat = LogFormat.TEXT
    #: A child is replaced after this many tasks; never when ``None``.
    max_tasks_per_child: int | None = None
    #: A child that holds more than this many bytes after a task is replaced.
    max_memory_per_child: int | None = None
    #: Seconds between SIGTERM and SIGKILL for a task that is stopped.
    kill_grace: float = KILL_GRACE_SECONDS
    #: Seconds after which a task is killed, unless its own label has another number; ``None``:
    #: never.
    time_limit: float | None = None
    #: Seconds after which a task is stopped as one that is cancelled, unless its own label has
    #: another number; ``None``: never.
    soft_time_limit: float | None = None


@dataclass(frozen=True)
class WorkerOptions:
    """What one worker is; the settings it shares with the senders are elsewhere."""

    #: Shown in lists, logs and events.
    name: str
    #: The queues it serves.
    queues: tuple[str, ...]
    pool: PoolOptions
    #: The source of the number of its slots, for its log.
    slots_source: str
    #: Seconds that tasks have to finish after the first signal, before they are stopped; ``None``:
    #: no limit.
    drain_timeout: float | None = None
    #: Where it serves HTTP probes; ``None``: nowhere.
    http_port: int | None = None
    #: Whether it tells Kubernetes what it costs to delete its pod.
    pod_deletion_cost: bool = False
    #: The options by which commands on its host find it.
    started_with: StartedWith = field(default_factory=StartedWith)


def default_max_runs(concurrency: int) -> int:
    """Return how many runs a worker with so many slots holds at once, if no number is given."""
    return max(DEFAULT_MAX_RUNS, concurrency)


def included(modules: Sequence[str]) -> tuple[str, ...]:
    """Return module names without repetition, in order."""
    return tuple(dict.fromkeys(name for name in modules if name))
