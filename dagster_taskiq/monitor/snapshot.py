"""The state of the fleet at one moment, as the web page, the JSON API, metrics and ``top`` show it.

Times are in seconds since the epoch, by the clock of the monitor where nothing else is said.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from dagster_taskiq.wire.task_counts import EndedTask


@dataclass(frozen=True)
class QueueView:
    """One queue, with its run queue: what waits, what runs, and who serves it."""

    name: str
    #: Messages that wait, those of its run queue included.
    waiting: int
    #: Messages that a worker has claimed and whose tasks have not started yet.
    starting: int
    #: Tasks that run in a slot.
    running: int
    #: Runs that wait for their own steps, and hold no slot.
    orchestrating: int
    #: How long the oldest message has waited, in seconds; ``None`` if the server does not tell.
    oldest_age: float | None
    #: How many of the waiting messages have each priority; ``None`` if the server does not tell.
    priorities: Mapping[int, int] | None
    #: The names of the live workers that serve it and do not drain.
    workers: tuple[str, ...]
    #: The slots of these workers, which may serve other queues too.
    slots: int = 0

    @property
    def demand(self) -> int:
        """The slots that it needs: what waits, starts and runs; at least 1 while a run waits."""
        return max(self.waiting + self.starting + self.running, min(1, self.orchestrating))

    @property
    def is_unserved(self) -> bool:
        """Whether messages wait that no worker will take."""
        return self.waiting > 0 and not self.workers

    def to_plain(self) -> dict[str, Any]:
        """Return it as JSON data."""
        return {**asdict(self), "demand": self.demand, "unserved": self.is_unserved}


@dataclass(frozen=True)
class WorkerView:
    """One worker."""

    id: str
    name: str
    host: str
    pid: int
    version: str
    #: ``idle``, ``busy``, ``draining`` or ``lost``.
    state: str
    queues: tuple[str, ...]
    slots: int
    busy_slots: int
    #: Runs that it holds, and how many it holds at most.
    runs: int
    max_runs: int
    #: In bytes; 0 if it is not known.
    memory: int
    #: Seconds since it started, and since its last heartbeat.
    uptime: float
    age: float
    #: How many executions have ended in each way, by the names of ``Outcome``.
    ended: Mapping[str, int]


@dataclass(frozen=True)
class RunningView:
    """One task that runs."""

    id: str
    worker: str
    queue: str
    name: str
    job: str
    run_id: str
    step_key: str
    pid: int
    started_at: float
    #: It is a run that waits for its own steps, and holds no slot.
    orchestrating: bool
    attempt: int


@dataclass(frozen=True)
class EndedView:
    """One execution of a task that has ended, and the name of its worker."""

    worker: str
    task: EndedTask

    def to_plain(self) -> dict[str, Any]:
        """Return it as JSON data."""
        return {"worker": self.worker, **self.task.to_plain()}


@dataclass(frozen=True)
class FleetView:
    """The fleet."""

    #: When broker and backend were asked last, and answered; 0 if they never have.
    at: float
    #: Their URLs, without passwords.
    broker: str
    backend: str
    #: Why the last look has failed, and what to do; empty if it has not.
    trouble: str
    queues: tuple[QueueView, ...] = ()
    workers: tuple[WorkerView, ...] = ()
    running: tuple[RunningView, ...] = ()
    #: What has ended in the last 15 minutes, newest first, up to a limit.
    ended: tuple[EndedView, ...] = ()
    #: How many more have ended in that time that are not listed.
    ended_unlisted: int = 0
    #: How many messages were set aside as unreadable.
    rejected: int = 0

    def to_plain(self) -> dict[str, Any]:
        """Return it as JSON data."""
        return {
            "at": self.at,
            "broker": self.broker,
            "backend": self.backend,
            "trouble": self.trouble,
            "queues": [each.to_plain() for each in self.queues],
            "workers": [asdict(each) for each in self.workers],
            "running": [asdict(each) for each in self.running],
            "ended": [each.to_plain() for each in self.ended],
            "ended_unlisted": self.ended_unlisted,
            "rejected": self.rejected,
        }


def has_changed(old: FleetView, new: FleetView) -> bool:
    """Return whether a later view shows more than that time goes by.

    What ended is news in the later one alone. How much memory a worker has differs a little with
    each heartbeat, and is no change by itself.
    """
    return (
        bool(new.ended)
        or _without_times(old) != _without_times(new)
        # Another message is the oldest now.
        or any(
            (each.oldest_age or 0.0) < (before.oldest_age or 0.0)
            for before, each in zip(old.queues, new.queues, strict=True)
        )
    )


def _without_times(view: FleetView) -> FleetView:
    return replace(
        view,
        at=0.0,
        queues=tuple(
            replace(each, oldest_age=None if each.oldest_age is None else 0.0)
            for each in view.queues
        ),
        workers=tuple(replace(each, uptime=0.0, age=0.0, memory=0) for each in view.workers),
        ended=(),
    )
