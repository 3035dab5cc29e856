"""Messages that were set aside: what is listed of them, putting them back, and deleting them."""

import contextlib
import json
import time
from collections.abc import AsyncIterator, Sequence

import aiormq
import pytest
import redis

from compat_tests.brokers import CONTRACT, Limit, has_limit
from compat_tests.contract.test_broker import (
    LONG_LEASE,
    body_of,
    claim,
    claim_all,
    listening,
    move_clock,
    on_rabbitmq,
    on_sqs,
    opened,
    put,
)
from compat_tests.sqs_servers import sqs_client
from compat_tests.waiting import eventually_async
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.transport.backend import StateBackend
from dagster_taskiq.transport.broker import QueueBroker
from dagster_taskiq.transport.registry import make
from dagster_taskiq.wire.records import Task, TaskState
from dagster_taskiq.wire.rejected_messages import LISTED, PREVIEW_BYTES, RejectedMessage

pytestmark = pytest.mark.anyio

#: What a user may write where an id is expected.
NO_IDS = ("", "0", "-", "+", "1-1", "99999999999999999999999", "1; DROP TABLE", "ünknown", "*")


@pytest.fixture(scope="module", params=CONTRACT)
def broker_kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def broker(settings: Settings) -> AsyncIterator[QueueBroker]:
    async with opened(settings) as broker:
        yield broker


async def set_aside(broker: QueueBroker, *task_ids: str, priority: int = 0) -> None:
    """Send messages, each of which is then claimed and rejected."""
    for task_id in task_ids:
        await put(broker, task_id, priority=priority)
        await broker.reject(await claim(broker), f"nobody understands {task_id}")


async def listed(broker: QueueBroker, limit: int = LISTED) -> dict[str, RejectedMessage]:
    """Return what is listed, by the ids of tasks."""
    return {each.task_id: each for each in await broker.list_rejected(limit)}


async def nothing(task_ids: Sequence[str]) -> None:
    """Prepare nothing."""


async def test_each_is_listed_with_what_it_was_and_why_it_was_set_aside(
    broker: QueueBroker,
) -> None:
    assert await broker.list_rejected(LISTED) == []
    before = time.time()
    hostile = "a\n\x1b[31m\u202e<b>".encode() + b"\xff" + b"x" * 5000
    await broker.put("hostile", "q", 3, hostile)
    await broker.reject(await claim(broker), "it cannot be read: \x1b[2J")
    await broker.put("empty", "q:runs", 0, b"")
    await broker.reject(await claim(broker), "it is empty")
    found = await listed(broker)
    first, empty = found["hostile"], found["empty"]
    assert (first.queue, first.size, first.is_whole) == ("q", len(hostile), True)
    assert first.reason.startswith("it cannot be read: ")
    assert first.preview.startswith("a\\n\\x1b[31m\\u202e<b>\\xffxxx")
    assert first.preview.count("x") <= PREVIEW_BYTES
    assert first.preview.isprintable()
    assert first.rejected_at is not None
    # The server has a clock of its own, which may count whole seconds.
    assert before - 60 < first.rejected_at < time.time() + 60
    assert (empty.queue, empty.size, empty.preview) == ("q:runs", 0, "")
    assert first.id != empty.id
    # To look changes nothing.
    assert await listed(broker) == found
    assert await broker.rejected() == 2
    assert await broker.claim() is None


async def test_no_more_are_listed_than_were_asked_for(broker: QueueBroker) -> None:
    await set_aside(broker, "a", "b", "c")
    found = await listed(broker, 2)
    assert len(found) == 2
    if not has_limit(broker.settings, Limit.ONE_ORDER):
        assert list(found) == ["a", "b"]
    assert set(await listed(broker)) == {"a", "b", "c"}


