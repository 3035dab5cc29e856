"""The life of a task on every backend, compared with ``transport/transitions.py``.

Each backend keeps records in its own way, and the one on Redis decides in Lua. So every event is
applied to a task in every state, on the backend and by the functions, and what comes out is
compared: the record, the answer, and the notification of the run's loop.
"""

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from compat_tests.brokers import ALL_WITH_STATES
from compat_tests.contract.test_backend import opened
from dagster_taskiq.errors import NoRecordError, NotPutBackYetError
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.transport import transitions
from dagster_taskiq.transport.backend import StateBackend
from dagster_taskiq.wire.notifications import FROM_START
from dagster_taskiq.wire.records import Running, Task, TaskState, Worker, end_notification

pytestmark = pytest.mark.anyio

OWNER, OTHER = "worker-1", "worker-2"
FINAL = [state for state in TaskState if state.is_final]
#: A time that no clock shows, for the functions.
NOW = 4e9


def described(worker: str, *running: Running) -> Worker:
    return Worker(worker, worker, "host", 1, ("q",), 1, "0", 30.0, running=running)


def running(task: Task) -> Running:
    return Running(
        task.id, task.name, task.run_id, task.step_key, pid=1, seconds=1.0, attempt=task.attempt
    )


@dataclass(frozen=True)
class Event:
    """Something that happens to a task."""

    name: str
    #: Lets it happen on a backend, to a task that names the worker; returns the answer.
    on_backend: Callable[[StateBackend, Task], Awaitable[Any]]
    #: Lets it happen to a record; returns the record afterwards, and the answer.
    on_record: Callable[[Task | None, Task], tuple[Task | None, Any]]


# -- what happens ----------------------------------------------------------------------------------


async def submit(backend: StateBackend, task: Task) -> None:
    await backend.submitted([replace(task, worker="")])


async def beat(backend: StateBackend, task: Task) -> list[str]:
    return await backend.beat(described(task.worker, running(task)))


def revoked(known: Task | None, task: Task) -> tuple[Task, dict[str, str]]:
    after = transitions.revoke(known, task.id, "not wanted", NOW)
    return after, {after.id: after.worker} if after.state is TaskState.STARTED else {}


def beaten(known: Task | None, task: Task) -> tuple[Task, list[str]]:
    after = transitions.adopt(known, running(task), task.worker, NOW)
    return after, [after.id] if transitions.must_stop(after, running(task), task.worker) else []


def start(recorded: bool) -> Event:
    return Event(
        "start if recorded" if recorded else "start",
        lambda backend, task: backend.start(task, recorded=recorded),
        lambda known, task: transitions.start(known, task, NOW, recorded=recorded),
    )


def finish(state: TaskState) -> Event:
    def ended(known: Task | None, task: Task) -> tuple[Task | None, bool]:
        after = transitions.finish(known, task, state, "reason", NOW)
        return (after or known), after is not None

    return Event(
        f"finish as {state.value}",
        lambda backend, task: backend.finish(task, state, "reason", None),
        ended,
    )


def put_back(known: Task | None, task: Task) -> tuple[Task | None, bool]:
    after = transitions.put_back(known, task, NOW)
    return (after or known), after is not None


def conclude(state: TaskState) -> Event:
    def concluded(known: Task | None, task: Task) -> tuple[Task | None, bool]:
        after = transitions.conclude(known, task, state, "reason", NOW)
        return (after or known), after is not None

    return Event(
        f"conclude as {state.value}",
        lambda backend, task: backend.conclude(task, state, "reason", None),
        concluded,
    )


