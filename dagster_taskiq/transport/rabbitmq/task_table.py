"""The tasks in one record: a mapping that the state machine of ``transitions`` can change."""

from collections import defaultdict
from collections.abc import Iterator, MutableMapping, Sequence

from dagster_taskiq.transport.backend import UNFINISHED_SECONDS
from dagster_taskiq.transport.rabbitmq.records import Record, task_shard
from dagster_taskiq.wire.records import Task, TaskState

#: How long a step that has ended is remembered at most, in seconds. Its outcome is in the event
#: log; the record is there to drop messages that are delivered twice, and is written with each
#: change of its shard.
STEP_SECONDS = 3600

#: How many fields of a task this release knows; a newer one may append more.
FIELDS = 12
#: The states by their numbers in a record; another release must mean the same by them.
_STATES = list(TaskState)


class TaskTable(MutableMapping[str, Task]):
    """A view of a record: each task is a list of fields, and is made when it is looked up."""

    def __init__(self, record: Record) -> None:
        """Make the view.

        Args:
            record: the content of a shard; changes are made in it.
        """
        self._record = record

    def __getitem__(self, task_id: str) -> Task:
        name, queue, run_id, step_key, state, worker, *rest = self._record[task_id]
        submitted_at, started_at, finished_at, error, revoke_requested, *newer = rest
        return Task(
            id=task_id,
            name=name,
            queue=queue,
            run_id=run_id,
            step_key=step_key,
            state=_STATES[state],
            worker=worker,
            submitted_at=submitted_at,
            started_at=started_at,
            finished_at=finished_at,
            error=error,
            revoke_requested=bool(revoke_requested),
            # Older releases do not know it.
            attempt=newer[0] if newer else 0,
        )

    def __setitem__(self, task_id: str, task: Task) -> None:
        self._record[task_id] = [
            task.name,
            task.queue,
            task.run_id,
            task.step_key,
            _STATES.index(task.state),
            task.worker,
            task.submitted_at,
            task.started_at,
            task.finished_at,
            task.error,
            int(task.revoke_requested),
            task.attempt,
            # What a newer release has appended stays.
            *self._record.get(task_id, ())[FIELDS:],
        ]

    def __delitem__(self, task_id: str) -> None:
        del self._record[task_id]

    def __iter__(self) -> Iterator[str]:
        return iter(self._record)

    def __len__(self) -> int:
        return len(self._record)

    def __contains__(self, task_id: object) -> bool:
        return task_id in self._record

    def drop_expired(self, now: float, result_ttl: float) -> None:
        """Delete tasks that ended long ago, and those without any change for a month.

        Args:
            now: seconds since the epoch.
            result_ttl: for how many seconds a task that has ended is remembered.
        """
        step_ttl = min(result_ttl, STEP_SECONDS)
        for task_id, fields in list(self._record.items()):
            step_key, (submitted_at, started_at, finished_at) = fields[3], fields[6:9]
            if finished_at:
                expired = finished_at < now - (step_ttl if step_key else result_ttl)
            else:
                expired = max(submitted_at, started_at) < now - UNFINISHED_SECONDS
            if expired:
                del self._record[task_id]


def by_shard(task_ids: Sequence[str]) -> dict[str, list[str]]:
    """Return the ids of tasks by the names of the records they are in."""
    shards: defaultdict[str, list[str]] = defaultdict(list)
    for task_id in task_ids:
        shards[task_shard(task_id)].append(task_id)
    return shards
