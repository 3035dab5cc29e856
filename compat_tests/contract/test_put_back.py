"""A task that its worker puts back, on every broker, and with records on another server than it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import pytest

from compat_tests.brokers import CONTRACT, Limit, has_limit
from compat_tests.contract.test_backend import opened as opened_backend
from compat_tests.contract.test_backend import the, worker
from compat_tests.contract.test_broker import (
    body_of,
    claim,
    claim_again,
    ids,
    on_rabbitmq,
    running,
)
from compat_tests.contract.test_delays import forget_delays
from compat_tests.waiting import eventually_async
from dagster_taskiq.errors import NotPutBackYetError, ServerUnavailableError
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.transport.backend import StateBackend
from dagster_taskiq.transport.broker import QueueBroker
from dagster_taskiq.transport.messages import Outgoing
from dagster_taskiq.transport.put_back import put_back
from dagster_taskiq.transport.registry import make
from dagster_taskiq.wire.labels import ATTEMPT_LABEL, attempt_of
from dagster_taskiq.wire.records import Task, TaskState

pytestmark = pytest.mark.anyio

#: Longer than any test.
LONG = 3600.0

TASK = Task("t", name="own", queue="q", worker="w1")
#: The second attempt, as another worker would start it.
SECOND = replace(TASK, worker="w2", attempt=1)


@pytest.fixture(scope="module", params=CONTRACT)
def broker_kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[tuple[QueueBroker, StateBackend]]:
    broker = make(settings.replace(lease=LONG, heartbeat_interval=LONG / 4))
    broker.queues = ("q",)
    backend = broker.result_backend
    assert isinstance(backend, StateBackend)
    async with running(broker):
        yield broker, backend


@pytest.fixture(
    params=[
        "records there",
        pytest.param(
            "records elsewhere",
            marks=pytest.mark.test_all("RabbitMQ, where the message is sent before the record too"),
        ),
    ]
)
async def both(
    settings: Settings, request: pytest.FixtureRequest
) -> AsyncIterator[tuple[QueueBroker, StateBackend]]:
    """A broker, and a backend on the same server or on another one."""
    if request.param == "records elsewhere":
        settings = settings.replace(backend=f"memory://{settings.prefix}-elsewhere")
    async with opened(settings) as both:
        yield both


@pytest.fixture
def broker(both: tuple[QueueBroker, StateBackend]) -> QueueBroker:
    return both[0]


@pytest.fixture
def backend(both: tuple[QueueBroker, StateBackend]) -> StateBackend:
    return both[1]


@pytest.fixture
async def delays(settings: Settings) -> AsyncIterator[None]:
    yield
    if on_rabbitmq(settings):
        await forget_delays(settings)


def message(delay: float = 0.0, priority: int = 0) -> Outgoing:
    return Outgoing("t", "q", priority, body_of("t", **{ATTEMPT_LABEL: 1}), delay)


async def waiting_in_queue(broker: QueueBroker) -> int:
    return sum(row.waiting for row in await broker.depths())


async def test_a_task_that_is_put_back_is_claimed_once_and_started_again(
    broker: QueueBroker, backend: StateBackend
) -> None:
    assert await backend.start(TASK) is None
    assert await put_back(broker, backend, TASK, message())
    known = await the(backend)
    assert (known.state, known.attempt, known.worker) == (TaskState.WAITING, 1, "")
    assert (known.name, known.started_at) == ("own", 0.0)

    delivery = await claim_again(broker)
    assert attempt_of(broker.formatter.loads(delivery.body).labels) == 1
    assert await broker.claim() is None
    assert await backend.start(SECOND) is None
    await broker.acknowledge(delivery)
    # Redeliveries of either attempt are dropped.
    assert await backend.start(replace(TASK, worker="w3")) is TaskState.STARTED
    assert await backend.start(replace(SECOND, worker="w3")) is TaskState.STARTED
    assert not await backend.finish(TASK, TaskState.SUCCESS, "", None)
    assert await backend.finish(SECOND, TaskState.SUCCESS, "", None)


async def test_a_task_may_be_put_back_many_times(
    broker: QueueBroker, backend: StateBackend
) -> None:
    for attempt in range(5):
        task = replace(TASK, attempt=attempt)
        assert await backend.start(task) is None
        assert await put_back(broker, backend, task, message())
        await broker.acknowledge(await claim_again(broker))
    assert (await the(backend)).attempt == 5


@pytest.mark.usefixtures("delays")
async def test_it_comes_back_with_its_priority_and_not_before_its_delay(
    broker: QueueBroker, backend: StateBackend
) -> None:
    await broker.put("low", "q", -1, body_of("low"))
    await broker.put("high", "q", 1, body_of("high"))
    assert await backend.start(TASK) is None
    assert await put_back(broker, backend, TASK, message())
    assert await ids(broker) == ["high", "t", "low"]

    assert await backend.start(SECOND) is None
    assert await put_back(broker, backend, SECOND, message(delay=LONG))
    assert await broker.claim() is None
    assert await waiting_in_queue(broker) >= 1
    third = replace(SECOND, attempt=2)
    assert await backend.start(third) is None
    assert await put_back(broker, backend, third, message(delay=0.25))
    assert (await claim_again(broker)).task_id == "t"


@pytest.mark.parametrize("fault", ["another worker", "another attempt", "revoked", "ended"])
async def test_a_worker_that_does_not_own_a_task_sends_nothing(
    broker: QueueBroker, backend: StateBackend, fault: str
) -> None:
    assert await backend.start(TASK) is None
    task = TASK
    if fault == "another worker":
        task = replace(TASK, worker="thief")
    elif fault == "another attempt":
        task = replace(TASK, attempt=1)
    elif fault == "revoked":
        await backend.revoke(["t"], "no longer wanted")
    else:
        await backend.mark_lost(TASK, "silent")
    before = await the(backend)
    assert not await put_back(broker, backend, task, message())
    assert await the(backend) == before
    if has_limit(broker.settings, Limit.DISCARD):
        # What was sent before the record was asked is there, and starts nothing.
        await claim(broker)
        with suppress(NotPutBackYetError):
            assert await backend.start(SECOND) is not None
    assert await broker.claim() is None


async def test_a_worker_whose_answer_was_lost_learns_that_the_task_waits(
    broker: QueueBroker, backend: StateBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await backend.start(TASK) is None
    record = backend.put_back
    answers_lost = 1

    async def lose_an_answer(task: Task, sent: Outgoing | None) -> bool:
        nonlocal answers_lost
        done = await record(task, sent)
        if answers_lost:
            answers_lost -= 1
            raise ServerUnavailableError("the answer is lost")
        return done

    monkeypatch.setattr(backend, "put_back", lose_an_answer)
    assert await put_back(broker, backend, TASK, message())
    await claim(broker)
    assert await broker.claim() is None


async def test_who_claims_the_message_too_early_is_told_to_come_again(
    broker: QueueBroker, backend: StateBackend
) -> None:
    assert await backend.start(TASK) is None
    for early in (SECOND, replace(SECOND, worker="w1")):
        before = await the(backend)
        with pytest.raises(NotPutBackYetError, match="task t"):
            await backend.start(early)
        assert await the(backend) == before
    assert await backend.put_back(TASK, None)
    assert await backend.start(SECOND) is None


async def test_if_the_worker_dies_before_the_record_the_early_message_is_dropped(
    broker: QueueBroker, backend: StateBackend
) -> None:
    assert await backend.start(TASK) is None
    await broker.put_all([message()])
    with pytest.raises(NotPutBackYetError):
        await backend.start(SECOND)
    assert await backend.mark_lost(TASK, "silent")
    assert await backend.start(SECOND) is TaskState.LOST


async def test_of_many_who_put_a_task_back_at_once_one_succeeds(settings: Settings) -> None:
    async with opened(settings) as (_, backend), opened_backend(settings) as other:
        for number in range(10):
            task = replace(TASK, id=f"t{number}")
            assert await backend.start(task) is None
            done = await asyncio.gather(
                backend.put_back(task, None),
                other.put_back(task, None),
                other.finish(task, TaskState.FAILURE, "it broke", None),
            )
            assert done.count(True) == 1
            known = await the(backend, task.id)
            assert known.state is (TaskState.FAILURE if done[2] else TaskState.WAITING)


async def test_a_heartbeat_as_old_as_the_attempt_before_changes_nothing(
    broker: QueueBroker, backend: StateBackend
) -> None:
    assert await backend.start(TASK) is None
    running = worker("w1", "t")
    assert await backend.beat(running) == []
    assert await put_back(broker, backend, TASK, message())
    assert await backend.beat(running) == []
    assert (await the(backend)).state is TaskState.WAITING
    assert await backend.start(SECOND) is None
    assert await backend.beat(running) == []
    assert (await the(backend)).worker == "w2"


async def test_a_listener_that_waits_is_woken_by_what_is_put_back(
    broker: QueueBroker, backend: StateBackend
) -> None:
    assert await backend.start(TASK) is None
    listener = broker.listen()
    waiting = asyncio.ensure_future(listener.__anext__())
    await asyncio.sleep(0.05)
    assert await put_back(broker, backend, TASK, message())
    delivered = await asyncio.wait_for(waiting, 60)
    assert broker.formatter.loads(delivered.data).task_id == "t"
    await listener.aclose()


async def test_a_task_that_waits_again_may_be_revoked(
    broker: QueueBroker, backend: StateBackend
) -> None:
    assert await backend.start(TASK) is None
    assert await put_back(broker, backend, TASK, message())
    assert await backend.revoke(["t"], "no longer wanted") == {}
    assert await backend.start(SECOND) is TaskState.REVOKED
    if has_limit(broker.settings, Limit.DISCARD):
        assert await eventually_async(lambda: ids(broker)) == ["t"]
        return

    async def discarded() -> bool:
        return await broker.discard(["t"]) == 1

    await eventually_async(discarded)
