"""What a backend keeps of each task and worker."""

import json
from dataclasses import dataclass
from enum import Enum
from typing import Any

from dagster_taskiq.wire.labels import KILL_GRACE_SECONDS
from dagster_taskiq.wire.notifications import run_channel


class TaskState(str, Enum):
    """Where a task is. The same words in code, logs, command line and documentation."""

    #: Sent, and not started by anyone. It may be delivered any number of times.
    WAITING = "WAITING"
    #: Started by one worker; from here on it lives by that worker's heartbeat.
    STARTED = "STARTED"
    #: Ended, and returned.
    SUCCESS = "SUCCESS"
    #: Ended, and raised; or it is no step, and its process died.
    FAILURE = "FAILURE"
    #: Cancelled: it never started, or was stopped while it ran.
    REVOKED = "REVOKED"
    #: Its worker stopped beating, and whatever that worker says of it later does not count; or it
    #: is a step, of which nothing but this says how it ended, and its process died.
    LOST = "LOST"

    @property
    def is_final(self) -> bool:
        """Whether nothing can come after it."""
        return self not in (TaskState.WAITING, TaskState.STARTED)


@dataclass(frozen=True)
class Task:
    """What is known of one task. Times are seconds since the epoch, by the server's clock."""

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
    #: Someone asked for it to be stopped.
    revoke_requested: bool = False

    @property
    def loop_channel(self) -> str:
        """The channel of the loop that is told of the task's end; empty where it is no step's."""
        return run_channel(self.run_id) if self.run_id and self.step_key else ""


@dataclass(frozen=True)
class Running:
    """A task that a worker says it is running now."""

    id: str
    name: str
    run_id: str
    step_key: str
    #: Process id of the child that runs it.
    pid: int
    #: Seconds it has been running, when the worker said so.
    seconds: float
    #: It is a run that waits for its own steps, and holds no slot.
    orchestrating: bool = False


@dataclass(frozen=True)
class Worker:
    """A worker as its last heartbeat described it."""

    id: str
    name: str
    host: str
    pid: int
    queues: tuple[str, ...]
    concurrency: int
    version: str
    lease: float
    #: How many runs it holds at once, whether they work or wait for their own steps.
    max_runs: int = 0
    #: Seconds between SIGTERM and SIGKILL for a task that it stops.
    kill_grace: float = KILL_GRACE_SECONDS
    running: tuple[Running, ...] = ()
    #: It has been told to end: it finishes what it runs, and takes no new runs.
    draining: bool = False
    #: Seconds since it started, at its last heartbeat.
    uptime: float = 0.0
    #: Seconds since that heartbeat, by the server's clock.
    age: float = 0.0

    @property
    def busy_slots(self) -> int:
        """How many of its slots are taken."""
        return sum(not each.orchestrating for each in self.running)

    @property
    def is_lost(self) -> bool:
        """Whether it has been silent for longer than its lease."""
        return self.age > self.lease

    @property
    def condition(self) -> str:
        """What it does, in one word for lists: lost, draining, busy or idle."""
        if self.is_lost:
            return "lost"
        if self.draining:
            return "draining"
        return "busy" if self.running else "idle"

    def runs(self, task_id: str) -> bool:
        """Whether it is alive, and said with its last heartbeat that it runs a task."""
        return not self.is_lost and any(each.id == task_id for each in self.running)

    @property
    def silence(self) -> str:
        """One sentence on how long it has been silent, for whoever asks why a task was given up."""
        return (
            f"Worker {self.name} (host {self.host}, pid {self.pid}), which ran it, has been silent "
            f"for {self.age:.0f} s, longer than its lease of {self.lease:.0f} s."
        )

    def dumps(self) -> str:
        """Return it as JSON, without ``age``, which only the server knows."""
        plain = {**self.__dict__, "running": [each.__dict__ for each in self.running]}
        del plain["age"]
        return json.dumps(plain)

    @classmethod
    def loads(cls, text: str | bytes, age: float) -> "Worker":
        """Make it from what :meth:`dumps` wrote; unknown fields of a newer version are ignored."""
        plain = json.loads(text)
        plain = {name: plain[name] for name in cls.__dataclass_fields__ if name in plain}
        known = Running.__dataclass_fields__
        running = tuple(
            Running(**{name: each[name] for name in known if name in each})
            for each in plain.pop("running")
        )
        return cls(**{**plain, "queues": tuple(plain["queues"]), "running": running, "age": age})


def end_notification(task: Task, state: TaskState) -> dict[str, Any]:
    """Return the mail that tells a run's loop that a task has ended."""
    return {"task": task.id, "state": state.value}
