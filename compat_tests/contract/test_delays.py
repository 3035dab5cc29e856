"""What every broker promises of a message that is delayed: not before its time, and then like any
other."""

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import aiormq
import pytest

from compat_tests.brokers import BROKERS, CONTRACT, Limit, has_limit
from compat_tests.contract.test_broker import (
    claim_again,
    claims,
    discard,
    ids,
    left_on_server,
    listening,
    message,
    move_clock,
    on_rabbitmq,
    on_sqs,
    opened,
    put,
    ready_on_rabbitmq,
)
from compat_tests.servers import own_redis
from compat_tests.waiting import eventually_async
from dagster_taskiq.client import client_for
from dagster_taskiq.errors import ConfigError
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.transport.broker import QueueBroker
from dagster_taskiq.transport.rabbitmq import delays
from dagster_taskiq.transport.sql.sqlite.database import SqliteDatabase
from dagster_taskiq.wire.records import TaskState
from dagster_taskiq.wire.task_request import TaskRequest

pytestmark = pytest.mark.anyio

#: Long enough to be looked at before it is over.
SHORT = 1.5
#: Longer than any test.
LONG = 3600.0


@pytest.fixture(scope="module", params=CONTRACT)
def broker_kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def broker(settings: Settings) -> AsyncIterator[QueueBroker]:
    async with opened(settings) as broker:
        yield broker
    if on_rabbitmq(settings):
        await forget_delays(settings)


@pytest.fixture
async def other(settings: Settings) -> AsyncIterator[QueueBroker]:
    async with opened(settings, "b") as broker:
        yield broker


async def forget_delays(settings: Settings) -> None:
    """Delete what delays have left on a server that others use."""
    connection = await aiormq.connect(settings.broker)
    channel = await connection.channel()
    for level in ("due", *range(delays.LEVELS)):
        await channel.exchange_delete(f"{settings.prefix}:delay:{level}")
        for queue in ("q", "p", "dagster"):
            await channel.queue_delete(f"{settings.prefix}:delay:{level}:{queue}")
    await connection.close()


async def put_late(broker: QueueBroker, task_id: str, delay: float, priority: int = 0) -> None:
    await broker.put(task_id, "q", priority, task_id.encode(), delay)


async def test_a_delayed_message_is_not_claimed_before_its_time_and_then_is(
    settings: Settings, broker: QueueBroker, other: QueueBroker
) -> None:
    await put_late(broker, "later", LONG)
    assert await broker.claim() is None
    sent = time.monotonic()
    await put_late(broker, "t", SHORT)
    delivery = await claim_again(other)
    assert time.monotonic() - sent >= SHORT
    assert (delivery.task_id, delivery.queue, delivery.body) == ("t", "q", b"t")
    assert delivery.attempt == 1
    await other.acknowledge(delivery)
    assert await ids(other) == []
    await discard(broker, "later", count=1)
    if has_limit(settings, Limit.DISCARD):
        return
    assert await broker.depths() == []
    if not settings.broker.startswith("memory"):
        assert not await left_on_server(settings)


async def test_a_listener_that_waits_finds_what_is_due_by_itself(
    broker: QueueBroker, other: QueueBroker
) -> None:
    async with listening(other) as listener:
        for number in range(3):
            await other.kick(message(f"t{number}", queue_name="q", delay=SHORT / 2 * number))
        await eventually_async(lambda: listener.has(3))
        assert listener.ids == ["t0", "t1", "t2"]


async def test_a_delayed_message_keeps_its_priority_and_holds_up_no_other(
    broker: QueueBroker,
) -> None:
    await put_late(broker, "urgent", SHORT, priority=5)
    await put_late(broker, "idle", SHORT, priority=-5)
    await put(broker, "at-once")
    assert await ids(broker) == ["at-once"]

    async def all_due() -> bool:
        # Each is looked for among others, so that nothing is claimed before all are there.
        await put(broker, "other", priority=10)
        delivery = await broker.claim()
        assert delivery is not None
        assert delivery.task_id == "other"
        await broker.acknowledge(delivery)
        (row,) = await broker.depths()
        return row.oldest_age is None or row.oldest_age > 0

    await eventually_async(all_due)
    await asyncio.sleep(SHORT)  # by then both are, whichever was first
    if on_sqs(broker.settings):
        await move_clock(broker.settings, SHORT)
    await put(broker, "plain")
    assert await ids(broker) == ["urgent", "plain", "idle"]