EVENTS = [
    Event(
        "submit",
        submit,
        lambda known, task: (transitions.submit(known, replace(task, worker=""), NOW), None),
    ),
    start(recorded=False),
    start(recorded=True),
    *map(finish, FINAL),
    conclude(TaskState.SUCCESS),
    conclude(TaskState.FAILURE),
    Event("put back", lambda backend, task: backend.put_back(task, None), put_back),
    Event(
        "mark lost",
        lambda backend, task: backend.mark_lost(task, "reason"),
        finish(TaskState.LOST).on_record,
    ),
    Event("revoke", lambda backend, task: backend.revoke([task.id], "not wanted"), revoked),
    Event("beat", beat, beaten),
    Event(
        "forget",
        lambda backend, task: backend.forget([task.id]),
        lambda known, _: (None if transitions.may_forget(known) else known, None),
    ),
]

# -- in what state ---------------------------------------------------------------------------------


async def unknown(backend: StateBackend, task: Task) -> None:
    """Do nothing: nobody has heard of it."""


async def started(backend: StateBackend, task: Task) -> None:
    await submit(backend, task)
    assert await backend.start(task) is None


async def put_back_once(backend: StateBackend, task: Task) -> None:
    await started(backend, task)
    assert await backend.put_back(task, None)


async def started_again(backend: StateBackend, task: Task) -> None:
    await put_back_once(backend, task)
    assert await backend.start(replace(task, attempt=1)) is None


async def revoked_while_running(backend: StateBackend, task: Task) -> None:
    await started(backend, task)
    assert await backend.revoke([task.id], "no more") == {task.id: task.worker}


async def revoked_while_waiting(backend: StateBackend, task: Task) -> None:
    await submit(backend, task)
    assert await backend.revoke([task.id], "no more") == {}


def ended(state: TaskState) -> Callable[[StateBackend, Task], Awaitable[None]]:
    async def reach(backend: StateBackend, task: Task) -> None:
        await started(backend, task)
        assert await backend.finish(task, state, "why", None)

    return reach


#: How a task comes to each state, by the worker it names.
STATES: dict[str, Callable[[StateBackend, Task], Awaitable[None]]] = {
    "unknown": unknown,
    "waiting": submit,
    "started": started,
    "put back": put_back_once,
    "started again": started_again,
    "started and revoked": revoked_while_running,
    "revoked before it started": revoked_while_waiting,
    **{f"ended as {state.value}": ended(state) for state in FINAL},
}


#: The states of a task that has been put back.
SEVERAL_ATTEMPTS = ("put back", "started again")
#: The events for which it counts whose they are; of all ends, one is enough.
OF_A_WORKER = ("start", "put back", "finish as SUCCESS", "mark lost", "beat")
#: The events for which the attempt counts.
OF_AN_ATTEMPT = ("submit", "start", "put back", "finish as SUCCESS", "mark lost", "beat")


@dataclass(frozen=True)
class Case:
    """One event in one state."""

    state: str
    event: Event
    #: The worker of the event; the one that has started the task is OWNER.
    worker: str
    #: A step of a run, whose loop is notified; else a task of a user's own.
    is_step: bool
    #: The attempt of the event.
    attempt: int

    @property
    def name(self) -> str:
        kind = "step" if self.is_step else "task"
        what = f"{self.event.name} {self.attempt} by {self.worker}"
        return f"{kind}, {self.state}: {what}"

    @property
    def task(self) -> Task:
        run_id, step_key = (self.name, "step") if self.is_step else ("", "")
        return Task(self.name, "execute", "q", run_id, step_key, worker=OWNER)


def cases() -> Iterator[Case]:
    for is_step in (True, False):
        for state in STATES:
            if is_step and state in SEVERAL_ATTEMPTS:
                continue
            for event in EVENTS:
                for worker in (OWNER, OTHER) if event.name in OF_A_WORKER else (OWNER,):
                    yield Case(state, event, worker, is_step, 0)
    # Only a user's own task has more than one attempt.
    for state in ("unknown", "waiting", "started", *SEVERAL_ATTEMPTS):
        for event in EVENTS:
            if event.name in OF_AN_ATTEMPT:
                for attempt in (1, 2):
                    yield Case(state, event, OWNER, False, attempt)


