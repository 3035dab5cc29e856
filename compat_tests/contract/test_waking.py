"""How listeners learn that there is something for them, without looking all the time."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import redis
from aiormq.abc import DeliveredMessage

from compat_tests.brokers import ALL_BROKERS
from compat_tests.waiting import eventually_async
from dagster_taskiq.client import client_for
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.transport.broker import QueueBroker
from dagster_taskiq.transport.rabbitmq.broker import RabbitBroker
from dagster_taskiq.transport.rabbitmq.channel import Channel
from dagster_taskiq.transport.registry import make_broker
from dagster_taskiq.transport.sql import tables
from dagster_taskiq.transport.sql.sqlite import changes
from dagster_taskiq.transport.sql.sqlite.database import SqliteDatabase
from dagster_taskiq.transport.sql.sqlite.file_watch import FileNotices
from dagster_taskiq.wire.task_request import TaskRequest

pytestmark = pytest.mark.anyio

#: Longer than any test.
FOR_EVER = 600.0

on_rabbitmq = pytest.mark.parametrize("broker_kind", ["rabbitmq"], indirect=True)
on_redis = pytest.mark.parametrize("broker_kind", ["redis"], indirect=True)


@asynccontextmanager
async def listeners(settings: Settings, count: int) -> AsyncIterator[list[QueueBroker]]:
    """Open brokers that have found nothing, each with a connection of its own."""
    async with AsyncExitStack() as stack:
        opened = []
        for number in range(count):
            broker = make_broker(settings)
            broker.consumer, broker.queues = f"listener {number}", ("q",)
            broker.use_running_loop()
            await broker.startup()
            stack.push_async_callback(broker.shutdown)
            assert await broker.claim() is None
            opened.append(broker)
        yield opened


async def put(broker: QueueBroker, *task_ids: str) -> None:
    for task_id in task_ids:
        await broker.put(task_id, "q", 0, b"body")


def waiting(brokers: list[QueueBroker]) -> set["asyncio.Task[None]"]:
    return {asyncio.ensure_future(broker.wait_for_work(FOR_EVER)) for broker in brokers}


@on_redis
async def test_one_message_wakes_one_listener(settings: Settings) -> None:
    async with listeners(settings, 4) as (sender, *others):
        waits = waiting(others)
        for number in range(3):
            await put(sender, f"task {number}")
            woken, waits = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            # Another one would be told in the time that this takes.
            await asyncio.gather(*(broker.ping() for broker in (sender, *others)))
            assert len(woken) == 1
            assert not any(wait.done() for wait in waits)


@on_redis
async def test_what_rang_for_nobody_wakes_nobody_later(settings: Settings) -> None:
    client = redis.Redis.from_url(settings.broker)
    wakeups = f"{settings.prefix}:wakeups:q"
    async with listeners(settings, 2) as (sender, listener):
        await put(sender, "one", "two", "three")
        assert client.llen(wakeups) == 3
        # There is something to take, so it does not wait, whoever rang.
        await listener.wait_for_work(FOR_EVER)
        for _ in range(3):
            assert await listener.claim() is not None
        assert await listener.claim() is None
        assert not client.exists(wakeups)


@on_redis
async def test_a_message_that_is_given_back_wakes_a_listener(settings: Settings) -> None:
    async with listeners(settings, 2) as (holder, listener):
        await put(holder, "task")
        delivery = await holder.claim()
        assert delivery is not None
        assert await listener.claim() is None
        (wait,) = waiting([listener])
        await holder.release(delivery)
        await wait
        assert await listener.claim() is not None


@on_rabbitmq
async def test_a_listener_asks_only_the_queues_that_rang(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a slow machine it would be time meanwhile to ask all queues, which is done regularly.
    monkeypatch.setattr("dagster_taskiq.transport.rabbitmq.wakeups.IDLE_LOOK_SECONDS", FOR_EVER)
    asked: list[str] = []
    get = Channel.get

    async def noting(channel: Channel, queue: str) -> DeliveredMessage | None:
        asked.append(queue.removeprefix(f"{settings.prefix}:queue:"))
        return await get(channel, queue)

    async with listeners(settings, 2) as (sender, listener):
        listener.queues = ("q", "other")
        # Its bells are hung up now, and there may have been something before.
        await listener.wait_for_work(FOR_EVER)
        assert await listener.claim() is None
        (wait,) = waiting([listener])
        monkeypatch.setattr(Channel, "get", noting)
        await put(sender, "one", "two")
        await wait
        found = [await listener.claim_next(), await eventually_async(listener.claim_next)]
        assert [delivery.task_id for delivery in found if delivery] == ["one", "two"]
        assert set(asked) == {"q"}
        # The last one's answer said that the queue is empty.
        looks = len(asked)
        assert await listener.claim_next() is None
        assert len(asked) - looks <= 1


@on_rabbitmq
async def test_what_no_wake_up_announces_is_found_all_the_same(settings: Settings) -> None:
    async with listeners(settings, 1) as (listener,):
        await listener.wait_for_work(FOR_EVER)
        assert await listener.claim() is None
        assert isinstance(listener, RabbitBroker)
        async with listener.connection.channel() as channel:
            # As the server puts back what a worker had that has died.
            await channel.publish(f"{settings.prefix}:queue:q", b"body", headers={"task_id": "t"})
        found = await eventually_async(listener.claim_next)
        assert found is not None
        assert found.task_id == "t"


@pytest.mark.parametrize("broker_kind", ALL_BROKERS, indirect=True)
async def test_tasks_that_are_sent_together_keep_their_order(settings: Settings) -> None:
    orders = [TaskRequest(f"task {number}", "t", {}, "q") for number in range(5)]
    client = client_for(settings)
    async with listeners(settings, 1) as (broker,):
        sent = await asyncio.to_thread(client.submit, *orders)
        assert sent == [order.id for order in orders]
        found = [await eventually_async(broker.claim) for _ in orders]
        assert [delivery.task_id for delivery in found if delivery] == sent


@asynccontextmanager
async def two_connections(path: Path) -> AsyncIterator[tuple[SqliteDatabase, SqliteDatabase]]:
    """Open a file twice, as two processes do."""
    async with AsyncExitStack() as stack:
        opened = []
        for _ in range(2):
            connection = SqliteDatabase(f"sqlite:///{path}", {}, 5.0)
            await connection.open()
            stack.push_async_callback(connection.close)
            opened.append(connection)
        yield opened[0], opened[1]


async def change(connection: SqliteDatabase) -> None:
    row = {"channel": "c", "body": "{}", "created_at": 0.0}
    await connection.write(lambda each: each.execute(tables.notifications.insert(), row))


async def wakes(listener: SqliteDatabase, writer: SqliteDatabase) -> None:
    """See that one who waits on a connection learns of what is written by another."""
    wait = asyncio.ensure_future(listener.changes.wait_beyond(listener.changes.mark(), FOR_EVER))
    for _ in range(2):  # until it waits, and until somebody looks for it
        await asyncio.sleep(0)
    assert not wait.done()
    await change(writer)
    await wait


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of writes")
async def test_a_write_to_the_file_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "WITHOUT_NOTICE_SECONDS", FOR_EVER)
    async with two_connections(tmp_path / "queue.db") as (listener, writer):
        await change(writer)
        listener.changes.mark()
        # Until it looks by itself no more.
        await asyncio.sleep(2 * changes.NOTICED_SECONDS)
        for _ in range(20):
            await wakes(listener, writer)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of writes")
async def test_who_does_not_listen_is_not_told_of_writes(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    told = asyncio.Event()
    notices = FileNotices(path, told.set)
    try:
        path.write_text("before")
        for _ in range(3):
            await asyncio.sleep(0)
        assert not told.is_set()
        notices.listen()
        await told.wait()
        notices.rest()
        told.clear()
        path.write_text("after")
        for _ in range(3):
            await asyncio.sleep(0)
        assert not told.is_set()
    finally:
        notices.close()


def untold(path: str | Path, notify: Callable[[], None]) -> "Untold":
    del path, notify
    return Untold()


class Untold:
    """What a file system has that tells of nothing."""

    def listen(self) -> None:
        pass

    def rest(self) -> None:
        pass

    def take(self) -> bool:
        return False

    def close(self) -> None:
        pass


def impossible(path: str | Path, notify: Callable[[], None]) -> "Untold":
    raise OSError("There are too many watches.")


@pytest.mark.parametrize("notices", [untold, impossible])
async def test_where_nothing_is_told_the_file_is_looked_at(
    notices: Callable[..., Untold], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "FileNotices", notices)
    async with two_connections(tmp_path / "queue.db") as (listener, writer):
        listener.changes.mark()
        await asyncio.sleep(2 * changes.NOTICED_SECONDS)
        await wakes(listener, writer)
        assert not listener.changes.has_notices, (
            "a system that has failed to tell once is not relied on"
        )
        await wakes(listener, writer)
