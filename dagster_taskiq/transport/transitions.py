"""The life of a task: every change that its record may go through, as functions without effects.

::

                               +-----------put back----------+
                               v                             |
    (unknown) --submit--> WAITING --start--> STARTED --------+--finish--> SUCCESS, FAILURE, REVOKED
                             |                  |                         or LOST
                             |                  +--revoke only marks it: its worker stops it
                             |                  +--give back--> WAITING, REVOKED or LOST
                             +--revoke--> REVOKED
                             +--conclude--> SUCCESS or FAILURE

A task that is unknown may also be started, revoked or concluded, at once: its message can overtake
its record. ``adopt`` leads back to STARTED if a worker runs a task whose record was lost.

A task has one attempt unless its worker puts it back, which begins the next one. Each message is
for one attempt, and each attempt is started once.

Each backend loads a record, calls one of these functions and stores what it returns, while no
other process changes that record: in one transaction, or in one step of an event loop. The backend
on Redis has the same rules in Lua; ``compat_tests/contract/test_transitions.py`` compares all
backends with this module, for every state and every event. (In addition, Redis tells a caller that
asks again, since the answer to its own start was lost, that it has started the task.)

``known`` is the record as it is, ``None`` if there is none. ``now`` is the time in seconds since
the epoch.
"""

from dataclasses import replace

from dagster_taskiq.errors import NoRecordError, NotPutBackYetError
from dagster_taskiq.wire.records import Running, Task, TaskState


def submit(known: Task | None, task: Task, now: float) -> Task:
    """Return the record of a task that was sent: WAITING, unless it is known already."""
    return known or replace(task, submitted_at=now)


def start(
    known: Task | None, task: Task, now: float, *, recorded: bool = False
) -> tuple[Task, TaskState | None]:
    """Start a task on behalf of ``task.worker``, unless that attempt was started before.

    An attempt that was started is never started again, whatever became of it: what it does may have
    taken effect. This is what makes an attempt run at most once, however often its message is
    delivered.

    ============  =========================  =====================================================
    the record    the message is for         then
    ============  =========================  =====================================================
    unknown       any attempt                it starts; with ``recorded``, ``NoRecordError``
    WAITING       the same attempt           it starts
    WAITING       an earlier attempt         refused as STARTED: that one was started
    WAITING       a later attempt            it starts: the record is older than the message, as
                                             after a loss of data
    STARTED       the same, or an earlier    refused as STARTED
    STARTED       a later attempt            ``NotPutBackYetError``, also if it is to be stopped:
                                             its worker will put it back, or end it
    ended         any attempt                refused by the final state
    ============  =========================  =====================================================

    Args:
        known: the record.
        task: what to record if there is none, the attempt of the message, and who starts it.
        now: the time.
        recorded: start it only if it is known.

    Returns:
        The record, and the state that forbids the start: ``None`` if nothing forbids it, and the
        record is STARTED by that worker.

    Raises:
        NoRecordError: it is unknown, with ``recorded``.
        NotPutBackYetError: an earlier attempt is STARTED.
    """
    if known is None and recorded:
        raise NoRecordError.of(task.id)
    waiting = submit(known, task, now)
    if waiting.state is TaskState.STARTED and task.attempt > waiting.attempt:
        raise NotPutBackYetError.of(task.id)
    if waiting.state is not TaskState.WAITING:
        return waiting, waiting.state
    if task.attempt < waiting.attempt:
        return waiting, TaskState.STARTED
    return (
        replace(
            waiting,
            state=TaskState.STARTED,
            worker=task.worker,
            started_at=now,
            attempt=task.attempt,
        ),
        None,
    )


def put_back(known: Task | None, task: Task, now: float) -> Task | None:
    """Return the record of a task that its worker gives up, to be run again: its next attempt.

    Args:
        known: the record.
        task: which task and attempt, and the worker that gives it up.
        now: the time.

    Returns:
        ``None`` if that attempt is not STARTED by that worker, or is to be stopped. Nothing changes
        then.
    """
    if not _owns(known, task) or known is None or known.attempt != task.attempt:
        return None
    if known.revoke_requested:
        return None
    return replace(
        known,
        state=TaskState.WAITING,
        worker="",
        submitted_at=now,
        started_at=0.0,
        attempt=known.attempt + 1,
    )