# -- what comes of it ------------------------------------------------------------------------------


def without_times(after: Task | None, before: Task | None) -> dict[str, Any] | None:
    """Return a record whose times are named: never, before the event, or at it."""
    if after is None:
        return None
    fields = dict(vars(after))
    for name in ("submitted_at", "started_at", "finished_at"):
        earlier = before is not None and getattr(before, name) == fields[name]
        fields[name] = ("before" if earlier else "now") if fields[name] else "never"
    return fields


async def observe(backend: StateBackend, case: Case) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what comes of an event on a backend, and by the functions."""
    await STATES[case.state](backend, case.task)
    known = (await backend.tasks([case.task.id])).get(case.task.id)
    channel = case.task.loop_channel
    cursor = FROM_START
    for each in await backend.collect(channel, FROM_START, 0.0) if channel else ():
        cursor = each.cursor

    task = replace(case.task, worker=case.worker, attempt=case.attempt)
    answer: Any
    try:
        answer = await case.event.on_backend(backend, task)
    except (NoRecordError, NotPutBackYetError) as error:
        answer = type(error)
    after = (await backend.tasks([task.id])).get(task.id)
    sent = await backend.collect(channel, cursor, 0.0) if channel else []
    posted = [each.body for each in sent]
    found = {"record": without_times(after, known), "answer": answer, "posted": posted}
    try:
        after, answer = case.event.on_record(known, task)
    except (NoRecordError, NotPutBackYetError) as error:
        after, answer = known, type(error)
    posted = []
    if after is not None and after.loop_channel and transitions.has_ended(known, after):
        posted = [end_notification(after, after.state)]
    wanted = {"record": without_times(after, known), "answer": answer, "posted": posted}
    return found, wanted


@pytest.mark.parametrize("broker_kind", ALL_WITH_STATES, indirect=True)
async def test_every_event_in_every_state_does_what_the_state_machine_says(
    settings: Settings,
) -> None:
    wrong = {}
    async with opened(settings) as backend:
        for case in cases():
            found, wanted = await observe(backend, case)
            if found != wanted:
                wrong[case.name] = (found, wanted)
    assert wrong == {}


# -- the functions by themselves -------------------------------------------------------------------

WAITING = Task("t", "execute", "q", "run", "step", submitted_at=1.0)
STARTED = replace(WAITING, state=TaskState.STARTED, worker=OWNER, started_at=2.0)


def test_a_task_starts_once_and_what_has_ended_stays_so() -> None:
    task = replace(WAITING, worker=OWNER, submitted_at=0.0)
    begun, refused = transitions.start(WAITING, task, 2.0)
    assert (begun, refused) == (STARTED, None)
    assert transitions.start(begun, replace(task, worker=OTHER), 3.0) == (begun, TaskState.STARTED)
    with pytest.raises(NoRecordError):
        transitions.start(None, task, 2.0, recorded=True)
    end = transitions.finish(begun, task, TaskState.SUCCESS, "", 4.0)
    assert end == replace(STARTED, state=TaskState.SUCCESS, finished_at=4.0)
    assert transitions.finish(end, task, TaskState.FAILURE, "late", 5.0) is None
    assert transitions.revoke(end, "t", "late", 5.0) is end


def test_only_the_worker_that_started_a_task_may_run_and_end_it() -> None:
    other = replace(STARTED, worker=OTHER)
    assert transitions.finish(STARTED, other, TaskState.SUCCESS, "", 3.0) is None
    each = running(STARTED)
    assert not transitions.must_stop(STARTED, each, OWNER)
    assert transitions.must_stop(STARTED, each, OTHER)
    assert transitions.must_stop(replace(STARTED, revoke_requested=True), each, OWNER)
    for state in (TaskState.SUCCESS, TaskState.FAILURE):
        ended = replace(STARTED, state=state)
        assert not transitions.must_stop(ended, each, OWNER)
        assert transitions.must_stop(ended, each, OTHER)
    assert transitions.must_stop(replace(STARTED, state=TaskState.LOST), each, OWNER)


def test_only_the_worker_that_owns_a_task_puts_it_back_once_an_attempt() -> None:
    assert transitions.put_back(WAITING, STARTED, 3.0) is None
    assert transitions.put_back(STARTED, replace(STARTED, worker=OTHER), 3.0) is None
    marked = replace(STARTED, revoke_requested=True)
    assert transitions.put_back(marked, STARTED, 3.0) is None
    waiting = transitions.put_back(STARTED, STARTED, 3.0)
    assert waiting == replace(WAITING, submitted_at=3.0, attempt=1)
    assert transitions.put_back(waiting, STARTED, 4.0) is None

    # What is late of the first attempt changes nothing: a redelivery, a heartbeat, a result.
    assert transitions.start(waiting, WAITING, 4.0) == (waiting, TaskState.STARTED)
    assert transitions.adopt(waiting, running(STARTED), OWNER, 4.0) is waiting
    assert not transitions.must_stop(waiting, running(STARTED), OWNER)
    again, refused = transitions.start(waiting, replace(WAITING, attempt=1), 4.0)
    assert (again.state, again.attempt, refused) == (TaskState.STARTED, 1, None)
    assert transitions.put_back(again, STARTED, 5.0) is None
    assert transitions.finish(again, STARTED, TaskState.LOST, "", 5.0) is None
    ended = transitions.finish(again, again, TaskState.SUCCESS, "", 5.0)
    assert ended == replace(again, state=TaskState.SUCCESS, finished_at=5.0)


def test_a_message_of_an_attempt_that_is_not_yet_recorded_is_for_later() -> None:
    early = replace(WAITING, attempt=1, worker=OTHER)
    for known in (STARTED, replace(STARTED, revoke_requested=True)):
        with pytest.raises(NotPutBackYetError, match="task t"):
            transitions.start(known, early, 3.0)
    end = transitions.finish(STARTED, STARTED, TaskState.LOST, "", 3.0)
    assert transitions.start(end, early, 4.0) == (end, TaskState.LOST)
    # A message outlives the record of its task.
    begun, refused = transitions.start(None, early, 3.0)
    assert (begun.state, begun.attempt, refused) == (TaskState.STARTED, 1, None)


def test_what_nobody_has_started_may_be_concluded_unless_a_run_waits_for_it() -> None:
    own = replace(WAITING, run_id="", step_key="")
    end = transitions.conclude(own, own, TaskState.FAILURE, "no", 3.0)
    assert end == replace(own, state=TaskState.FAILURE, error="no", finished_at=3.0)
    assert transitions.conclude(None, own, TaskState.FAILURE, "no", 3.0) is not None
    for known in (replace(STARTED, run_id=""), end, WAITING):
        assert transitions.conclude(known, own, TaskState.SUCCESS, "", 4.0) is None


def test_a_revoked_task_ends_at_once_unless_it_runs() -> None:
    gone = transitions.revoke(None, "t", "no", 3.0)
    assert (gone.state, gone.error, gone.finished_at) == (TaskState.REVOKED, "no", 3.0)
    assert transitions.revoke(WAITING, "t", "no", 3.0).state is TaskState.REVOKED
    marked = transitions.revoke(STARTED, "t", "no", 3.0)
    assert marked == replace(STARTED, revoke_requested=True, error="no")


def test_a_lost_record_comes_back_from_the_worker_that_runs_the_task() -> None:
    each = running(STARTED)
    assert transitions.adopt(None, each, OWNER, 3.0) == replace(
        STARTED, queue="", submitted_at=3.0, started_at=3.0
    )
    assert transitions.adopt(WAITING, each, OWNER, 2.0) == STARTED
    assert transitions.adopt(STARTED, each, OTHER, 3.0) is STARTED
