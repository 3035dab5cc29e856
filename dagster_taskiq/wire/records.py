"""The records that a backend keeps of each task and worker."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from dagster_taskiq.wire.labels import KILL_GRACE_SECONDS
from dagster_taskiq.wire.notifications import run_channel
from dagster_taskiq.wire.task_counts import EndedTask, Packed, TaskCounts, pack


class TaskState(str, Enum):
    """The state of a task. Code, logs, command line and documentation use the same names."""

    #: Sent, and not started. Its message may be delivered any number of times.
    WAITING = "WAITING"
    #: Started by one worker; from now on that worker's heartbeat keeps it alive.
    STARTED = "STARTED"
    #: Ended, and returned.
    SUCCESS = "SUCCESS"
    #: Ended, and raised; or its process died, and it is not a step.
    FAILURE = "FAILURE"
    #: Cancelled: it never started, or was stopped while it ran.
    REVOKED = "REVOKED"
    #: Its worker's heartbeats stopped, and later reports of that worker are ignored; or its process
    #: died, and it is a step, whose end the run's loop has to record.
    LOST = "LOST"

    @property
    def is_final(self) -> bool:
        """Whether nothing can come after it."""
        return self not in (TaskState.WAITING, TaskState.STARTED)


@dataclass(frozen=True)
class Task:
    """The record of one task. Times are in seconds since the epoch, by the server's clock."""

    id: str
    name: str = ""
    queue: str = ""
    run_id: str = ""
    step_key: str = ""
    state: TaskState = TaskState.WAITING
    #: Id of the worker that started it.
    worker: str = ""
    submitted_at: float = 0.0
    started_at: float = 0.0
    finished_at: float = 0.0
    #: Why it failed, was revoked or lost: one sentence.
    error: str = ""
    #: It was cancelled while it ran, and its worker has to stop it.
    revoke_requested: bool = False
    #: How often its worker has put it back, to be run again. A message is for one attempt
    #: (``ATTEMPT_LABEL``).
    attempt: int = 0

    @property
    def was_stopped(self) -> bool:
        """Whether its worker has ended it; one that never started was only revoked."""
        return self.state is TaskState.REVOKED and self.started_at > 0

    @property
    def loop_channel(self) -> str:
        """The channel that notifies a run's loop of the task's end; empty if it is not a step's."""
        return run_channel(self.run_id) if self.run_id and self.step_key else ""


@dataclass(frozen=True)
class Running:
    """A task that a worker reports as running."""

    id: str
    name: str
    run_id: str
    step_key: str
    #: Process id of the child that runs it.
    pid: int
    #: Seconds it had been running at the heartbeat.
    seconds: float
    #: It is a run that waits for its own steps, and holds no slot.
    orchestrating: bool = False
    #: The attempt that its message was for.
    attempt: int = 0
    #: The last task of the pipeline in which it is a step: if it is lost, that never comes.
    last: str = ""
    #: The queue its message came from.
    queue: str = ""
    #: The Dagster job to which it belongs; empty for a user's own task.
    job: str = ""


@dataclass(frozen=True)
class Worker:
    """The record of a worker, from its last heartbeat."""

    id: str
    name: str
    host: str
    pid: int
    queues: tuple[str, ...]
    concurrency: int
    version: str
    lease: float
    #: How many runs it holds at once, those that wait for their own steps included.
    max_runs: int = 0
    #: Seconds between SIGTERM and SIGKILL for a task that it stops.
    kill_grace: float = KILL_GRACE_SECONDS
    running: tuple[Running, ...] = ()
    #: It is to end: it finishes the tasks that run, and takes no new runs.
    draining: bool = False
    #: Seconds since it started, at its last heartbeat.
    uptime: float = 0.0
    #: The private parts of Dagster that are not as expected there, and so not in use.
    unexpected_parts: tuple[str, ...] = ()
    #: The memory that its processes hold, in bytes; 0 if that is not known.
    memory: int = 0
    #: What it has run since it started, by queue, task and job. ``None``: it does not tell.
    counts: Sequence[TaskCounts] | None = None
    #: The tasks that have ended lately, oldest first; only while a monitor watches.
    ended: Sequence[EndedTask] = ()
    #: Seconds since that heartbeat, by the server's clock.
    age: float = 0.0

    @property
    def busy_slots(self) -> int:
        """How many of its slots are in use."""
        return sum(not each.orchestrating for each in self.running)

    @property
    def held_runs(self) -> int:
        """How many runs it holds; those that wait for their own steps count as well."""
        return sum(bool(each.run_id and not each.step_key) for each in self.running)

    @property
    def is_lost(self) -> bool:
        """Whether its last heartbeat is older than its lease."""
        return self.age > self.lease

    @property
    def condition(self) -> str:
        """Its condition for lists: lost, draining, busy or idle."""
        if self.is_lost:
            return "lost"
        if self.draining:
            return "draining"
        return "busy" if self.running else "idle"

    def runs(self, task_id: str) -> bool:
        """Return whether it is alive, and its last heartbeat reports that it runs a task."""
        return not self.is_lost and any(each.id == task_id for each in self.running)

    @property
    def silence(self) -> str:
        """The reason, in one sentence, why the tasks of this lost worker are given up."""
        return (
            f"Worker {self.name} (host {self.host}, pid {self.pid}), which ran it, has been silent "
            f"for {self.age:.0f} s, longer than its lease of {self.lease:.0f} s."
        )

    def to_plain(self) -> dict[str, Any]:
        """Return it as JSON data that people can read, without ``age``."""
        return {
            **self._head(),
            "counts": None if self.counts is None else [each.to_plain() for each in self.counts],
            "ended": [each.to_plain() for each in self.ended],
        }

    def dumps(self) -> str:
        """Return it as JSON, without ``age``, which is measured by the server's clock."""
        counts = None if self.counts is None else pack(self.counts)
        return json.dumps({**self._head(), "counts": counts, "ended": pack(self.ended)})

    def _head(self) -> dict[str, Any]:
        plain = {**self.__dict__, "running": [each.__dict__ for each in self.running]}
        del plain["age"]
        return plain

    @classmethod
    def loads(cls, text: str | bytes, age: float) -> "Worker":
        """Return the record from the JSON of :meth:`dumps`, without fields of a newer version."""
        plain = json.loads(text)
        plain = {name: plain[name] for name in cls.__dataclass_fields__ if name in plain}
        known = Running.__dataclass_fields__
        running = tuple(
            Running(**{name: each[name] for name in known if name in each})
            for each in plain.pop("running")
        )
        if plain.get("counts") is not None:
            plain["counts"] = Packed(plain["counts"], TaskCounts)
        plain["ended"] = Packed(plain.get("ended", ""), EndedTask)
        for name in ("queues", "unexpected_parts"):
            plain[name] = tuple(plain.get(name, ()))
        return cls(**{**plain, "running": running, "age": age})


def end_notification(task: Task, state: TaskState) -> dict[str, Any]:
    """Return the body of the notification of a run's loop that a task has ended."""
    return {"task": task.id, "state": state.value}
