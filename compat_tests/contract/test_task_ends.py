"""How a user's own task ends where no worker records it: concluded by another one, or lost."""

import logging
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import anyio
import pytest
from taskiq import AsyncTaskiqTask, TaskiqResult

from compat_tests.brokers import STATES
from compat_tests.contract.test_backend import TASK as STEP
from compat_tests.contract.test_backend import opened, result_of, the, worker
from compat_tests.servers import own_redis
from compat_tests.waiting import eventually_async
from dagster_taskiq.client import client_for
from dagster_taskiq.errors import ServerUnavailableError, TaskRevokedError, WorkerLostError
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.transport import lost_workers
from dagster_taskiq.transport.backend import StateBackend
from dagster_taskiq.wire.records import Running, Task, TaskState

pytestmark = pytest.mark.anyio

TASK = Task("t", name="own", queue="q", worker="w1")


@pytest.fixture(scope="module", params=STATES)
def broker_kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def impatient(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings by which two heartbeats are over soon, and looks that are not far apart."""
    monkeypatch.setattr(lost_workers, "LOOK_SECONDS", 0.05)
    return settings.replace(heartbeat_interval=0.1)


@pytest.fixture
async def backend(impatient: Settings) -> AsyncIterator[StateBackend]:
    async with opened(impatient) as backend:
        yield backend


@pytest.fixture
async def other(impatient: Settings) -> AsyncIterator[StateBackend]:
    async with opened(impatient) as backend:
        yield backend


def by_nobody(value: Any = None, error: BaseException | None = None) -> TaskiqResult[Any]:
    """Return a result that names no worker, as a pipeline makes it."""
    result = result_of(value, error)
    result.labels = {}
    return result


async def wait_for(backend: StateBackend, task_id: str = "t") -> TaskiqResult[Any]:
    return await AsyncTaskiqTask[Any](task_id, backend).wait_result(check_interval=0.05, timeout=60)


# -- concluded -------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_recorded", [True, False])
async def test_a_task_that_nobody_has_started_ends_with_what_is_set_as_its_result(
    backend: StateBackend, other: StateBackend, is_recorded: bool
) -> None:
    if is_recorded:
        await backend.submitted([replace(TASK, worker="")])
    await backend.set_result("t", by_nobody(error=LookupError("the step before has failed")))
    result = await wait_for(other)
    assert isinstance(result.error, LookupError)
    known = await the(other)
    assert (known.state, known.worker) == (TaskState.FAILURE, "")
    assert "the step before" in known.error
    # A message of it comes too late, and so does another result.
    assert await other.start(TASK) is TaskState.FAILURE
    await other.set_result("t", by_nobody("late"))
    assert isinstance((await wait_for(backend)).error, LookupError)


async def test_only_its_worker_sets_the_result_of_what_runs(
    backend: StateBackend, caplog: pytest.LogCaptureFixture
) -> None:
    assert await backend.start(TASK) is None
    await backend.submitted([replace(STEP, id="step")])
    with caplog.at_level(logging.WARNING, "dagster_taskiq.backend"):
        for task_id in ("t", "step"):
            await backend.set_result(task_id, by_nobody("from elsewhere"))
            assert f"Dropped a result of task {task_id} " in caplog.text
    assert (await the(backend)).state is TaskState.STARTED
    assert (await the(backend, "step")).state is TaskState.WAITING
    await backend.set_result("t", result_of("its own"))
    assert (await wait_for(backend)).return_value == "its own"


async def test_who_is_no_worker_is_told_when_a_result_cannot_be_stored() -> None:
    with own_redis() as server:
        async with opened(Settings(broker=server.url)) as backend:
            await backend.ping()
            server.stop()
            with pytest.raises(ServerUnavailableError):
                await backend.set_result("t", by_nobody(1))


# -- lost ------------------------------------------------------------------------------------------


async def test_who_waits_for_a_task_of_a_lost_worker_learns_that_it_is_lost(
    backend: StateBackend, other: StateBackend
) -> None:
    await backend.beat(worker("w1", lease=0.05))
    assert await backend.start(TASK) is None
    result = await wait_for(other)
    with pytest.raises(WorkerLostError, match=r"name of w1.*silent for"):
        result.raise_for_error()
    assert (await the(backend)).state is TaskState.LOST
    # What the worker says later does not count.
    assert not await backend.finish(TASK, TaskState.SUCCESS, "", None)


async def test_the_tasks_of_a_lost_worker_and_their_pipelines_end_without_a_waiter(
    backend: StateBackend, other: StateBackend
) -> None:
    row = Running("t", "own", "", "", 1, 0.0, last="last")
    assert await backend.start(TASK) is None
    await backend.beat(replace(worker("w1", lease=0.05), running=(row,)))

    async def is_lost() -> bool:
        await other.end_reported_by_lost()
        return (await the(backend)).state is TaskState.LOST

    await eventually_async(is_lost)
    with pytest.raises(WorkerLostError, match=r"Step t of its pipeline is lost.*silent for"):
        (await wait_for(backend, "last")).raise_for_error()


async def test_who_waits_for_a_task_of_a_worker_that_has_ended_learns_that_it_is_lost(
    backend: StateBackend,
) -> None:
    assert await backend.start(TASK) is None
    with pytest.raises(WorkerLostError, match="w1, which ran it, has ended"):
        (await wait_for(backend)).raise_for_error()


async def test_the_task_of_a_worker_that_beats_again_in_time_is_not_lost(
    backend: StateBackend, other: StateBackend
) -> None:
    await backend.beat(worker("w1", lease=0.05))
    assert await backend.start(TASK) is None

    async def seems_lost() -> bool:
        return (await other.workers())[0].is_lost

    await eventually_async(seems_lost)
    assert not await other.is_result_ready("t")
    await backend.beat(worker("w1"))
    for _ in range(8):
        await anyio.sleep(0.06)
        assert not await other.is_result_ready("t")
    await backend.set_result("t", result_of("alive"))
    assert (await wait_for(other)).return_value == "alive"


async def test_the_tasks_of_runs_are_left_to_the_loops_of_their_runs(
    backend: StateBackend,
) -> None:
    assert await backend.start(replace(STEP, id="step")) is None
    assert await backend.start(TASK) is None
    assert not await backend.is_result_ready("step")
    assert (await wait_for(backend)).is_err
    await backend.end_lost(["step"])
    assert not await backend.is_result_ready("step")
    assert (await the(backend, "step")).state is TaskState.STARTED


async def test_who_waits_for_a_task_that_was_revoked_on_a_lost_worker_learns_that(
    backend: StateBackend,
) -> None:
    assert await backend.start(TASK) is None
    assert await backend.revoke(["t"], "no longer wanted") == {"t": "w1"}
    with pytest.raises(TaskRevokedError, match="no longer wanted"):
        (await wait_for(backend)).raise_for_error()


def test_to_cancel_a_task_of_a_lost_worker_ends_it(impatient: Settings) -> None:
    client = client_for(impatient)
    client._call(lambda: client.backend.start(TASK))
    client._call(lambda: client.backend.start(replace(TASK, id="alive", worker="w2")))
    client._call(lambda: client.backend.start(replace(STEP, id="step")))
    client._call(lambda: client.backend.beat(worker("w2")))
    client.revoke(["t", "alive", "step"], "no longer wanted")
    known = client.tasks(["t", "alive", "step"])
    assert known["t"].state is TaskState.REVOKED
    assert known["alive"].state is known["step"].state is TaskState.STARTED
    assert known["alive"].revoke_requested


# -- errors ----------------------------------------------------------------------------------------


class OwnError(Exception):
    """An error as users write them: its constructor takes what the exception does not keep."""

    made = 0

    def __init__(self, code: int, *, where: str) -> None:
        super().__init__(f"code {code} in {where}")
        self.code = code
        OwnError.made += 1


@pytest.fixture
def unloaded(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of this module, while it counts as not loaded."""
    name = __name__
    module = sys.modules[name]
    monkeypatch.delitem(sys.modules, name)
    yield name
    sys.modules[name] = module


async def test_an_error_of_a_users_own_comes_back_as_it_was(
    backend: StateBackend, other: StateBackend
) -> None:
    assert await backend.start(TASK) is None
    error = OwnError(7, where="here")
    error.__cause__ = KeyError("what")
    await backend.set_result("t", result_of(error=error))
    made = OwnError.made
    found = (await wait_for(other)).error
    assert type(found) is OwnError
    assert (str(found), found.args, found.code) == (str(error), error.args, 7)
    assert isinstance(found.__cause__, KeyError)
    assert OwnError.made == made


async def test_a_process_that_does_not_have_its_class_gets_one_of_that_name(
    backend: StateBackend, unloaded: str
) -> None:
    assert await backend.start(TASK) is None
    await backend.set_result("t", result_of(error=OwnError(7, where="there")))
    found = (await wait_for(backend)).error
    assert (type(found).__name__, type(found).__module__) == ("OwnError", unloaded)
    assert str(found) == "code 7 in there"
    assert unloaded not in sys.modules
