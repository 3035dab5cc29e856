"""What every backend promises, tried on each of them."""

import asyncio
import contextlib
import json
import logging
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis
from taskiq import AsyncTaskiqTask, TaskiqResult
from taskiq.depends.progress_tracker import TaskProgress
from taskiq.depends.progress_tracker import TaskState as ProgressState
from taskiq.exceptions import ResultGetError, TaskiqResultTimeoutError

from compat_tests.brokers import STATES
from compat_tests.conftest import other_prefix
from compat_tests.servers import RedisServer, own_redis
from compat_tests.waiting import eventually_async
from dagster_taskiq.client import client_for
from dagster_taskiq.errors import (
    NoRecordError,
    ServerUnavailableError,
    TaskFailedError,
    TaskRevokedError,
    WorkerLostError,
)
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.transport.backend import StateBackend
from dagster_taskiq.transport.registry import make_backend
from dagster_taskiq.transport.results import as_json
from dagster_taskiq.wire.labels import ATTEMPT_LABEL, RUN_LABEL, STEP_LABEL, WORKER_LABEL
from dagster_taskiq.wire.notifications import FROM_START, run_channel, worker_channel
from dagster_taskiq.wire.records import Running, Task, TaskState, Worker
from dagster_taskiq.wire.task_counts import EndedTask, Outcome, TaskCounts
from dagster_taskiq.wire.task_request import TaskRequest

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module", params=STATES)
def broker_kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[StateBackend]:
    """Open a backend with a connection of its own, as another process would."""
    backend = make_backend(settings)
    backend.home.use_running_loop()
    await backend.startup()
    try:
        yield backend
    finally:
        await backend.shutdown()


@pytest.fixture
async def backend(settings: Settings) -> AsyncIterator[StateBackend]:
    async with opened(settings) as backend:
        yield backend


@pytest.fixture
async def other(settings: Settings) -> AsyncIterator[StateBackend]:
    async with opened(settings) as backend:
        yield backend