def give_back(
    known: Task | None, task: Task, now: float, *, is_there: bool, reason: str
) -> Task | None:
    """Return the record of a task that was started as its message was claimed, and has not begun.

    Its worker gives the message back.

    Args:
        known: the record.
        task: which task, and the worker that has started it.
        now: the time.
        is_there: whether the message is there, so that it can be delivered again.
        reason: why the task ends if it is not, in one sentence.

    Returns:
        One that is WAITING, if the message is there; if it is not, LOST; and REVOKED if the task
        was cancelled meanwhile. ``None`` if it is not STARTED by that worker; nothing changes then.
    """
    if not _owns(known, task) or known is None:
        return None
    if known.revoke_requested:
        return replace(known, state=TaskState.REVOKED, started_at=0.0, finished_at=now)
    if not is_there:
        return replace(known, state=TaskState.LOST, error=reason, finished_at=now)
    return replace(known, state=TaskState.WAITING, worker="", started_at=0.0)


def finish(known: Task | None, task: Task, state: TaskState, error: str, now: float) -> Task | None:
    """Return the record of a task that has ended, or whose worker is lost.

    Args:
        known: the record.
        task: which task and attempt, and the worker on whose behalf its end is recorded.
        state: the final state.
        error: why, in one sentence; empty for a success.
        now: the time.

    Returns:
        ``None`` if the task is not STARTED by that worker, or is at a later attempt. Nothing
        changes then.
    """
    if not _owns(known, task) or known is None or known.attempt > task.attempt:
        return None
    return replace(known, state=state, error=error, finished_at=now)


def conclude(
    known: Task | None, task: Task, state: TaskState, error: str, now: float
) -> Task | None:
    """Return the record of a task that ends although no worker has started it.

    Args:
        known: the record.
        task: what to record if there is none.
        state: the final state.
        error: why, in one sentence; empty for a success.
        now: the time.

    Returns:
        ``None`` if the task was started, has ended, or belongs to a run, of which only Dagster and
        its workers decide. Nothing changes then.
    """
    waiting = submit(known, task, now)
    if waiting.state is not TaskState.WAITING or waiting.run_id:
        return None
    return replace(waiting, state=state, error=error, finished_at=now, worker="")


def revoke(known: Task | None, task_id: str, reason: str, now: float) -> Task:
    """Return the record of a task that was cancelled.

    Returns:
        One that is REVOKED, if it was WAITING or unknown; marked for its worker to stop it, if it
        was STARTED; else ``known`` itself.
    """
    task = known or Task(task_id, submitted_at=now)
    if task.state is TaskState.WAITING:
        return replace(task, state=TaskState.REVOKED, error=reason, finished_at=now)
    if task.state is TaskState.STARTED:
        return replace(task, revoke_requested=True, error=reason)
    return task


def adopt(known: Task | None, running: Running, worker_id: str, now: float) -> Task:
    """Return the record of a task that a worker reports it runs.

    Returns:
        One that is STARTED by the worker, if the record was lost (see :func:`record_was_lost`);
        else ``known`` itself.
    """
    fresh = Task(running.id, running.name, "", running.run_id, running.step_key, submitted_at=now)
    task = known or fresh
    if not record_was_lost(known, running):
        return task
    return replace(
        task,
        state=TaskState.STARTED,
        worker=worker_id,
        started_at=now,
        attempt=running.attempt,
    )


def record_was_lost(known: Task | None, running: Running) -> bool:
    """Return whether the record of a task that a worker runs was lost: it should be STARTED.

    This is about the record, not about the task, whose state LOST means that its worker is lost.
    The server may have lost its data, and the task may have been sent again since.
    """
    if known is None:
        return True
    return known.state is TaskState.WAITING and not _was_put_back(known, running)


def must_stop(task: Task, running: Running, worker_id: str) -> bool:
    """Return whether a worker has to stop a task: it was revoked, or is not that worker's.

    One that the worker has ended itself is not stopped: its hooks may still run.
    """
    has_ended_it = task.state in (TaskState.SUCCESS, TaskState.FAILURE) and task.worker == worker_id
    if has_ended_it or _was_put_back(task, running):
        return False
    return task.revoke_requested or (task.state, task.worker) != (TaskState.STARTED, worker_id)


def may_forget(known: Task | None) -> bool:
    """Return whether a record may be deleted: its task has ended."""
    return known is not None and known.state.is_final


def has_ended(before: Task | None, after: Task) -> bool:
    """Return whether a change was the end of a task, of which the loop of its run is notified."""
    return after.state.is_final and not may_forget(before)


def _owns(known: Task | None, task: Task) -> bool:
    """Return whether a record is STARTED by the worker that ``task`` names."""
    return known is not None and (known.state, known.worker) == (TaskState.STARTED, task.worker)


def _was_put_back(known: Task, running: Running) -> bool:
    """Return whether what a worker reports it runs is an attempt that the worker has put back.

    No other worker can have done that, and the report is as old as the heartbeat.
    """
    return known.attempt > running.attempt