async def test_those_that_are_requeued_are_delivered_as_if_for_the_first_time(
    broker: QueueBroker,
) -> None:
    await put(broker, "urgent", priority=4)
    await broker.release(await claim(broker))
    await broker.reject(await claim(broker), "not now")
    await set_aside(broker, "stays", "plain")
    await put(broker, "waiting", priority=2)
    found = await listed(broker)
    chosen = [found["urgent"].id, found["plain"].id]
    assert sorted(await broker.requeue_rejected([*chosen, *NO_IDS], nothing)) == sorted(chosen)
    assert set(await listed(broker)) == {"stays"}
    assert await broker.rejected() == 1
    deliveries = await claim_all(broker)
    assert [each.task_id for each in deliveries] == ["urgent", "waiting", "plain"]
    assert [each.attempt for each in deliveries] == [1, 1, 1]
    assert deliveries[0].body == body_of("urgent")
    for each in deliveries:
        await broker.acknowledge(each)
    assert await broker.requeue_rejected(chosen, nothing) == []
    assert await broker.depths() == []


async def test_those_that_are_deleted_are_gone_and_no_others(broker: QueueBroker) -> None:
    await set_aside(broker, "a", "b", "c")
    found = await listed(broker)
    chosen = [found["a"].id, found["c"].id]
    assert sorted(await broker.delete_rejected([*NO_IDS, *chosen])) == sorted(chosen)
    assert set(await listed(broker)) == {"b"}
    assert await broker.delete_rejected(chosen) == []
    assert await broker.claim() is None


async def test_a_listener_that_waits_gets_what_is_requeued(broker: QueueBroker) -> None:
    await set_aside(broker, "t")
    found = await listed(broker)
    async with listening(broker) as listener:
        await put(broker, "before")
        await eventually_async(lambda: listener.has(1))
        await broker.requeue_rejected([found["t"].id], nothing)
        await eventually_async(lambda: listener.has(2))
        assert listener.ids == ["before", "t"]


async def test_one_whose_tasks_cannot_be_prepared_stays_where_it_is(broker: QueueBroker) -> None:
    await set_aside(broker, "t")
    found = await listed(broker)
    asked = []

    async def refuse(task_ids: Sequence[str]) -> None:
        asked.extend(task_ids)
        raise RuntimeError("not now")

    with pytest.raises(RuntimeError, match="not now"):
        await broker.requeue_rejected([found["t"].id], refuse)
    assert asked == ["t"]
    if on_sqs(broker.settings):  # hidden until then
        await move_clock(broker.settings, 60.0)
    assert set(await eventually_async(lambda: listed(broker))) == {"t"}
    assert await broker.claim() is None


async def test_a_users_task_that_failed_for_its_message_runs_once_that_is_requeued(
    settings: Settings,
) -> None:
    broker = make(settings.replace(lease=LONG_LEASE))
    broker.queues, backend = ("q",), broker.result_backend
    assert isinstance(backend, StateBackend)
    broker.use_running_loop()
    await broker.startup()
    await backend.startup()
    await backend.submitted([Task("failed"), Task("ended", worker="w")])
    assert await backend.start(Task("ended", worker="w")) is None
    assert await backend.finish(Task("ended", worker="w"), TaskState.FAILURE, "by itself", b"{}")
    await set_aside(broker, "failed", "unknown", "ended")
    for task_id in ("failed", "unknown", "ended"):
        await backend.end_set_aside(task_id, "it cannot be read", 0)
    assert await backend.state_of("unknown") is TaskState.FAILURE
    found = await listed(broker)
    assert len(await broker.requeue([each.id for each in found.values()])) == 3
    assert {each.task_id for each in await claim_all(broker)} == set(found)
    for task_id in ("failed", "unknown"):
        assert await backend.start(Task(task_id, worker="w")) is None
    # What has run does not run again.
    assert await backend.start(Task("ended", worker="w")) is TaskState.FAILURE
    await backend.shutdown()
    await broker.shutdown()


