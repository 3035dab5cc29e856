"""What has been read to check launched runs, kept from one check to the next.

Dagster's daemon checks one run after the other, and begins anew some time later. With what is
asked for the first run of such a pass, the records of the others are read ahead. A worker that was
seen to be alive is alive, as all others see it, until the lease of that heartbeat ends: it is not
asked for before.
"""

import time
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Protocol

from dagster_taskiq.wire.records import Task, Worker

#: For how long a record that was read ahead counts, in seconds.
AHEAD_SECONDS = 1.0
#: A run that was checked less than so many seconds ago is not read ahead: its turn has been.
TURN_SECONDS = 5.0
#: How many runs are read ahead at most.
MOST_AHEAD = 100


class Records(Protocol):
    """Reads records from a backend, as a :class:`dagster_taskiq.client.Client` does."""

    def tasks(self, task_ids: Sequence[str]) -> dict[str, Task]:
        """Return what is known of these tasks, by id."""

    def workers(self) -> list[Worker]:
        """Return the workers that are known, the lost ones too."""


class CheckedRuns:
    """The runs that one launcher has checked, by the ids of their tasks, and their workers."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Know nothing yet.

        Args:
            clock: the time, in seconds from any start.
        """
        #: Since when the backend has no record of a task or a worker, by its id.
        self._absent_since: dict[str, float] = {}
        self._clock = clock
        #: When each task that has not ended was last asked for; who was longest ago comes first.
        self._asked_at: dict[str, float] = {}
        #: The records that were read ahead and not used yet, and until when they count.
        self._ahead: dict[str, Task] = {}
        self._ahead_until = 0.0
        #: The workers that are known to be alive, and until when they are.
        self._alive_until: dict[str, float] = {}

    def task(self, records: Records, task_id: str) -> Task | None:
        """Return the record of the task of a run, if there is one.

        It may be ``AHEAD_SECONDS`` old if that of another run was asked for meanwhile; that of a
        task that has ended is never older than the call. What is asked for twice is read twice.

        Args:
            records: reads records.
            task_id: the task.

        Raises:
            ServerUnavailableError: the backend does not answer.
        """
        now = self._clock()
        task = self._ahead.pop(task_id, None)
        if task is None or now > self._ahead_until:
            task = self._read(records, task_id, now)
        self._asked_at.pop(task_id, None)
        if task is not None and not task.state.is_final:
            self._asked_at[task_id] = now
        return task

    def absent_seconds(self, task_or_worker: str) -> float:
        """Note that the backend has no record of a task or a worker; return since how long."""
        now = self._clock()
        return now - self._absent_since.setdefault(task_or_worker, now)

    def note_present(self, task_or_worker: str) -> None:
        """Note that the backend has a record of a task or a worker."""
        self._absent_since.pop(task_or_worker, None)

    def is_alive(self, worker_id: str) -> bool:
        """Return whether the lease of a worker's heartbeat that was read lasts still."""
        return self._clock() <= self._alive_until.get(worker_id, 0.0)

    def worker(self, records: Records, worker_id: str) -> Worker | None:
        """Return the record of a worker as it is now, if there is one, and note who is alive.

        Raises:
            ServerUnavailableError: the backend does not answer.
        """
        now = self._clock()  # before: the heartbeats are as old as they are read, or older
        found = {worker.id: worker for worker in records.workers()}
        self._alive_until = {
            each.id: now + each.lease - each.age for each in found.values() if not each.is_lost
        }
        return found.get(worker_id)

    def _read(self, records: Records, task_id: str, now: float) -> Task | None:
        """Read the record of a task, and those of the runs whose turn comes next."""
        for each in self._ahead:  # read in vain: those runs are not checked any more
            self._asked_at.pop(each, None)
        before = now - TURN_SECONDS
        waiting = (each for each, asked_at in self._asked_at.items() if asked_at < before)
        ahead = [each for each in islice(waiting, MOST_AHEAD) if each != task_id]
        found = records.tasks([task_id, *ahead])
        task = found.pop(task_id, None)
        # An end, or a missing record, has consequences: that is read again.
        self._ahead = {each.id: each for each in found.values() if not each.state.is_final}
        self._ahead_until = now + AHEAD_SECONDS
        return task