async def test_a_delayed_message_counts_as_waiting_and_as_present(
    settings: Settings, broker: QueueBroker
) -> None:
    assert await broker.is_empty("q")
    await put_late(broker, "t", LONG)
    await put_late(broker, "u", LONG + 17.25)
    await put(broker, "elsewhere", queue="p")
    assert not await broker.is_empty("q")
    p, q = await broker.depths()
    assert (p.queue, p.waiting) == ("p", 1)
    assert (q.queue, q.waiting, q.claimed) == ("q", 2, claims(settings, 0))
    assert not q.oldest_age


async def test_a_delayed_message_is_discarded_wherever_it_waits_and_whoever_sent_it(
    broker: QueueBroker, other: QueueBroker
) -> None:
    for number in range(1, 6):
        await put_late(broker, f"t{number}", LONG * number)
    await put(broker, "at-once")
    await discard(broker, "t1", "t4", count=2)
    await discard(other, "t2", "t3", "at-once", "unknown", count=3)
    (row,) = await broker.depths()
    assert row.waiting == (6 if has_limit(broker.settings, Limit.DISCARD) else 1)
    await discard(other, "t5", count=1)
    assert await broker.is_empty("q") is not has_limit(broker.settings, Limit.DISCARD)


async def test_a_search_for_another_message_does_not_change_when_one_is_due(
    broker: QueueBroker, other: QueueBroker
) -> None:
    sent = time.monotonic()
    await put_late(broker, "t", SHORT)
    await put_late(broker, "u", SHORT)
    for number in range(5):
        assert await other.discard([f"unknown-{number}"]) == 0
    found = {(await claim_again(other)).task_id for _ in range(2)}
    assert time.monotonic() - sent >= SHORT
    assert found == {"t", "u"}


@pytest.mark.parametrize("broker_kind", BROKERS, indirect=True)
async def test_a_delayed_message_survives_that_everybody_goes_away(settings: Settings) -> None:
    async with opened(settings) as broker:
        await put_late(broker, "t", SHORT)
    async with opened(settings) as broker:
        assert (await claim_again(broker)).task_id == "t"
    if on_rabbitmq(settings):
        await forget_delays(settings)


async def test_a_task_is_delayed_by_its_order_and_can_be_revoked_meanwhile(
    settings: Settings, broker: QueueBroker
) -> None:
    client = await asyncio.to_thread(client_for, settings)

    def scenario() -> None:
        for task_id in ("late", "unwanted"):
            client.submit(TaskRequest(task_id, "t", {}, "q", delay=SHORT))
        assert client.tasks(["late"])["late"].state is TaskState.WAITING
        client.revoke(["unwanted"], "nobody wants it")
        assert client.tasks(["unwanted"])["unwanted"].state is TaskState.REVOKED
        assert [each.waiting for each in client.depths()] == [left]

    # What cannot be deleted is dropped by who claims it, as its state is REVOKED.
    left = 2 if has_limit(settings, Limit.DISCARD) else 1
    await asyncio.to_thread(scenario)
    found = {(await claim_again(broker)).task_id for _ in range(left)}
    assert found - {"unwanted"} == {"late"}
    assert await broker.claim() is None


# -- SQL: files of older releases ------------------------------------------------------------


@pytest.mark.parametrize("broker_kind", ["embedded"], indirect=True)
async def test_the_first_process_brings_a_file_of_the_release_before_up_to_date(
    settings: Settings, tmp_path: Path
) -> None:
    path = tmp_path / "queue.db"
    async with opened(settings) as broker:
        await put(broker, "old")
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("ALTER TABLE dagster_taskiq_messages DROP COLUMN due_at")
    with ThreadPoolExecutor(8) as pool:
        opening: list[Callable[[], None]] = [lambda: asyncio.run(_open(settings))] * 8
        for each in [pool.submit(work) for work in opening]:
            each.result()
    async with opened(settings) as broker:
        await put_late(broker, "late", SHORT)
        assert await ids(broker) == ["old"]
        assert (await claim_again(broker)).task_id == "late"