#: Where a message is in two places on the server, one after the other.
@pytest.mark.parametrize("broker_kind", ["rabbitmq", "sqs_redis"], indirect=True)
async def test_a_message_is_put_back_before_it_is_deleted(
    settings: Settings, broker: QueueBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    await set_aside(broker, "t")
    found = await listed(broker)
    async with opened(settings, "dies") as other:

        async def die(*_: object) -> None:
            raise RuntimeError("killed")

        monkeypatch.setattr(other._rejected, "_delete", die)  # type: ignore[attr-defined]
        with pytest.raises(RuntimeError, match="killed"):
            await other.requeue_rejected([found["t"].id], nothing)
    if on_sqs(settings):
        await move_clock(settings, 60.0)
    assert (await claim(broker)).task_id == "t"
    assert set(await eventually_async(lambda: listed(broker))) == {"t"}


async def put_as_before(settings: Settings, body: str, *, is_ours: bool = True) -> None:
    """Set a message aside as releases did that noted less of it, or as somebody else may do."""
    about = {"task_id": "old", "queue": "q", "reason": "why"} if is_ours else {}
    if on_sqs(settings):
        client = sqs_client(str(settings.broker_options["endpoint_url"]))
        url = client.get_queue_url(QueueName=f"{settings.prefix}--rejected")["QueueUrl"]
        attributes = {
            name: {"DataType": "String", "StringValue": value} for name, value in about.items()
        }
        client.send_message(QueueUrl=url, MessageBody=body, MessageAttributes=attributes)
    elif on_rabbitmq(settings):
        connection = await aiormq.connect(settings.broker)
        channel = await connection.channel()
        properties = aiormq.spec.Basic.Properties(headers=about)
        await channel.basic_publish(
            body.encode(), routing_key=f"{settings.prefix}:rejected", properties=properties
        )
        await connection.close()
    else:
        fields = json.dumps(["task", "old", "body", body])
        entry = {"reason": "why", "queue": "q", "task": "old", "fields": fields}
        with contextlib.closing(redis.Redis.from_url(settings.broker)) as client:
            client.xadd(f"{settings.prefix}:rejected", entry)


@pytest.mark.parametrize("broker_kind", ["redis", "rabbitmq", "sqs_redis"], indirect=True)
async def test_what_an_earlier_release_has_set_aside_can_be_requeued(
    settings: Settings, broker: QueueBroker
) -> None:
    await set_aside(broker, "new", priority=3)
    await put_as_before(settings, body_of("old").decode())
    found = await eventually_async(lambda: listed_with(broker, "old"))
    old = found["old"]
    assert (old.queue, old.reason, old.size) == ("q", "why", len(body_of("old")))
    assert await broker.requeue_rejected([old.id], nothing) == [old.id]
    delivery = await claim(broker)
    assert (delivery.task_id, delivery.body, delivery.attempt) == ("old", body_of("old"), 1)
    assert set(await listed(broker)) == {"new"}


@pytest.mark.parametrize("broker_kind", ["rabbitmq", "sqs_redis"], indirect=True)
async def test_what_somebody_else_has_put_there_can_only_be_deleted(
    settings: Settings, broker: QueueBroker
) -> None:
    await set_aside(broker, "ours")
    await put_as_before(settings, "not ours", is_ours=False)
    found = await eventually_async(lambda: with_count(broker, 2))
    (foreign,) = [each for each in found if each.task_id != "ours"]
    assert (foreign.is_whole, foreign.queue, foreign.preview) == (False, "", "not ours")
    assert await broker.requeue_rejected([foreign.id], nothing) == []
    assert await broker.delete_rejected([foreign.id]) == [foreign.id]
    assert set(await listed(broker)) == {"ours"}


async def listed_with(broker: QueueBroker, task_id: str) -> dict[str, RejectedMessage]:
    """Return what is listed if a task is among it."""
    found = await listed(broker)
    return found if task_id in found else {}


async def with_count(broker: QueueBroker, count: int) -> list[RejectedMessage]:
    """Return what is listed if it is so many."""
    found = await broker.list_rejected(LISTED)
    return found if len(found) == count else []


@pytest.mark.parametrize("broker_kind", ["redis"], indirect=True)
async def test_a_foreign_entry_of_a_stream_is_listed_with_its_fields(
    settings: Settings, broker: QueueBroker
) -> None:
    await put(broker, "ours")
    foreign = {"fields": "{", "queue": "?", "reason": "?", "own": "x"}
    with contextlib.closing(redis.Redis.from_url(settings.broker)) as client:
        client.xadd(f"{settings.prefix}:queue:q:0", foreign)
    for _ in range(2):
        await broker.reject(await claim(broker), "why")
    ours, other = await broker.list_rejected(LISTED)
    assert (ours.task_id, other.task_id) == ("ours", "")
    assert (other.queue, other.reason) == ("q", "why")
    assert json.loads(other.preview) == foreign
    assert await broker.delete_rejected([other.id]) == [other.id]
