"""Where broker and records share a server, a user's own task starts in the step that claims it."""

import json
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace

import pytest
from taskiq import AckableMessage

from compat_tests.contract.test_broker import body_of, message, running
from compat_tests.waiting import eventually_async
from dagster_taskiq.errors import UnusableMessageError
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.transport.backend import StateBackend
from dagster_taskiq.transport.broker import QueueBroker
from dagster_taskiq.transport.json_messages import PlainFormatter
from dagster_taskiq.transport.messages import Delivery, Outgoing
from dagster_taskiq.transport.put_back import put_back
from dagster_taskiq.transport.registry import make
from dagster_taskiq.wire.labels import ATTEMPT_LABEL, RUN_LABEL
from dagster_taskiq.wire.records import Task, TaskState
from dagster_taskiq.worker.slots import Slots

pytestmark = pytest.mark.anyio


#: The brokers of which that holds.
KINDS = ("embedded", "redis", "postgresql")


@pytest.fixture(scope="module", params=KINDS)
def broker_kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def records(broker: QueueBroker) -> StateBackend:
    backend = broker.result_backend
    assert isinstance(backend, StateBackend)
    return backend


@asynccontextmanager
async def worker(settings: Settings, name: str) -> AsyncIterator[QueueBroker]:
    """A broker that claims as a worker's does."""
    broker = make(settings)
    broker.queues, broker.consumer = ("q",), name
    broker.starts_with_claim = broker.may_start_with_claim(records(broker).connection)
    async with running(broker):
        yield broker


@pytest.fixture
async def broker(settings: Settings) -> AsyncIterator[QueueBroker]:
    async with worker(settings, "w1") as broker:
        yield broker


@pytest.fixture
async def other(settings: Settings) -> AsyncIterator[QueueBroker]:
    async with worker(settings, "w2") as broker:
        yield broker


async def claimed(broker: QueueBroker) -> Delivery:
    delivery = await eventually_async(broker.claim_next)
    assert delivery is not None
    return delivery


async def until_empty(broker: QueueBroker) -> None:
    async def is_empty() -> bool:
        return await broker.depths() == []

    await eventually_async(is_empty)


async def record(broker: QueueBroker, task_id: str) -> Task:
    return (await records(broker).tasks([task_id]))[task_id]


async def test_an_own_task_starts_with_its_claim_and_a_step_does_not(broker: QueueBroker) -> None:
    assert broker.starts_with_claim
    await broker.kick(message("own", queue_name="q", **{ATTEMPT_LABEL: 2}))
    await broker.kick(message("later", queue_name="q", delay=0.01))
    await broker.kick(message("step", queue_name="q", **{RUN_LABEL: "run"}))
    first = await claimed(broker)
    assert (first.task_id, first.is_started, first.refused) == ("own", True, None)
    task = await record(broker, "own")
    assert (task.state, task.worker, task.name, task.queue, task.attempt) == (
        *(TaskState.STARTED, "w1", "t", "q"),
        2,
    )
    assert task.started_at > 0 < task.submitted_at
    await broker.acknowledge(first)
    rest = {each.task_id: each for each in [await claimed(broker), await claimed(broker)]}
    assert rest["later"].is_started
    assert not rest["step"].is_started
    assert await records(broker).tasks(["step"]) == {}
    for each in rest.values():
        await broker.acknowledge(each)
    await until_empty(broker)  # without another claim too


async def test_what_an_older_release_has_sent_again_is_not_dropped(broker: QueueBroker) -> None:
    await broker.kick(message("t", queue_name="q"))
    await broker.acknowledge(await claimed(broker))
    task = await record(broker, "t")
    # Its attempt is in the message alone.
    again = Outgoing("t", "q", 0, body_of("t", **{ATTEMPT_LABEL: 1}))
    assert await put_back(broker, records(broker), task, again)
    delivery = await claimed(broker)
    assert (delivery.task_id, delivery.is_started, delivery.refused) == ("t", False, None)
    assert (await record(broker, "t")).state is TaskState.WAITING


async def test_a_message_is_not_deleted_for_one_that_had_its_place(broker: QueueBroker) -> None:
    await broker.kick(message("t", queue_name="q"))
    delivery = await claimed(broker)
    await broker.acknowledge(delivery)
    await broker.stop_claiming()
    await broker.kick(message("next", queue_name="q"))
    await broker.acknowledge(delivery)
    await broker.stop_claiming()
    assert (await claimed(broker)).task_id == "next"


async def test_what_must_not_start_is_dropped_at_its_claim(
    broker: QueueBroker, other: QueueBroker
) -> None:
    await broker.kick(message("revoked", queue_name="q"))
    await broker.kick(message("twice", queue_name="q"))
    await records(broker).revoke(["revoked"], "not wanted")
    dropped = await claimed(broker)
    assert (dropped.task_id, dropped.refused) == ("revoked", TaskState.REVOKED)
    mine = await claimed(broker)
    await other.kick(message("twice", queue_name="q"))
    again = await claimed(other)
    assert (again.task_id, again.is_started, again.refused) == ("twice", False, TaskState.STARTED)
    assert (await record(broker, "twice")).worker == "w1"
    await broker.acknowledge(mine)
    assert await broker.claim_next() is None
    await until_empty(broker)


