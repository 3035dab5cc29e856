"""The tasks in one record: a mapping that the state machine of ``transitions`` can change."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from types import MappingProxyType
from typing import Any

from dagster_taskiq.transport.backend import UNFINISHED_SECONDS
from dagster_taskiq.transport.rabbitmq.ended_ids import EndedIds
from dagster_taskiq.transport.rabbitmq.records import Record, task_shard
from dagster_taskiq.wire.records import Task, TaskState

#: How long a step that has ended is remembered at most, in seconds. Its outcome is in the event
#: log; the record is there to drop messages that are delivered twice, and is written with each
#: change of its shard.
STEP_SECONDS = 3600

#: A task in a record: the values of its fields; what it has returned, as text, or ``None``.
Fields = list[Any]
#: How many values this release knows; a newer one may append more. The last is the result.
FIELDS = 13
#: Where the result is.
RESULT = FIELDS - 1
#: The states by their numbers in a record; another release must mean the same by them.
_STATES = list(TaskState)


class TaskTable(MutableMapping[str, Task]):
    """A view of a record: each task is a list of fields, and is made when it is looked up."""

    def __init__(
        self, record: Record, ended: Mapping[str, Fields | None] = MappingProxyType({})
    ) -> None:
        """Make the view.

        Args:
            record: the content of a shard; changes are made in it.
            ended: the tasks that were moved out of it and are looked up here, so that they are seen
                as well; ``None`` for those that were looked for and are not remembered.
        """
        self._record = record
        self._ended = ended
        self._ended_ids = EndedIds(record)

    def __getitem__(self, task_id: str) -> Task:
        name, queue, run_id, step_key, state, worker, *rest = self._fields(task_id)
        submitted_at, started_at, finished_at, error, revoke_requested, attempt, *_ = rest
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
            attempt=attempt,
        )

    def __setitem__(self, task_id: str, task: Task) -> None:
        if task_id not in self._record and self._ended.get(task_id) and self[task_id] == task:
            return  # it has ended, and stays where it is
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
            *(_complete(self._record[task_id])[RESULT:] if task_id in self._record else (None,)),
        ]

    def set_result(self, task_id: str, result: bytes | None) -> None:
        """Store what a task in the record has returned."""
        self._record[task_id][RESULT] = None if result is None else result.decode("latin-1")

    def result(self, task_id: str) -> bytes | None:
        """Return what a task has returned.

        Raises:
            KeyError: it is not there.
        """
        text: str | None = self._fields(task_id)[RESULT]
        return None if text is None else text.encode("latin-1")

    def found(self, task_ids: Sequence[str]) -> dict[str, tuple[Task, bytes | None]]:
        """Return those of these tasks that are known, each with what it has returned."""
        tasks = {each: self.get(each) for each in task_ids}
        return {each: (task, self.result(each)) for each, task in tasks.items() if task is not None}

    def moved_out(self, task_ids: Sequence[str]) -> list[str]:
        """Return those of these tasks that have to be looked up before they are asked for here."""
        return [
            each
            for each in task_ids
            if each not in self._record and each not in self._ended and each in self._ended_ids
        ]

    def ended_own(self) -> dict[str, Fields]:
        """Return the tasks in the record that belong to no run and have ended."""
        return {
            each: _complete(fields)
            for each, fields in self._record.items()
            if fields[8] and not fields[2]
        }

    def _fields(self, task_id: str) -> Fields:
        fields: Fields | None = self._record.get(task_id)
        if fields is None:
            fields = self._ended.get(task_id)
        if fields is None:
            if self.moved_out([task_id]):
                raise RuntimeError(f"Task {task_id} has not been looked up.")
            raise KeyError(task_id)
        return _complete(fields)

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


def _complete(fields: Fields) -> Fields:
    """Return the fields of a task with those that an older release has not written."""
    missing = [0, None][len(fields) - FIELDS :] if len(fields) < FIELDS else []
    return [*fields, *missing] if missing else fields


def by_shard(task_ids: Sequence[str]) -> dict[str, list[str]]:
    """Return the ids of tasks by the names of the records they are in."""
    shards: defaultdict[str, list[str]] = defaultdict(list)
    for task_id in task_ids:
        shards[task_shard(task_id)].append(task_id)
    return shards