async def _open(settings: Settings) -> None:
    connection = SqliteDatabase(settings.broker, {}, 10.0)
    await connection.open()
    await connection.close()


# -- Redis: a server that is full -------------------------------------------------------------


@pytest.mark.parametrize("broker_kind", ["redis"], indirect=True)
async def test_a_message_that_is_due_while_redis_is_full_is_not_lost(settings: Settings) -> None:
    with own_redis() as server:
        async with opened(settings.replace(broker=server.url)) as broker:
            await put_late(broker, "t", SHORT)
            client = broker.connection.client  # type: ignore[attr-defined]
            await client.config_set("maxmemory", "1")
            assert (await claim_again(broker)).task_id == "t"


# -- RabbitMQ: what delays are made of -------------------------------------------------------


@pytest.mark.parametrize("broker_kind", ["rabbitmq"], indirect=True)
async def test_on_rabbitmq_a_delay_is_the_sum_of_its_parts_with_a_queue_for_each(
    settings: Settings, broker: QueueBroker
) -> None:
    sent = time.monotonic()
    wanted = [0.05, 0.25, 0.6, 1.0, 1.3, 1.75, 2.4, 3.75]
    for delay in wanted:
        await put_late(broker, f"{delay}", delay)
    found = []
    for _ in wanted:
        delivery = await claim_again(broker)
        assert time.monotonic() - sent >= float(delivery.task_id)
        found.append(float(delivery.task_id))
    assert sorted(found) == wanted
    # Parts of 0.25, 0.5, 1 and 2 s.
    assert await _delay_levels(settings) == [0, 1, 2, 3]


@pytest.mark.parametrize("broker_kind", ["rabbitmq"], indirect=True)
async def test_on_rabbitmq_a_delay_finds_its_queue_although_that_was_deleted(
    settings: Settings, broker: QueueBroker, other: QueueBroker
) -> None:
    await put_late(broker, "before", 3 * SHORT)  # time enough for a busy machine to make the queue
    await _delete_queue(settings)
    assert await other.claim() is None  # which makes the queue anew
    assert (await claim_again(other)).task_id == "before"
    await _delete_queue(settings)
    await put_late(broker, "after", 0.25)
    found = await eventually_async(lambda: _count(settings))
    assert found == 1


async def _delay_levels(settings: Settings) -> list[int]:
    """Return the levels for which the queue has delay queues."""
    connection = await aiormq.connect(settings.broker)
    found = []
    for level in range(delays.LEVELS):
        channel = await connection.channel()
        with contextlib.suppress(aiormq.exceptions.ChannelNotFoundEntity):
            await channel.queue_declare(f"{settings.prefix}:delay:{level}:q", passive=True)
            found.append(level)
    await connection.close()
    return found


async def _delete_queue(settings: Settings) -> None:
    connection = await aiormq.connect(settings.broker)
    channel = await connection.channel()
    await channel.queue_delete(f"{settings.prefix}:queue:q")
    await connection.close()


async def _count(settings: Settings) -> int:
    return (await ready_on_rabbitmq(settings)).get("q", 0)


@pytest.mark.parametrize("broker_kind", ["rabbitmq"], indirect=True)
async def test_on_rabbitmq_a_delay_that_is_too_long_is_refused(broker: QueueBroker) -> None:
    await put_late(broker, "t", delays.LONGEST_SECONDS)
    assert await broker.discard(["t"]) == 1
    with pytest.raises(ConfigError, match="97 days"):
        await put_late(broker, "t", delays.LONGEST_SECONDS + 1)


def test_a_delay_is_put_together_from_its_bits() -> None:
    for delay in (0.01, 0.25, 3.2, 60, 3600.1, 86400 * 30):
        units = delays.units_of(delay)
        parts = [delays.wait_of(level) for level in delays.levels_of(units)]
        assert sorted(parts, reverse=True) == parts
        assert 0 <= sum(parts) / 1000 - delay <= delays.UNIT_SECONDS
    assert delays.levels_of(delays.units_of(0)) == []