async def test_the_next_attempt_is_not_started_before_the_last_is_put_back(
    broker: QueueBroker, other: QueueBroker
) -> None:
    await broker.kick(message("t", queue_name="q"))
    await broker.acknowledge(await claimed(broker))
    await broker.kick(message("t", queue_name="q", **{ATTEMPT_LABEL: 1}))
    early = await claimed(other)
    assert (early.is_started, early.refused) == (False, None)
    await other.release(early)
    task = await record(broker, "t")
    again = broker.outgoing(message("t", queue_name="q", **{ATTEMPT_LABEL: 1}))
    assert await put_back(broker, records(broker), task, again)
    assert (await claimed(other)).is_started
    assert (await record(broker, "t")).attempt == 1


async def test_what_is_given_back_waits_again_and_starts_elsewhere(
    broker: QueueBroker, other: QueueBroker
) -> None:
    await broker.kick(message("t", queue_name="q"))
    await broker.release(await claimed(broker))
    task = await record(broker, "t")
    assert (task.state, task.worker, task.started_at) == (TaskState.WAITING, "", 0.0)
    delivery = await claimed(other)
    assert (delivery.is_started, delivery.attempt) == (True, 1)
    assert (await record(broker, "t")).worker == "w2"
    # Cancelled before it is given back, it does not wait.
    assert await records(broker).revoke(["t"], "not wanted") == {"t": "w2"}
    await other.release(delivery)
    task = await record(broker, "t")
    assert (task.state, task.error, task.was_stopped) == (TaskState.REVOKED, "not wanted", False)
    assert await broker.depths() == []


async def test_a_listener_that_is_closed_gives_back_what_has_not_begun(
    settings: Settings, other: QueueBroker
) -> None:
    async with worker(settings, "w1") as broker:
        await broker.kick(message("t", queue_name="q"))
        listener = broker.listen()
        await anext(listener)
        assert broker.listener.was_started("t")
        await listener.aclose()  # type: ignore[attr-defined]
    assert (await claimed(other)).is_started
    assert (await record(other, "t")).worker == "w2"


async def test_what_is_given_back_when_its_message_has_gone_ends(broker: QueueBroker) -> None:
    await broker.kick(message("t", queue_name="q"))
    delivery = await claimed(broker)
    await broker.acknowledge(delivery)
    await broker.stop_claiming()
    await broker.release(delivery)
    assert (await record(broker, "t")).state is TaskState.LOST
    # Of another worker's task it says nothing.
    await broker.kick(message("u", queue_name="q"))
    theirs = replace(await claimed(broker), handle=delivery.handle)
    broker.consumer = "w3"
    await broker.release(theirs)
    assert (await record(broker, "u")).state is TaskState.STARTED


def wrong_label(task_id: str) -> bytes:
    body = json.loads(body_of(task_id))
    return json.dumps({**body, "labels": {"n": "x"}, "labels_types": {"n": 2}}).encode()


UNREADABLE = {
    "no text": (b"\x80 secret", "it cannot be read"),
    "another shape": (b'{"secret": 1}', "it cannot be read"),
    "a label": (wrong_label("bad"), "it cannot be read"),
    "a long number": (
        body_of("bad").replace(b"[]", b"[1" + b"0" * 5000 + b"]"),
        "it cannot be read",
    ),
    "another task": (body_of("inner"), "it is the message of another task"),
}


@pytest.mark.parametrize("case", list(UNREADABLE))
async def test_a_started_task_whose_message_is_unusable_fails_and_frees_its_slot(
    broker: QueueBroker, caplog: pytest.LogCaptureFixture, case: str
) -> None:
    body, reason = UNREADABLE[case]
    broker.gate, broker.formatter = Slots(1, max_runs=1), PlainFormatter()
    for task_id in ("bad", "worse"):
        await broker.put_all([Outgoing(task_id, "q", 0, body, own_task="t")])
        body = b"\x80 secret"
    await broker.kick(message("good", queue_name="q"))
    async with aclosing(broker.listen()) as listener:
        assert task_id_of(await anext(listener)) == "good"
    for task_id, why in (("bad", reason), ("worse", "it cannot be read")):
        error = (await records(broker).get_result(task_id)).error
        assert isinstance(error, UnusableMessageError)
        assert f"The message of task {task_id} was set aside: {why}" in str(error)
        assert (await record(broker, task_id)).state is TaskState.FAILURE
    assert await broker.rejected() == 2
    assert await records(broker).tasks(["inner"]) == {}
    assert "secret" not in caplog.text
    assert "0" * 100 not in caplog.text


async def test_a_message_is_read_once(broker: QueueBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    broker.formatter = formatter = PlainFormatter()
    await broker.kick(message("t", queue_name="q"))
    async with aclosing(broker.listen()) as listener:
        taken = await anext(listener)
        monkeypatch.setattr(json, "loads", pytest.fail)
        assert formatter.loads(taken.data).task_id == "t"


def task_id_of(taken: AckableMessage) -> str:
    return PlainFormatter().loads(taken.data).task_id
