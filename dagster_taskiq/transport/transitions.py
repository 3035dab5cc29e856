"""What may become of a task: the changes of its record, as plain functions on a mapping.

For backends that keep records where no script or statement can decide (in memory, in a message):
they see to it that nobody else changes the mapping meanwhile. Times are seconds since the epoch.
"""

from collections.abc import MutableMapping
from dataclasses import replace

from dagster_taskiq.errors import NoRecordError
from dagster_taskiq.wire.records import Running, Task, TaskState

TaskTable = MutableMapping[str, Task]


def submit(tasks: TaskTable, task: Task, now: float) -> None:
    """Record a task as WAITING, unless it is known."""
    if task.id not in tasks:
        tasks[task.id] = replace(task, submitted_at=now)


def start(tasks: TaskTable, task: Task, now: float, *, recorded: bool = False) -> TaskState | None:
    """Change WAITING, or unknown, to STARTED by ``task.worker``; else return the state it has.

    Raises:
        NoRecordError: it is unknown, with ``recorded``.
    """
    if recorded and task.id not in tasks:
        raise NoRecordError.of(task.id)
    known = tasks.get(task.id) or replace(task, submitted_at=now)
    if known.state is not TaskState.WAITING:
        return known.state
    tasks[task.id] = replace(known, state=TaskState.STARTED, worker=task.worker, started_at=now)
    return None


def finish(tasks: TaskTable, task: Task, state: TaskState, error: str, now: float) -> bool:
    """Change STARTED by ``task.worker`` to a final state; ``False`` where that is not its state."""
    known = tasks.get(task.id)
    if known is None or (known.state, known.worker) != (TaskState.STARTED, task.worker):
        return False
    tasks[task.id] = replace(known, state=state, error=error, finished_at=now)
    return True


def revoke(tasks: TaskTable, task_id: str, reason: str, now: float) -> Task:
    """Make a WAITING or unknown task REVOKED, mark a STARTED one; return what it was before."""
    known = tasks.get(task_id) or Task(task_id, submitted_at=now)
    if known.state is TaskState.WAITING:
        tasks[task_id] = replace(known, state=TaskState.REVOKED, error=reason, finished_at=now)
    elif known.state is TaskState.STARTED:
        tasks[task_id] = replace(known, revoke_requested=True, error=reason)
    return known


def forget(tasks: TaskTable, task_id: str) -> Task | None:
    """Remove a task that has ended, and return what was known of it."""
    known = tasks.get(task_id)
    return tasks.pop(task_id) if known is not None and known.state.is_final else None


def is_lost(tasks: TaskTable, task_id: str) -> bool:
    """Whether the record of a task that somebody runs has been lost; it may have been sent again
    since, and be WAITING."""
    return task_id not in tasks or tasks[task_id].state is TaskState.WAITING


def put_back(tasks: TaskTable, running: Running, worker_id: str, now: float) -> None:
    """Record what a worker says it runs, where that record was lost, as STARTED by it."""
    if is_lost(tasks, running.id):
        fresh = Task(
            running.id, running.name, "", running.run_id, running.step_key, submitted_at=now
        )
        task = tasks.get(running.id) or fresh
        tasks[running.id] = replace(task, state=TaskState.STARTED, worker=worker_id, started_at=now)


def must_stop(task: Task, worker_id: str) -> bool:
    """Whether a worker that runs the task must stop it: it was revoked, or is not its own."""
    return task.revoke_requested or (task.state, task.worker) != (TaskState.STARTED, worker_id)