@pytest.fixture
async def crowd(settings: Settings) -> AsyncIterator[list[StateBackend]]:
    """Several connections, for those who race."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(opened(settings)) for _ in range(4)]


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    with own_redis() as server:
        yield server


TASK = Task("t", name="execute_plan", queue="q", run_id="run", step_key="step", worker="w1")


def result_of(
    value: Any = None, error: BaseException | None = None, **labels: str
) -> TaskiqResult[Any]:
    labels = {WORKER_LABEL: "w1", **labels}
    failed = error is not None
    return TaskiqResult(
        is_err=failed, return_value=value, execution_time=0.5, labels=labels, error=error
    )


def json_of(value: Any) -> bytes:
    return as_json(result_of(value))[1]


def worker(name: str = "w1", *running: str, lease: float = 3600.0) -> Worker:
    return Worker(
        id=name,
        name=f"name of {name}",
        host="host",
        pid=1,
        queues=("q", "p"),
        concurrency=2,
        version="1",
        lease=lease,
        running=tuple(Running(each, "execute_plan", "run", "step", 7, 1.5) for each in running),
        uptime=3.0,
    )


async def the(backend: StateBackend, task_id: str = "t") -> Task:
    return (await backend.tasks([task_id]))[task_id]


async def started(backend: StateBackend, task: Task = TASK) -> Task:
    await backend.submitted([task])
    assert await backend.start(task) is None
    return task


async def ends_posted(backend: StateBackend, run_id: str = "run") -> list[dict[str, Any]]:
    found = await backend.collect(run_channel(run_id), FROM_START, 0)
    return [each.body for each in found]


# -- the life of a task ----------------------------------------------------------------------


async def test_a_submitted_task_waits_and_is_known_to_others(
    backend: StateBackend, other: StateBackend
) -> None:
    await backend.submitted([TASK])
    known = await the(other)
    assert known.state is TaskState.WAITING
    assert (known.name, known.queue) == ("execute_plan", "q")
    assert (known.run_id, known.step_key) == ("run", "step")
    assert known.submitted_at > 0
    assert not known.state.is_final


async def test_a_task_nobody_has_heard_of_is_left_out(backend: StateBackend) -> None:
    await backend.submitted([TASK])
    assert list(await backend.tasks(["unknown", "t"])) == ["t"]
    assert await backend.tasks([]) == {}


async def test_submitting_again_changes_nothing(backend: StateBackend) -> None:
    await started(backend)
    await backend.submitted([TASK])
    assert (await the(backend)).state is TaskState.STARTED
    await backend.finish(TASK, TaskState.SUCCESS, "", None)
    await backend.submitted([TASK, replace(TASK, id="new")])
    assert (await the(backend)).state is TaskState.SUCCESS
    assert (await the(backend, "new")).state is TaskState.WAITING


async def test_hundreds_of_tasks_are_recorded_and_read_at_once(backend: StateBackend) -> None:
    tasks = [replace(TASK, id=f"t{number}") for number in range(1200)]
    await backend.submitted(tasks)
    known = await backend.tasks([task.id for task in tasks])
    assert {task.state for task in known.values()} == {TaskState.WAITING}
    assert len(known) == 1200


async def test_a_task_starts_and_ends_once_in_order_of_time(backend: StateBackend) -> None:
    await backend.submitted([TASK])
    assert await backend.start(TASK) is None
    running = await the(backend)
    assert (running.state, running.worker) == (TaskState.STARTED, "w1")
    assert await backend.finish(TASK, TaskState.FAILURE, "it broke", None)
    ended = await the(backend)
    assert (ended.state, ended.error) == (TaskState.FAILURE, "it broke")
    assert ended.submitted_at <= ended.started_at <= ended.finished_at
    assert ended.state.is_final


async def test_a_task_that_was_not_recorded_may_start(backend: StateBackend) -> None:
    assert await backend.start(TASK) is None
    known = await the(backend)
    assert (known.state, known.worker, known.step_key) == (TaskState.STARTED, "w1", "step")
    assert await backend.start(replace(TASK, worker="w2")) is TaskState.STARTED


async def test_a_task_that_has_to_be_recorded_and_is_not_does_not_start(
    backend: StateBackend,
) -> None:
    with pytest.raises(NoRecordError, match="task t"):
        await backend.start(TASK, recorded=True)
    assert await backend.tasks(["t"]) == {}
    await backend.submitted([TASK])
    assert await backend.start(TASK, recorded=True) is None
    assert await backend.start(replace(TASK, worker="w2"), recorded=True) is TaskState.STARTED


@pytest.mark.parametrize("recorded", [True, False])
async def test_of_many_who_start_a_task_at_once_one_succeeds(
    crowd: list[StateBackend], recorded: bool
) -> None:
    for round_ in range(5):
        task = replace(TASK, id=f"t{round_}")
        if recorded:
            await crowd[0].submitted([task])
        names = [f"w{number}" for number in range(12)]
        outcomes = await asyncio.gather(
            *(
                crowd[number % len(crowd)].start(replace(task, worker=name))
                for number, name in enumerate(names)
            )
        )
        assert outcomes.count(None) == 1
        assert outcomes.count(TaskState.STARTED) == len(names) - 1
        winner = names[outcomes.index(None)]
        assert (await the(crowd[0], task.id)).worker == winner


@pytest.mark.parametrize(
    "final", [TaskState.SUCCESS, TaskState.FAILURE, TaskState.REVOKED, TaskState.LOST]
)
async def test_a_task_that_has_ended_never_starts_again(
    backend: StateBackend, final: TaskState
) -> None:
    await started(backend)
    assert await backend.finish(TASK, final, "", None)
    assert await backend.start(replace(TASK, worker="w2")) is final
    assert not await backend.finish(TASK, TaskState.SUCCESS, "", None)
    assert (await the(backend)).state is final


async def test_a_task_is_ended_by_its_own_worker_only(backend: StateBackend) -> None:
    await started(backend)
    thief = replace(TASK, worker="w2")
    assert not await backend.finish(thief, TaskState.SUCCESS, "", json_of("stolen"))
    assert (await the(backend)).state is TaskState.STARTED
    # Nothing of it may be seen: neither now, nor after the task has ended.
    assert await backend.load_result("t") is None
    assert await backend.finish(TASK, TaskState.FAILURE, "mine", None)
    assert await backend.load_result("t") is None
    assert await ends_posted(backend) == [{"task": "t", "state": "FAILURE"}]


async def test_a_task_that_never_started_cannot_end(backend: StateBackend) -> None:
    assert not await backend.finish(TASK, TaskState.SUCCESS, "", json_of(1))
    await backend.submitted([TASK])
    assert not await backend.finish(TASK, TaskState.SUCCESS, "", json_of(1))
    assert (await the(backend)).state is TaskState.WAITING
    assert await backend.load_result("t") is None


async def test_the_end_of_a_task_is_posted_to_its_run_and_to_no_other(
    backend: StateBackend,
) -> None:
    await started(backend)
    await started(backend, Task("alone", worker="w1"))
    assert await backend.finish(TASK, TaskState.SUCCESS, "", None)
    assert await backend.finish(Task("alone", worker="w1"), TaskState.SUCCESS, "", None)
    assert await ends_posted(backend) == [{"task": "t", "state": "SUCCESS"}]
    assert await ends_posted(backend, "") == []


async def test_when_a_worker_ends_a_task_as_it_is_given_up_one_of_them_wins(
    backend: StateBackend, other: StateBackend
) -> None:
    for number in range(20):
        task = await started(backend, replace(TASK, id=f"t{number}", run_id=f"r{number}"))
        finished, lost = await asyncio.gather(
            backend.finish(task, TaskState.SUCCESS, "", json_of("value")),
            other.mark_lost(task, "silent for too long"),
        )
        assert finished != lost
        expected = TaskState.SUCCESS if finished else TaskState.LOST
        assert (await the(backend, task.id)).state is expected
        assert await ends_posted(backend, task.run_id) == [
            {"task": task.id, "state": expected.value}
        ]
        assert (await backend.load_result(task.id) is not None) == finished


# -- revoking --------------------------------------------------------------------------------


async def test_a_revoked_task_that_waits_never_starts(backend: StateBackend) -> None:
    await backend.submitted([TASK])
    assert await backend.revoke(["t"], "no longer wanted") == {}
    known = await the(backend)
    assert (known.state, known.error) == (TaskState.REVOKED, "no longer wanted")
    assert known.finished_at >= known.submitted_at
    assert await backend.start(TASK) is TaskState.REVOKED
    assert await ends_posted(backend) == [{"task": "t", "state": "REVOKED"}]


async def test_a_task_may_be_revoked_before_anyone_has_heard_of_it(backend: StateBackend) -> None:
    assert await backend.revoke(["t"], "too late") == {}
    await backend.submitted([TASK])
    assert await backend.start(TASK) is TaskState.REVOKED


async def test_revoking_a_running_task_names_its_worker_and_leaves_the_end_to_it(
    backend: StateBackend,
) -> None:
    await started(backend)
    await backend.submitted([replace(TASK, id="waiting")])
    assert await backend.revoke(["t", "waiting", "unknown"], "enough") == {"t": "w1"}
    known = await the(backend)
    assert known.state is TaskState.STARTED
    assert known.revoke_requested
    assert await backend.finish(TASK, TaskState.REVOKED, "enough", None)
    assert (await the(backend)).state is TaskState.REVOKED


async def test_revoking_what_has_ended_changes_nothing(backend: StateBackend) -> None:
    await started(backend)
    await backend.finish(TASK, TaskState.SUCCESS, "", json_of(5))
    assert await backend.revoke(["t"], "too late") == {}
    known = await the(backend)
    assert (known.state, known.error) == (TaskState.SUCCESS, "")
    assert (await backend.get_result("t")).return_value == 5


async def test_a_start_and_a_revoke_at_once_agree_on_the_outcome(
    backend: StateBackend, other: StateBackend
) -> None:
    for number in range(20):
        task = replace(TASK, id=f"t{number}")
        await backend.submitted([task])
        refused, running = await asyncio.gather(
            backend.start(task), other.revoke([task.id], "enough")
        )
        if refused is None:
            assert running == {task.id: "w1"}
        else:
            assert (refused, running) == (TaskState.REVOKED, {})


# -- workers ---------------------------------------------------------------------------------


async def test_a_beating_worker_is_known_as_it_described_itself(
    backend: StateBackend, other: StateBackend
) -> None:
    await backend.beat(worker("w1", "t"))
    (known,) = await other.workers()
    assert replace(known, age=0.0) == worker("w1", "t")
    assert known.age >= 0
    assert not known.is_lost


async def test_a_heartbeat_with_counts_comes_back(
    backend: StateBackend, other: StateBackend
) -> None:
    counts = TaskCounts("q", "execute_plan", 'job "ü"', 3, {Outcome.LOST: 1, Outcome.FAILED: 2})
    counts.wait.add(0.25)
    counts.run.add(100.0)
    ended = EndedTask("t", "add", "q", Outcome.REVOKED, 1.5, 2.5, error="nobody wants it")
    sent = replace(worker("w1"), memory=7, counts=[counts], ended=[ended])
    await backend.beat(sent)

    (known,) = await other.workers()
    assert known.memory == 7
    assert known.counts is not None
    assert (list(known.counts), list(known.ended)) == ([counts], [ended])


async def test_workers_are_listed_by_name_until_they_leave(backend: StateBackend) -> None:
    for name in ("w2", "w3", "w1"):
        await backend.beat(worker(name))
    assert [each.id for each in await backend.workers()] == ["w1", "w2", "w3"]
    await backend.deregister("w2")
    await backend.deregister("never there")
    assert [each.id for each in await backend.workers()] == ["w1", "w3"]


async def test_a_worker_that_falls_silent_is_lost_until_it_beats_again(
    backend: StateBackend,
) -> None:
    await backend.beat(worker("w1", lease=0.05))
    await backend.beat(worker("w2"))

    async def is_lost() -> bool:
        (first, second) = await backend.workers()
        assert not second.is_lost
        return first.is_lost

    await eventually_async(is_lost)
    await backend.beat(worker("w1"))
    assert not await is_lost()


async def test_a_beat_puts_back_what_the_worker_runs_and_the_backend_has_lost(
    backend: StateBackend,
) -> None:
    await backend.submitted([replace(TASK, id="sent-again")])
    # As after a loss of data: the one has been sent once more since, of the other nothing is known.
    assert await backend.beat(worker("w1", "sent-again", "lost")) == []
    for task_id in ("sent-again", "lost"):
        task = await the(backend, task_id)
        assert (task.state, task.worker) == (TaskState.STARTED, "w1")
        assert task.started_at > 0
        assert await backend.start(replace(task, worker="w2")) is TaskState.STARTED


async def test_a_beat_says_which_tasks_must_stop(backend: StateBackend) -> None:
    names = ("fine", "revoked", "lost", "taken")
    for name in names:
        await started(backend, replace(TASK, id=name, worker="w2" if name == "taken" else "w1"))
    await backend.revoke(["revoked"], "enough")
    await backend.mark_lost(replace(TASK, id="lost"), "silent")
    assert sorted(await backend.beat(worker("w1", *names))) == ["lost", "revoked", "taken"]
    assert await backend.beat(worker("w1", "fine")) == []


def test_a_worker_of_a_newer_version_is_read_as_far_as_it_is_understood() -> None:
    plain = json.loads(worker("w1", "t").dumps())
    plain["new"] = plain["running"][0]["new"] = "something"
    assert Worker.loads(json.dumps(plain), 0.0) == worker("w1", "t")


async def test_other_prefixes_on_the_same_server_have_other_workers_and_tasks(
    settings: Settings, backend: StateBackend
) -> None:
    if settings.broker.startswith("memory"):
        theirs = settings.replace(broker=f"{settings.broker}-other")
    else:
        theirs = settings.replace(prefix=other_prefix(settings.prefix))
    await backend.beat(worker("w1"))
    async with opened(theirs) as stranger:
        assert await stranger.workers() == []


# -- notifications --------------------------------------------------------------------------------


async def test_notifications_are_read_in_order_from_a_cursor_on(
    backend: StateBackend, other: StateBackend
) -> None:
    for number in range(5):
        await backend.post("c", {"n": number, "text": "ü\n"})
    await backend.post("another", {"n": 99})
    found = await other.collect("c", FROM_START, 0)
    assert [each.body for each in found] == [{"n": number, "text": "ü\n"} for number in range(5)]
    later = await other.collect("c", found[2].cursor, 0)
    assert [each.body["n"] for each in later] == [3, 4]
    assert await other.collect("c", found[-1].cursor, 0) == []


async def test_notifications_may_be_read_by_several_and_again(
    backend: StateBackend, other: StateBackend
) -> None:
    await backend.post("c", {"n": 1})
    assert await backend.collect("c", FROM_START, 0) == await other.collect("c", FROM_START, 0)


async def test_a_reader_that_waits_is_woken_by_the_notification(
    backend: StateBackend, other: StateBackend
) -> None:
    cursor = FROM_START
    for number in range(3):
        reading = asyncio.ensure_future(_next_notifications(other, worker_channel("w1"), cursor))
        await asyncio.sleep(0)
        await backend.post("elsewhere", {"n": -1})
        await backend.post(worker_channel("w1"), {"n": number})
        (each,) = await asyncio.wait_for(reading, 60)
        assert each.body == {"n": number}
        cursor = each.cursor


async def _next_notifications(backend: StateBackend, channel: str, cursor: str) -> list[Any]:
    while not (found := await backend.collect(channel, cursor, 60.0)):
        pass
    return found


async def test_a_wait_for_a_notification_that_does_not_come_ends(backend: StateBackend) -> None:
    assert await backend.collect("c", FROM_START, 0.05) == []
    assert await backend.collect("c", FROM_START, 0) == []


async def test_a_reader_that_is_cancelled_leaves_notifications_for_the_next(
    backend: StateBackend, other: StateBackend
) -> None:
    """Whatever it was doing at that moment."""
    for number in range(25):
        channel = f"c{number}"
        reading = asyncio.ensure_future(other.collect(channel, FROM_START, 60.0))
        await asyncio.sleep(number / 1000)
        reading.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await reading
        await backend.post(channel, {"n": number})
        found = await other.collect(channel, FROM_START, 10.0)
        assert [each.body for each in found] == [{"n": number}]


async def test_a_channel_keeps_the_last_thousand_or_so(backend: StateBackend) -> None:
    await backend.post("quiet", {"n": 0})
    for number in range(2500):
        await backend.post("busy", {"n": number})
    kept = [each.body["n"] for each in await backend.collect("busy", FROM_START, 0)]
    assert kept == list(range(2500 - len(kept), 2500))
    assert 1000 <= len(kept) < 1500
    assert len(await backend.collect("quiet", FROM_START, 0)) == 1


async def test_the_end_of_what_is_no_step_is_told_in_no_channel(backend: StateBackend) -> None:
    await started(backend, replace(TASK, id="run-task", step_key=""))
    await backend.finish(replace(TASK, id="run-task", step_key=""), TaskState.SUCCESS, "", None)
    await backend.submitted([replace(TASK, id="waiting-run", step_key="")])
    await backend.revoke(["waiting-run"], "enough")
    # Had the others been told, theirs would be before this one.
    await backend.submitted([replace(TASK, id="waiting-step")])
    await backend.revoke(["waiting-step"], "enough")
    assert [each["task"] for each in await ends_posted(backend)] == ["waiting-step"]


async def test_a_channel_that_is_closed_is_empty_and_may_be_used_again(
    backend: StateBackend, other: StateBackend
) -> None:
    await backend.post("closed", {"n": 1})
    await backend.post("open", {"n": 2})
    assert len(await other.collect("closed", FROM_START, 0)) == 1
    await other.close_channel("closed")
    await other.close_channel("closed")
    await backend.close_channel("never used")
    for each in (backend, other):
        assert await each.collect("closed", FROM_START, 0) == []
        assert [each.body for each in await each.collect("open", FROM_START, 0)] == [{"n": 2}]
    reading = asyncio.ensure_future(_next_notifications(other, "closed", FROM_START))
    await asyncio.sleep(0)
    await backend.post("closed", {"n": 3})
    assert [each.body for each in await asyncio.wait_for(reading, 60)] == [{"n": 3}]


# -- results of a user's own tasks -----------------------------------------------------------


async def store(backend: StateBackend, result: TaskiqResult[Any], task_id: str = "t") -> None:
    await backend.start(Task(task_id, worker="w1"))
    await backend.set_result(task_id, result)


@pytest.mark.parametrize(
    "value", [None, 0, 1.5, "text ü", [1, [2]], {"a": {"b": None}}, "x" * 10_000_000]
)
async def test_a_json_value_comes_back_as_it_was(
    backend: StateBackend, other: StateBackend, value: Any
) -> None:
    await store(backend, result_of(value))
    result = await other.get_result("t")
    assert (result.is_err, result.error) == (False, None)
    assert result.return_value == value
    assert result.execution_time == 0.5
    assert (await the(other)).state is TaskState.SUCCESS


async def test_an_error_comes_back_with_its_type_and_text(
    backend: StateBackend, other: StateBackend
) -> None:
    await store(backend, result_of(error=ValueError("no such number", 7)))
    result = await other.get_result("t")
    assert result.is_err
    assert isinstance(result.error, ValueError)
    assert result.error.args == ("no such number", 7)
    known = await the(other)
    assert known.state is TaskState.FAILURE
    assert "no such number" in known.error


async def test_a_value_that_is_not_json_is_a_failure_that_says_so(backend: StateBackend) -> None:
    await store(backend, result_of(object()))
    result = await backend.get_result("t")
    assert result.is_err
    assert isinstance(result.error, TypeError)
    assert "The task's return value is not JSON" in str(result.error)
    known = await the(backend)
    assert known.state is TaskState.FAILURE
    assert "The task's return value is not JSON" in known.error


async def test_the_result_of_a_step_is_not_kept_beside_the_event_log(
    backend: StateBackend,
) -> None:
    await started(backend)
    await backend.set_result("t", result_of("large", **{RUN_LABEL: "run", STEP_LABEL: "step"}))
    assert await backend.load_result("t") is None
    assert await ends_posted(backend) == [{"task": "t", "state": "SUCCESS"}]


async def test_a_result_of_someone_who_is_not_the_owner_is_dropped_with_a_word(
    backend: StateBackend, caplog: pytest.LogCaptureFixture
) -> None:
    await started(backend)
    await backend.mark_lost(TASK, "silent")
    with caplog.at_level(logging.WARNING, "dagster_taskiq.backend"):
        await backend.set_result("t", result_of("late"))
    assert "Dropped the result of task t: it is no longer this worker's." in caplog.text
    assert await backend.load_result("t") is None


async def test_the_end_of_a_step_whose_record_is_lost_is_told_to_its_run(
    backend: StateBackend,
) -> None:
    await backend.set_result("t", result_of(None, **{RUN_LABEL: "run", STEP_LABEL: "step"}))
    assert await ends_posted(backend) == [{"task": "t", "state": "SUCCESS"}]
    assert await backend.tasks(["t"]) == {}


async def test_taskiq_waits_for_a_result_on_this_backend(
    backend: StateBackend, other: StateBackend
) -> None:
    task: AsyncTaskiqTask[Any] = AsyncTaskiqTask("t", other)
    assert not await task.is_ready()
    waiting = asyncio.ensure_future(task.wait_result(check_interval=0.01, timeout=60))
    await backend.start(Task("t", worker="w1"))
    assert not await task.is_ready()
    await backend.set_result("t", result_of({"answer": 42}))
    result = await waiting
    assert result.return_value == {"answer": 42}
    assert await task.is_ready()


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        (TaskState.LOST, WorkerLostError),
        (TaskState.REVOKED, TaskRevokedError),
        (TaskState.FAILURE, TaskFailedError),
    ],
)
async def test_taskiq_gets_an_error_for_a_task_that_left_no_result(
    backend: StateBackend, state: TaskState, kind: type[Exception]
) -> None:
    await started(backend)
    await backend.finish(TASK, state, "the reason", None)
    result = await AsyncTaskiqTask[Any]("t", backend).wait_result(timeout=60)
    with pytest.raises(kind, match="the reason"):
        result.raise_for_error()


async def test_taskiq_times_out_on_a_task_that_does_not_end(backend: StateBackend) -> None:
    await started(backend)
    with pytest.raises(TaskiqResultTimeoutError):
        await AsyncTaskiqTask[Any]("t", backend).wait_result(check_interval=0.01, timeout=0.05)
    with pytest.raises(ResultGetError):
        await backend.get_result("t")
    with pytest.raises(ResultGetError):
        await backend.get_result("unknown")


# -- the progress of a user's own tasks ------------------------------------------------------


async def test_progress_is_read_by_others_until_its_task_is_forgotten(
    backend: StateBackend, other: StateBackend
) -> None:
    task = Task("t", worker="w1")
    assert await backend.start(task) is None
    assert await other.get_progress("t") is None
    for meta in ({"done": 1}, [2, "ü"], None):
        await backend.set_progress("t", TaskProgress(state=ProgressState.STARTED, meta=meta))
        found = await AsyncTaskiqTask[Any]("t", other).get_progress()
        assert found is not None
        assert (found.state, found.meta) == (ProgressState.STARTED, meta)
        assert isinstance(found.state, ProgressState)
    await backend.set_progress("t", TaskProgress(state="halfway", meta="x" * 1_000_000))
    assert await backend.put_back(task, None)
    assert await backend.start(replace(task, attempt=1)) is None
    await backend.set_result("t", result_of(1, **{ATTEMPT_LABEL: "1"}))
    kept = await other.get_progress("t")
    assert kept is not None
    assert (kept.state, kept.meta) == ("halfway", "x" * 1_000_000)
    await other.forget(["t"])
    assert await backend.get_progress("t") is None
    assert await backend.start(task) is None
    assert await backend.get_progress("t") is None


async def test_progress_of_what_is_unknown_is_not_kept(backend: StateBackend) -> None:
    await backend.set_progress("unknown", TaskProgress(state="halfway", meta=1))
    assert await backend.get_progress("unknown") is None
    assert await backend.tasks(["unknown"]) == {}


async def test_progress_that_is_not_json_is_refused(backend: StateBackend) -> None:
    with pytest.raises(TypeError, match="progress of task t is not JSON"):
        await backend.set_progress("t", TaskProgress(state="halfway", meta=object()))


# -- what becomes of it ----------------------------------------------------------------------


async def test_what_has_ended_is_forgotten_with_its_result_and_the_rest_stays(
    backend: StateBackend, other: StateBackend
) -> None:
    await store(backend, result_of("value"), "done")
    await store(backend, result_of(error=LookupError("x")), "failed")
    await backend.revoke(["revoked"], "enough")
    lost = await started(backend, replace(TASK, id="lost"))
    await backend.mark_lost(lost, "its worker is gone")
    await store(backend, result_of("kept"), "kept")
    await started(backend, replace(TASK, id="running"))
    await backend.submitted([replace(TASK, id="waiting")])
    everything = ["done", "failed", "revoked", "lost", "running", "waiting"]
    await other.forget([*everything, "unknown"])
    await other.forget([])
    left = await backend.tasks([*everything, "kept"])
    assert sorted(left) == ["kept", "running", "waiting"]
    assert (left["running"].state, left["running"].worker) == (TaskState.STARTED, "w1")
    assert left["waiting"].state is TaskState.WAITING
    assert await backend.load_result("done") is None
    assert not await backend.is_result_ready("done")
    assert (await backend.get_result("kept")).return_value == "kept"
    # Its own end is recorded as if nobody had asked to forget it.
    assert await backend.finish(replace(TASK, id="running"), TaskState.SUCCESS, "", None)


async def test_what_was_forgotten_may_be_done_anew_without_its_former_result(
    backend: StateBackend,
) -> None:
    await store(backend, result_of("first"), "t")
    await backend.forget(["t"])
    await started(backend, replace(TASK, run_id="", step_key=""))
    await backend.finish(TASK, TaskState.FAILURE, "it broke", None)
    assert await backend.load_result("t") is None
    await backend.forget(["t"])
    await store(backend, result_of("second"), "t")
    assert (await backend.get_result("t")).return_value == "second"


async def test_hundreds_of_tasks_are_forgotten_at_once(backend: StateBackend) -> None:
    ids = [f"t{number}" for number in range(1200)]
    await backend.revoke(ids, "enough")
    await backend.forget(ids)
    assert await backend.tasks(ids) == {}


def test_a_caller_that_is_not_async_reads_and_forgets_the_result_of_a_task(
    settings: Settings,
) -> None:
    client = client_for(settings)
    for task_id in ("t", "failing", "unwanted"):
        client.submit(TaskRequest(task_id, "some_task", {}, "q"))
    assert client.result("t") is None
    assert client.result("unknown") is None

    def end(task_id: str, result: TaskiqResult[Any]) -> None:
        client._call(lambda: client.backend.start(Task(task_id, worker="w1")))
        assert client.result(task_id) is None
        client._call(lambda: client.backend.set_result(task_id, result))

    end("t", result_of({"answer": 42}))
    end("failing", result_of(error=LookupError("not there")))
    client.revoke(["unwanted"], "nobody wants it")
    answered, failed, revoked = map(client.result, ("t", "failing", "unwanted"))
    assert answered is not None
    assert answered.return_value == {"answer": 42}
    assert failed is not None
    assert isinstance(failed.error, LookupError)
    assert revoked is not None
    assert isinstance(revoked.error, TaskRevokedError)
    client.forget(["t", "unwanted"])
    assert client.result("t") is None
    assert sorted(client.tasks(["t", "failing", "unwanted"])) == ["failing"]


async def test_a_result_that_is_gone_is_no_result_of_none(settings: Settings) -> None:
    async with opened(settings) as backend:
        for task in (Task("user's", worker="w1"), TASK):
            await started(backend, task)
            assert await backend.finish(task, TaskState.SUCCESS, "", None)
        result = await backend.get_result("user's")
        assert result.is_err
        assert "is not there any more" in str(result.error)
        assert not (await backend.get_result(TASK.id)).is_err  # a step never has one


@pytest.mark.parametrize(
    "broker_kind", ["embedded", "redis", "postgresql", "memory"], indirect=True
)
async def test_what_has_expired_is_swept_and_what_has_not_ended_stays(
    settings: Settings,
) -> None:
    async with opened(settings.replace(result_ttl=0.001)) as backend:
        await store(backend, result_of("old"), "old")
        await backend.submitted([replace(TASK, id="waiting")])
        await started(backend)

        async def swept() -> bool:
            await backend.sweep()
            return list(await backend.tasks(["old", "t", "waiting"])) == ["t", "waiting"]

        await eventually_async(swept)
        assert await backend.load_result("old") is None
    async with opened(settings) as backend:
        await store(backend, result_of("young"), "young")
        await backend.sweep()
        assert (await backend.get_result("young")).return_value == "young"


async def test_a_task_that_never_ends_leaves_the_file_a_month_after_its_last_sign(
    tmp_path: Path,
) -> None:
    file = tmp_path / "queue.db"
    async with opened(Settings(broker=f"sqlite:///{file}")) as backend:
        sent = replace(TASK, worker="")
        await backend.submitted([replace(sent, id="waiting"), replace(sent, id="young")])
        await started(backend, replace(TASK, id="abandoned", worker="killed"))
        await started(backend, replace(TASK, id="running", worker="w1"))
        await backend.beat(worker("w1", "running"))
        with contextlib.closing(sqlite3.connect(file)) as connection, connection:
            connection.execute(
                "UPDATE dagster_taskiq_tasks SET submitted_at = 1, started_at = min(started_at, 1)"
                " WHERE id <> 'young'"
            )
        await backend.sweep()
        left = await backend.tasks(["waiting", "young", "abandoned", "running"])
        assert sorted(left) == ["running", "young"]


async def test_on_redis_nothing_expires_that_says_whether_a_task_may_start(
    redis_server: RedisServer,
) -> None:
    """A server that evicts deletes what has an expiry; all else is swept when its time has come."""
    client = redis.Redis.from_url(redis_server.url)
    async with opened(Settings(broker=redis_server.url, result_ttl=100)) as backend:
        await backend.submitted([replace(TASK, id="waiting")])
        await started(backend, replace(TASK, id="running"))
        await store(backend, result_of("value"), "done")
        await backend.revoke(["revoked", "running"], "enough")
        await started(backend)
        await backend.finish(TASK, TaskState.SUCCESS, "", None)
        await backend.post("c", {"n": 1})
        await backend.beat(worker("w1", "running", "unheard-of"))
        left = {key.decode(): client.ttl(key) for key in client.keys("*")}
        assert {name.split(":")[1] for name, ttl in left.items() if ttl >= 0} == {"notifications"}
        now = client.time()[0]
        times = client.zrange("dagster-taskiq:forget-tasks-at", 0, -1, withscores=True)
        keeps = {name.decode(): at - now for name, at in times}
        for name in ("done", "revoked", "t"):
            assert 0 < keeps.pop(name) <= 101
        assert sorted(keeps) == ["running", "unheard-of", "waiting"]
        assert min(keeps.values()) > 86400
        # What is forgotten by hand, or swept, leaves nothing behind.
        await backend.forget(["done"])
        for name in keeps:
            client.zadd("dagster-taskiq:forget-tasks-at", {name: 1})
        await backend.sweep()
        assert sorted(await backend.tasks(["done", "revoked", "t", *keeps])) == ["revoked", "t"]
        assert await backend.load_result("done") is None
        left_times = client.zrange("dagster-taskiq:forget-tasks-at", 0, -1)
        assert sorted(left_times) == [b"revoked", b"t"]


async def test_a_redis_that_lost_its_data_learns_from_the_next_beat_what_runs(
    redis_server: RedisServer,
) -> None:
    async with opened(Settings(broker=redis_server.url)) as backend:
        await started(backend)
        await backend.beat(worker("w1", "t"))
        redis.Redis.from_url(redis_server.url).flushall()
        assert await backend.tasks(["t"]) == {}
        assert await backend.beat(worker("w1", "t")) == []
        assert [each.id for each in await backend.workers()] == ["w1"]
        known = await the(backend)
        assert (known.state, known.worker) == (TaskState.STARTED, "w1")
        assert (known.name, known.run_id, known.step_key) == ("execute_plan", "run", "step")
        assert await backend.start(replace(TASK, worker="w2")) is TaskState.STARTED
        assert await backend.finish(TASK, TaskState.SUCCESS, "", None)
        assert await ends_posted(backend) == [{"task": "t", "state": "SUCCESS"}]


async def test_the_end_of_a_task_is_recorded_however_long_redis_is_away(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(Settings(broker=redis_server.url)) as backend:
        await backend.start(Task("t", worker="w1"))
        redis_server.stop()
        storing = asyncio.ensure_future(backend.set_result("t", result_of("value")))
        await eventually_async(lambda: _says("Cannot store the end of task t", caplog))
        redis_server.start()
        await storing
        assert (await backend.get_result("t")).return_value == "value"


async def _says(text: str, caplog: pytest.LogCaptureFixture) -> bool:
    return text in caplog.text


async def test_a_reader_sees_a_restart_of_redis_as_a_lost_connection(
    redis_server: RedisServer,
) -> None:
    async with opened(Settings(broker=redis_server.url)) as backend:
        reading = asyncio.ensure_future(_next_notifications(backend, "c", FROM_START))
        await asyncio.sleep(0)
        redis_server.stop()
        with pytest.raises(ServerUnavailableError):
            await reading
        redis_server.start()
        await backend.post("c", {"n": 1})
        assert [each.body for each in await backend.collect("c", FROM_START, 0)] == [{"n": 1}]


async def test_the_embedded_state_outlives_those_who_opened_it(tmp_path: Path) -> None:
    settings = Settings(broker=f"sqlite:///{tmp_path / 'queue.db'}")
    async with opened(settings) as backend:
        await started(backend)
        await store(backend, result_of([1, 2]), "done")
        await backend.post("c", {"n": 1})
        await backend.beat(worker("w1"))
    async with opened(settings) as backend:
        assert (await the(backend)).state is TaskState.STARTED
        assert (await backend.get_result("done")).return_value == [1, 2]
        assert [each.id for each in await backend.workers()] == ["w1"]
        assert len(await backend.collect("c", FROM_START, 0)) == 1
