"""What a worker has run, in numbers: they are in its heartbeats, and in its ``/metrics``."""

from collections import deque
from collections.abc import Collection, Sequence

from dagster_taskiq.wire.task_counts import EndedTask, Outcome, TaskCounts

#: How many kinds of tasks are counted apart. There is a row for each in every heartbeat.
MOST_KINDS = 100
#: How many tasks that have ended are kept.
MOST_ENDED = 50
#: In the place of the names of further kinds.
OTHER = "(other)"


class WorkerCounts:
    """The counts of one worker; what one start or end costs does not depend on how many there are.

    Names come from messages, which anyone may have sent who can reach the broker, so that the rows
    are bounded: there is one for each queue of the worker, and one more, for all further kinds.
    """

    def __init__(self, queues: Collection[str]) -> None:
        """Have counted nothing yet.

        Args:
            queues: those that the worker serves.
        """
        self._queues = frozenset(queues)
        self._rows: dict[tuple[str, str, str], TaskCounts] = {}
        self._ended: deque[EndedTask] = deque(maxlen=MOST_ENDED)

    @property
    def rows(self) -> Sequence[TaskCounts]:
        """The counts by kind of task: the rows themselves, which go on counting."""
        return tuple(self._rows.values())

    @property
    def ended(self) -> Sequence[EndedTask]:
        """The last tasks that have ended, oldest first."""
        return tuple(self._ended)

    def of(self, queue: str, name: str, job: str) -> TaskCounts:
        """Return the row of a kind of task, so that its start and end can be counted there.

        Args:
            queue: from which it came; of a run, the one to which its run queue belongs.
            name: the name of the task.
            job: the Dagster job to which it belongs; empty for a user's own task.
        """
        kind = (queue, name, job)
        row = self._rows.get(kind)
        if row is None:
            if len(self._rows) >= MOST_KINDS:
                kind = (queue if queue in self._queues else OTHER, OTHER, OTHER)
            row = self._rows.setdefault(kind, TaskCounts(*kind))
        return row

    def note_ended(self, task: EndedTask) -> None:
        """Keep a task that has ended."""
        self._ended.append(task)


def count_end(row: TaskCounts, outcome: Outcome, seconds: float) -> None:
    """Count an execution that has ended.

    Args:
        row: of its kind.
        outcome: how.
        seconds: for how long it ran.
    """
    row.ended[outcome] = row.ended.get(outcome, 0) + 1
    row.run.add(seconds)
