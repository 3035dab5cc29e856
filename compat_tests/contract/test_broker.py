"""What every broker promises, tried on each of them."""

import asyncio
import contextlib
import json
import logging
import multiprocessing
import os
import random
import sqlite3
import stat
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from multiprocessing.synchronize import Barrier
from pathlib import Path

import aiormq
import pytest
import redis
from taskiq import AckableMessage, BrokerMessage, TaskiqMessage
from taskiq.formatters.json_formatter import JSONFormatter

from compat_tests.brokers import CONTRACT, Limit, has_limit
from compat_tests.conftest import QUEUES, other_prefix
from compat_tests.our_tables import our_tables
from compat_tests.servers import RedisServer, own_redis
from compat_tests.sqs_servers import messages_on_sqs, pass_time
from compat_tests.waiting import eventually, eventually_async
from dagster_taskiq.errors import ConfigError, UnusableMessageError
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.transport.backend import StateBackend
from dagster_taskiq.transport.broker import QueueBroker
from dagster_taskiq.transport.messages import MAX_DELIVERIES, Delivery
from dagster_taskiq.transport.registry import make, make_broker
from dagster_taskiq.wire.labels import UNITS
from dagster_taskiq.wire.queues import run_queue
from dagster_taskiq.wire.records import Task, TaskState
from dagster_taskiq.wire.step_task_ids import step_task_id

pytestmark = pytest.mark.anyio

Open = Callable[..., "contextlib.AbstractAsyncContextManager[QueueBroker]"]

#: Longer than any test: a claim that is seen again within it was not kept exclusive.
LONG_LEASE = 3600.0
#: So short that a claim is old by the next look.
SHORT_LEASE = 0.05


@pytest.fixture(scope="module", params=CONTRACT)
def broker_kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@asynccontextmanager
async def opened(
    settings: Settings, consumer: str = "a", lease: float = LONG_LEASE
) -> AsyncIterator[QueueBroker]:
    """Open a broker of its own, with its own connection, as another process would."""
    settings = settings.replace(lease=lease, heartbeat_interval=lease / 4)
    # SQS wakes nobody: that goes through the backend.
    broker = make(settings) if on_sqs(settings) else make_broker(settings)
    broker.consumer = consumer
    broker.queues = ("q",)
    async with running(broker):
        yield broker


@asynccontextmanager
async def running(broker: QueueBroker) -> AsyncIterator[None]:
    """Keep a broker connected on the running event loop."""
    broker.use_running_loop()
    await broker.startup()
    try:
        yield
    finally:
        await broker.shutdown()


@pytest.fixture
async def broker(settings: Settings) -> AsyncIterator[QueueBroker]:
    async with opened(settings) as broker:
        yield broker


@pytest.fixture
async def other(settings: Settings) -> AsyncIterator[QueueBroker]:
    """A second consumer of the same queues, which respects the claims of the first."""
    async with opened(settings, "b") as broker:
        yield broker


@pytest.fixture
async def impatient(settings: Settings) -> AsyncIterator[QueueBroker]:
    """A second consumer for whom the lease of every claim has passed."""
    async with opened(settings, "impatient", SHORT_LEASE) as broker:
        yield broker


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    with own_redis() as server:
        yield server


@pytest.fixture
def redis_settings(redis_url: str, settings_prefix: str) -> Settings:
    return Settings(broker=redis_url, prefix=settings_prefix)


@pytest.fixture
def settings_prefix(request: pytest.FixtureRequest) -> str:
    return f"test-{os.getpid()}-{request.node.name}"


def body_of(task_id: str, **labels: object) -> bytes:
    message = TaskiqMessage(task_id=task_id, task_name="t", labels=labels, args=[], kwargs={})
    return JSONFormatter().dumps(message).message


async def put(broker: QueueBroker, *task_ids: str, queue: str = "q", priority: int = 0) -> None:
    for task_id in task_ids:
        await broker.put(task_id, queue, priority, body_of(task_id))


async def claim(broker: QueueBroker) -> Delivery:
    delivery = await broker.claim()
    assert delivery is not None
    return delivery


async def claim_all(broker: QueueBroker) -> list[Delivery]:
    found = []
    while (delivery := await broker.claim()) is not None:
        found.append(delivery)
    return found


async def ids(broker: QueueBroker) -> list[str]:
    return [delivery.task_id for delivery in await claim_all(broker)]


async def claim_again(broker: QueueBroker) -> Delivery:
    """Claim what someone else's lease has run out on."""
    delivery = await eventually_async(broker.claim)
    assert delivery is not None
    return delivery


async def fall_silent(broker: QueueBroker) -> None:
    """Have the claims of a broker become those of a worker that died.

    A short lease passes by itself. On RabbitMQ a claim lasts for as long as the connection through
    which it was made, so that is cut; on SQS for as long as the lease of who made it.
    """
    if on_rabbitmq(broker.settings):
        await broker.connection.abort()  # type: ignore[attr-defined]
    elif on_sqs(broker.settings):
        seconds = broker.settings.lease + 1.0
        await move_clock(broker.settings, seconds)
        for each in broker._claims.held.values():  # type: ignore[attr-defined]
            each.begun_at -= seconds


def on_rabbitmq(settings: Settings) -> bool:
    return settings.broker.startswith("amqp")


def on_sqs(settings: Settings) -> bool:
    return settings.broker.startswith("sqs")


async def move_clock(settings: Settings, seconds: float) -> None:
    """Have time pass for all messages that are on an SQS."""
    endpoint = str(settings.broker_options["endpoint_url"])
    await asyncio.to_thread(pass_time, endpoint, settings.prefix, seconds)


def claims(settings: Settings, count: int) -> int | None:
    """Return what depths say of so many claims."""
    return None if has_limit(settings, Limit.CLAIMS) else count


def in_any_order(settings: Settings, names: list[str]) -> list[str]:
    """Return what was claimed of several queues as it is compared: in order, where there is one."""
    return sorted(names) if has_limit(settings, Limit.ONE_ORDER) else names


async def discard(broker: QueueBroker, *task_ids: str, count: int) -> None:
    """Discard messages, of which so many are there.

    Where none can be deleted, they stay until somebody claims them, who is not to start them.
    """
    possible = not has_limit(broker.settings, Limit.DISCARD)
    assert await broker.discard(task_ids) == (count if possible else 0)


async def left_on_server(settings: Settings) -> object:
    """Return what the server still holds of messages; empty when it holds none.

    Redis keeps the names of queues, whatever went through them, and the bells that rang for nobody;
    RabbitMQ keeps empty queues.
    """
    if on_rabbitmq(settings):
        return await ready_on_rabbitmq(settings)
    if on_sqs(settings):
        endpoint = str(settings.broker_options["endpoint_url"])
        return await asyncio.to_thread(messages_on_sqs, endpoint, f"{settings.prefix}-")
    if settings.broker.startswith("redis"):
        client = redis.Redis.from_url(settings.broker)
        names = [key.decode() for key in client.keys(f"{settings.prefix}:*")]
        kept = (":queues", ":wakeups:", ":clock")
        return [name for name in names if not any(each in name for each in kept)]
    if settings.broker.startswith("postgresql"):
        with our_tables(settings.broker) as cursor:
            cursor.execute("SELECT * FROM dagster_taskiq_messages")
            return cursor.fetchall()
    assert settings.broker.startswith("sqlite"), "Look for what is left on this server."
    path = settings.broker.removeprefix("sqlite:///")
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT * FROM dagster_taskiq_messages").fetchall()


async def ready_on_rabbitmq(settings: Settings) -> dict[str, int]:
    """Return how many messages are in each work queue that has any."""
    connection = await aiormq.connect(settings.broker)
    found = {}
    for queue in (*QUEUES, *map(run_queue, QUEUES)):
        channel = await connection.channel()
        name = f"{settings.prefix}:queue:{queue}"
        with contextlib.suppress(aiormq.exceptions.ChannelNotFoundEntity):
            found[queue] = (await channel.queue_declare(name, passive=True)).message_count or 0
    await connection.close()
    return {queue: count for queue, count in found.items() if count}


class Slots:
    """A gate with so many slots; a slot is free again when the test says so."""

    def __init__(self, count: int) -> None:
        self.free = asyncio.Semaphore(count)
        self.expected: list[str] = []
        self.expected_runs: list[str] = []
        self.seats = asyncio.Event()
        self.seats.set()

    @property
    def takes_runs(self) -> bool:
        return self.seats.is_set()

    async def until_takes_runs(self) -> None:
        await self.seats.wait()

    async def reserve(self) -> None:
        await self.free.acquire()

    def unreserve(self) -> None:
        self.free.release()

    def expect(self, task_id: str, is_run: bool) -> None:
        self.expected.append(task_id)
        if is_run:
            self.expected_runs.append(task_id)

    def end_listening(self) -> None:
        pass


class Listening:
    """A listener in the background, and what it has been handed."""

    def __init__(self, broker: QueueBroker) -> None:
        self.broker = broker
        self.messages: list[AckableMessage] = []
        self.task = asyncio.ensure_future(self._run())

    async def _run(self) -> None:
        async with aclosing(self.broker.listen()) as messages:
            async for message in messages:
                self.messages.append(message)

    @property
    def ids(self) -> list[str]:
        # A listener that has ended would leave the test to wait for nothing.
        if self.task.done():
            self.task.result()
        return [JSONFormatter().loads(each.data).task_id for each in self.messages]

    async def has(self, count: int) -> bool:
        return len(self.ids) >= count

    async def end(self) -> None:
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task


@asynccontextmanager
async def listening(broker: QueueBroker) -> AsyncIterator[Listening]:
    listener = Listening(broker)
    try:
        yield listener
    finally:
        await listener.end()


# -- order -----------------------------------------------------------------------------------


async def test_the_highest_priority_comes_first_also_negative_and_above_ten(
    settings: Settings, broker: QueueBroker
) -> None:
    levels = [0, 5, -3, 100, 11, 9, 10, -20, 2_000_000, -1, 1]
    for level in levels:
        await put(broker, str(level), priority=level)
    # What is beyond counts as the outermost.
    most = 10 if has_limit(settings, Limit.TEN_LEVELS) else max(levels)
    in_order = sorted(levels, key=lambda level: -max(-most, min(most, level)))
    assert await ids(broker) == [str(level) for level in in_order]


async def test_equal_priorities_come_in_order_of_arrival(broker: QueueBroker) -> None:
    names = [f"t{number}" for number in range(40)]
    await put(broker, *names)
    assert await ids(broker) == names


async def test_a_later_message_of_higher_priority_overtakes(broker: QueueBroker) -> None:
    await put(broker, "low1", "low2")
    assert (await claim(broker)).task_id == "low1"
    await put(broker, "high", priority=7)
    assert await ids(broker) == ["high", "low2"]


async def test_several_queues_are_served_as_one_by_priority_then_arrival(
    settings: Settings, broker: QueueBroker
) -> None:
    broker.queues = ("q2", "q", "q3")
    expected = []
    for number in range(12):
        name = f"t{number}"
        await put(broker, name, queue=("q", "q2", "q3")[number % 3])
        expected.append(name)
    await put(broker, "urgent", queue="q3", priority=1)
    first, *others = await ids(broker)
    assert first == "urgent"
    assert in_any_order(settings, others) == in_any_order(settings, expected)


async def test_arrival_decides_between_queues_also_behind_messages_that_are_claimed(
    settings: Settings, broker: QueueBroker, other: QueueBroker
) -> None:
    await put(broker, "q-1")
    await put(broker, "p-1", queue="p")
    await put(broker, "q-2")
    assert (await claim(other)).task_id == "q-1"
    broker.queues = ("q", "p")
    assert in_any_order(settings, await ids(broker)) == ["p-1", "q-2"]


async def test_a_queue_that_is_not_served_is_left_alone(broker: QueueBroker) -> None:
    await put(broker, "elsewhere", queue="gpu")
    await put(broker, "here")
    assert await ids(broker) == ["here"]
    broker.queues = ("gpu",)
    assert await ids(broker) == ["elsewhere"]


async def test_another_prefix_on_the_same_server_is_another_world(settings: Settings) -> None:
    if settings.broker.startswith("memory"):
        settings = settings.replace(broker=f"{settings.broker}-{settings.prefix}")
        theirs = settings.replace(broker=f"{settings.broker}-other")
    else:
        theirs = settings.replace(prefix=other_prefix(settings.prefix))
    async with opened(settings) as mine, opened(theirs) as stranger:
        await put(mine, "t")
        assert await stranger.claim() is None
        assert await stranger.depths() == []
        assert await stranger.discard(["t"]) == 0
        assert await ids(mine) == ["t"]


# -- claims ----------------------------------------------------------------------------------


async def test_a_delivery_carries_what_was_put(broker: QueueBroker) -> None:
    await broker.put("t", "q", 3, b"\x00\xff any bytes")
    delivery = await claim(broker)
    assert (delivery.task_id, delivery.queue) == ("t", "q")
    assert (delivery.body, delivery.attempt) == (b"\x00\xff any bytes", 1)


async def test_each_message_goes_to_one_of_two_consumers(
    broker: QueueBroker, other: QueueBroker
) -> None:
    names = [f"t{number}" for number in range(60)]
    await put(broker, *names)
    mine, theirs = await asyncio.gather(ids(broker), ids(other))
    assert sorted(mine + theirs) == sorted(names)


async def test_a_claimed_message_is_not_delivered_again_within_the_lease(
    broker: QueueBroker, other: QueueBroker
) -> None:
    await put(broker, "t")
    await claim(broker)
    assert await other.claim() is None
    assert await broker.claim() is None


async def test_a_claimed_message_that_never_started_is_delivered_after_the_lease(
    broker: QueueBroker, impatient: QueueBroker
) -> None:
    await put(broker, "t", "behind")
    await claim(broker)
    await fall_silent(broker)
    again = await claim_again(impatient)
    # "behind" may come in between, while the lease of "t" has not passed.
    if again.task_id == "behind":
        again = await claim_again(impatient)
    assert (again.task_id, again.attempt) == ("t", 2)


async def test_many_live_claims_do_not_hide_one_whose_lease_has_passed(
    settings: Settings, broker: QueueBroker, impatient: QueueBroker
) -> None:
    # Redis looks at so many claims that a few do not tell; on SQS each takes a request or two.
    names = [f"t{number:02}" for number in range(5 if on_sqs(settings) else 30)]
    await put(broker, *names)
    await claim_all(broker)
    await fall_silent(broker)
    found = {(await claim_again(impatient)).task_id for _ in names}
    assert found <= set(names)
    await eventually_async(lambda: _collect(impatient, found, len(names)))


async def _collect(broker: QueueBroker, found: set[str], wanted: int) -> bool:
    found.update(await ids(broker))
    return len(found) == wanted


async def test_a_released_message_is_back_at_its_old_place_at_once(
    broker: QueueBroker, other: QueueBroker
) -> None:
    await put(broker, "first", "second", "third")
    first = await claim(broker)
    await broker.release(first)
    assert await ids(other) == ["first", "second", "third"]


async def test_a_release_among_many_claims_is_found_at_once(
    broker: QueueBroker, other: QueueBroker
) -> None:
    # Redis looks at ten pending entries for each one it is asked for, unless told otherwise.
    await put(broker, *(f"t{number:02}" for number in range(32)))
    claimed = [await claim(broker) for _ in range(30)]
    await broker.release(claimed[25])
    assert await ids(other) == ["t25", "t30", "t31"]


async def test_a_release_does_not_count_as_an_attempt(
    broker: QueueBroker, impatient: QueueBroker
) -> None:
    await put(broker, "t")
    await claim(broker)
    await fall_silent(broker)
    again = await claim_again(impatient)
    assert again.attempt == 2
    await impatient.release(again)
    assert (await claim(broker)).attempt == 2


async def test_a_late_release_does_not_take_a_message_from_its_new_owner(
    broker: QueueBroker, other: QueueBroker, impatient: QueueBroker
) -> None:
    await put(broker, "t")
    mine = await claim(broker)
    await fall_silent(broker)
    await claim_again(impatient)
    await broker.release(mine)
    assert await other.claim() is None


async def test_a_release_of_a_message_that_has_gone_does_nothing(broker: QueueBroker) -> None:
    await put(broker, "t")
    delivery = await claim(broker)
    await broker.acknowledge(delivery)
    await broker.release(delivery)
    assert await broker.claim() is None
    assert await broker.depths() == []


async def test_acknowledge_deletes_for_good(
    settings: Settings, broker: QueueBroker, impatient: QueueBroker
) -> None:
    await put(broker, "t")
    await put(broker, "u", priority=4)
    for delivery in await claim_all(broker):
        await broker.acknowledge(delivery)
    assert await impatient.claim() is None
    assert await broker.depths() == []
    await fall_silent(broker)
    if not settings.broker.startswith("memory"):
        assert not await left_on_server(settings)


async def test_discard_deletes_what_waits_and_counts_it(broker: QueueBroker) -> None:
    await put(broker, "running", "t1", "t2", "t3")
    await put(broker, "t4", queue="other", priority=-2)
    assert (await claim(broker)).task_id == "running"
    await discard(broker, "running", "t1", "t4", "unknown", count=2)
    await discard(broker, count=0)
    broker.queues = ("q", "other")
    left = ["t1", "t2", "t3", "t4"] if has_limit(broker.settings, Limit.DISCARD) else ["t2", "t3"]
    assert await ids(broker) == left


async def test_a_released_message_can_be_discarded(broker: QueueBroker) -> None:
    await put(broker, "t")
    await broker.release(await claim(broker))
    await discard(broker, "t", count=1)
    assert await ids(broker) == (["t"] if has_limit(broker.settings, Limit.DISCARD) else [])


async def test_depths_tell_waiting_claimed_and_the_age_of_the_oldest(
    settings: Settings, broker: QueueBroker
) -> None:
    assert await broker.depths() == []
    await put(broker, "a", "b", "c")
    await put(broker, "d", queue="p", priority=-1)
    first = await claim(broker)
    p, q = await broker.depths()
    assert (p.queue, p.waiting, p.claimed) == ("p", 1, claims(settings, 0))
    assert (q.queue, q.waiting, q.claimed) == ("q", 2, claims(settings, 1))
    if not has_limit(settings, Limit.AGE):
        assert q.oldest_age >= p.oldest_age >= 0
    await broker.release(first)
    _, q = await broker.depths()
    assert (q.waiting, q.claimed) == (3, claims(settings, 0))


async def test_depths_tell_how_many_wait_with_each_priority(
    settings: Settings, broker: QueueBroker
) -> None:
    await put(broker, "a", "b", priority=5)
    await put(broker, "c", "d")
    await put(broker, "e", priority=-2)
    await broker.put("later", "q", 7, body_of("later"), delay=600.0)
    first = await claim(broker)

    async def priorities(broker: QueueBroker) -> object:
        (row,) = await broker.depths()
        return None if row.priorities is None else dict(row.priorities)

    if has_limit(settings, Limit.PRIORITIES):
        assert await priorities(broker) is None
        return
    assert await priorities(broker) == {5: 1, 0: 2, -2: 1}
    await broker.release(first)
    assert await priorities(broker) == {5: 2, 0: 2, -2: 1}


async def test_depths_count_a_claim_whose_lease_has_passed_as_waiting(
    settings: Settings, broker: QueueBroker, impatient: QueueBroker
) -> None:
    await put(broker, "a")
    await claim(broker)
    await fall_silent(broker)

    async def waiting() -> bool:
        rows = await impatient.depths()
        return [(row.waiting, row.claimed) for row in rows] == [(1, claims(settings, 0))]

    await eventually_async(waiting)


async def test_a_rejected_message_is_kept_aside_and_never_runs(
    broker: QueueBroker, impatient: QueueBroker
) -> None:
    await put(broker, "bad", "good")
    await broker.reject(await claim(broker), "nobody understands it")
    assert await broker.rejected() == 1
    assert await ids(broker) == ["good"]
    await fall_silent(broker)
    found = await claim_again(impatient)
    assert found.task_id == "good"
    await impatient.acknowledge(found)
    assert await impatient.claim() is None
    assert await broker.depths() == []
    assert await broker.rejected() == 1


async def test_a_message_of_ten_megabytes_comes_through(broker: QueueBroker) -> None:
    body = random.Random(1).randbytes(10_000_000)
    if has_limit(broker.settings, Limit.SIZE):
        with pytest.raises(ConfigError, match="big"):
            await broker.put("big", "q", 0, body)
        assert await broker.depths() == []
        return
    await broker.put("big", "q", 0, body)
    delivery = await claim(broker)
    assert delivery.body == body
    await broker.acknowledge(delivery)
    assert await broker.claim() is None


# -- sending ---------------------------------------------------------------------------------


def message(task_id: str, **labels: object) -> BrokerMessage:
    body = body_of(task_id, **labels)
    return BrokerMessage(task_id=task_id, task_name="t", message=body, labels=dict(labels))


async def test_labels_say_the_queue_and_the_priority(settings: Settings) -> None:
    async with opened(settings.replace(queue="standard")) as broker:
        await broker.kick(message("plain"))
        await broker.kick(message("urgent", priority=5))
        await broker.kick(message("text", priority="-5"))
        await broker.kick(message("elsewhere", queue_name="q"))
        broker.queues = ("standard",)
        assert await ids(broker) == ["urgent", "plain", "text"]
        broker.queues = ("q",)
        assert await ids(broker) == ["elsewhere"]


@pytest.mark.parametrize("priority", ["high", "2.5", 2.5, [1]])
async def test_a_priority_that_is_no_integer_is_refused_by_name(
    broker: QueueBroker, priority: object
) -> None:
    with pytest.raises(ConfigError, match=r'"priority" of task t must be an integer') as caught:
        await broker.kick(message("t", priority=priority))
    assert repr(priority) in str(caught.value)
    assert await broker.claim() is None


async def test_messages_that_are_sent_together_go_each_where_its_labels_say(
    broker: QueueBroker,
) -> None:
    together = [
        message("plain", queue_name="q"),
        message("elsewhere", queue_name="other"),
        message("later", queue_name="q", delay=600),
        message("urgent", queue_name="q", priority=5),
        message("as plain", queue_name="q"),
    ]
    await broker.kick_all(together)
    assert await ids(broker) == ["urgent", "plain", "as plain"]
    broker.queues = ("other",)
    assert await ids(broker) == ["elsewhere"]
    await discard(broker, "later", count=1)


async def test_of_messages_that_are_sent_together_none_is_where_one_is_refused(
    broker: QueueBroker,
) -> None:
    with pytest.raises(ConfigError, match="of task t must be an integer"):
        await broker.kick_all([message("right"), message("wrong", priority="high")])
    assert await broker.depths() == []


@pytest.mark.parametrize("name", sorted(UNITS))
@pytest.mark.parametrize("value", ["soon", -1, float("inf"), [1]])
async def test_a_time_that_is_no_number_is_refused_by_name(
    broker: QueueBroker, name: str, value: object
) -> None:
    with pytest.raises(ConfigError, match=f'"{name}" must be a number of {UNITS[name]}') as caught:
        await broker.kick(message("t", **{name: value}))
    assert repr(value) in str(caught.value)
    assert await broker.depths() == []


# -- listening -------------------------------------------------------------------------------


async def test_a_listener_that_waits_gets_what_is_sent_later(
    broker: QueueBroker, other: QueueBroker
) -> None:
    async with listening(broker) as listener:
        for number in range(3):
            await put(other, f"t{number}")
            await eventually_async(lambda number=number: listener.has(number + 1))
        assert listener.ids == ["t0", "t1", "t2"]


async def test_a_message_nobody_can_read_is_set_aside_with_the_reason_logged(
    broker: QueueBroker, caplog: pytest.LogCaptureFixture
) -> None:
    await broker.put("garbage", "q", 9, b"\x80 not even text")
    await broker.put("other-shape", "q", 9, json.dumps({"hello": "world"}).encode())
    labels = {"labels": {"n": "x"}, "labels_types": {"n": 2}}
    wrong = {"task_id": "x", "task_name": "t", "args": [], "kwargs": {}, **labels}
    await broker.put("wrong-label", "q", 9, json.dumps(wrong).encode())
    await put(broker, "good")
    with caplog.at_level(logging.ERROR, "dagster_taskiq.broker"):
        async with listening(broker) as listener:
            await eventually_async(lambda: listener.has(1))
            assert listener.ids == ["good"]
    assert await broker.rejected() == 3
    said = [record.getMessage() for record in caplog.records]
    for name, text in zip(("garbage", "other-shape", "wrong-label"), said, strict=True):
        assert text.startswith(f"Set aside message {name} of queue q: it cannot be read: ")
        assert "\n" not in text


async def test_who_waits_for_a_task_whose_message_is_set_aside_is_told(settings: Settings) -> None:
    broker = make(settings.replace(lease=LONG_LEASE))
    broker.queues, backend = ("q",), broker.result_backend
    assert isinstance(backend, StateBackend)
    broker.use_running_loop()
    await broker.startup()
    await backend.startup()
    step = step_task_id("run", "step", 0)
    await backend.submitted([Task("recorded"), Task("of-run", run_id="run")])
    for task_id in ("unknown", "recorded", "of-run", step):
        await broker.put(task_id, "q", 0, b"\x80 not even text")
    await put(broker, "good")
    async with listening(broker) as listener:
        await eventually_async(lambda: listener.has(1))

    for task_id in ("unknown", "recorded"):
        assert await backend.is_result_ready(task_id)
        error = (await backend.get_result(task_id)).error
        assert isinstance(error, UnusableMessageError)
        assert f"The message of task {task_id} was set aside: it cannot be read" in str(error)
    assert await backend.state_of("of-run") is TaskState.WAITING
    assert await backend.state_of(step) is None
    await backend.shutdown()
    await broker.shutdown()


async def test_a_listener_that_cannot_wait_logs_why_once_and_takes_what_comes(
    broker: QueueBroker,
    other: QueueBroker,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tries = 0

    async def refused(timeout: float) -> None:
        nonlocal tries
        tries += 1
        raise ConfigError("No permission to wait.")

    async def tried_again() -> bool:
        return tries >= 3

    monkeypatch.setattr(broker, "wait_for_work", refused)
    async with listening(broker) as listener:
        await eventually_async(tried_again)
        logged = [record.getMessage() for record in caplog.records]
        assert sum("No permission to wait" in text for text in logged) == 1
        await put(other, "late")
        await eventually_async(lambda: listener.has(1))


async def test_a_message_that_kills_its_workers_is_set_aside_in_the_end(
    broker: QueueBroker, impatient: QueueBroker, caplog: pytest.LogCaptureFixture
) -> None:
    await put(broker, "poison")
    for attempt in range(1, MAX_DELIVERIES + 1):
        assert (await claim_again(impatient)).attempt == attempt
        await fall_silent(impatient)
    await put(broker, "good", priority=-1)

    async def set_aside() -> bool:
        return await broker.rejected() == 1

    async with listening(impatient) as listener:
        await eventually_async(set_aside)
        await eventually_async(lambda: listener.has(1))
        assert set(listener.ids) == {"good"}
    assert f"handed out {MAX_DELIVERIES} times and never started" in caplog.text


async def test_no_more_messages_are_handed_out_than_there_are_slots(
    settings: Settings, broker: QueueBroker, other: QueueBroker
) -> None:
    broker.gate, other.gate = mine, theirs = Slots(1), Slots(2)
    await put(broker, *(f"t{number}" for number in range(6)))
    async with listening(broker) as first, listening(other) as second:
        await eventually_async(lambda: first.has(1))
        await eventually_async(lambda: second.has(2))
        (depth,) = await broker.depths()
        assert (depth.waiting, depth.claimed) == (3, claims(settings, 3))
        assert (len(first.ids), len(second.ids)) == (1, 2)
        assert (mine.expected, theirs.expected) == (first.ids, second.ids)
        mine.free.release()
        await eventually_async(lambda: first.has(2))
        assert len(second.ids) == 2


async def test_runs_and_steps_of_a_queue_are_one_order(
    settings: Settings, broker: QueueBroker
) -> None:
    runs = run_queue("q")
    await put(broker, "run1", queue=runs)
    await put(broker, "step1")
    await put(broker, "run2", queue=runs, priority=2)
    await put(broker, "step2", priority=2)
    await put(broker, "elsewhere", queue=run_queue("q2"))
    there = {"q", runs, run_queue("q2")}
    assert {depth.queue for depth in await broker.depths()} == there
    found = await ids(broker)
    for first, expected in ((0, ["run2", "step2"]), (2, ["run1", "step1"])):
        assert in_any_order(settings, found[first : first + 2]) == expected
    # Where nobody is told of claims, a queue of which all is claimed looks like an empty one.
    if has_limit(settings, Limit.CLAIMS):
        there = {run_queue("q2")}
    assert {depth.queue for depth in await broker.depths()} == there


async def test_where_no_run_is_taken_the_steps_behind_it_are(broker: QueueBroker) -> None:
    broker.gate = gate = Slots(10)
    gate.seats.clear()
    await put(broker, "run", queue=run_queue("q"), priority=5)
    await put(broker, "step1")
    async with listening(broker) as listener:
        await eventually_async(lambda: listener.has(1))
        await put(broker, "step2")
        await eventually_async(lambda: listener.has(2))
        assert listener.ids == ["step1", "step2"]
        gate.seats.set()
        await eventually_async(lambda: listener.has(3))
        assert listener.ids == ["step1", "step2", "run"]
        assert gate.expected_runs == ["run"]


async def test_a_run_that_waits_for_a_seat_is_taken_when_one_is_free(
    broker: QueueBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A listener that waits for messages alone would wait for longer than the test does.
    monkeypatch.setattr("dagster_taskiq.transport.listener.IDLE_LOOK_SECONDS", 600.0)
    broker.gate = gate = Slots(1)
    gate.seats.clear()
    await put(broker, "run", queue=run_queue("q"))
    async with listening(broker) as listener:
        await eventually_async(lambda: _is_locked(gate))
        await asyncio.sleep(0)
        gate.seats.set()
        await eventually_async(lambda: listener.has(1))


async def test_acknowledging_a_listened_message_deletes_it(broker: QueueBroker) -> None:
    await put(broker, "t")
    async with listening(broker) as listener:
        await eventually_async(lambda: listener.has(1))
        await listener.messages[0].ack()
    assert await broker.depths() == []


async def test_a_message_that_is_given_back_goes_to_someone_else(
    broker: QueueBroker, other: QueueBroker
) -> None:
    await put(broker, "t")
    async with listening(broker) as listener:
        await eventually_async(lambda: listener.has(1))
        await listener.end()
    await broker.listener.give_back("t")
    await broker.listener.give_back("t")
    # On SQS it may first come to a poll that nobody waits for any more.
    assert (await claim_again(other)).task_id == "t"


async def test_what_a_broker_has_not_started_is_given_back_when_it_closes(
    settings: Settings, other: QueueBroker
) -> None:
    async with opened(settings, "leaver") as leaver:
        await put(leaver, "t")
        async with listening(leaver) as listener:
            await eventually_async(lambda: listener.has(1))
    assert await ids(other) == ["t"]


async def test_a_listener_with_two_messages_of_a_task_deletes_one_and_the_other(
    settings: Settings, broker: QueueBroker, other: QueueBroker
) -> None:
    """As a worker does: it starts the task with one, and drops the other."""
    await put(other, "t")
    await put(other, "t")
    async with listening(broker) as listener:
        await eventually_async(lambda: listener.has(2))
        await broker.listener.acknowledge("t")
        await broker.listener.acknowledge("t")
    assert broker.listener.claimed == []
    assert await other.depths() == []
    await fall_silent(broker)
    if not settings.broker.startswith("memory"):
        assert not await left_on_server(settings)


async def test_a_listener_that_is_cancelled_at_any_moment_loses_nothing(
    broker: QueueBroker, other: QueueBroker
) -> None:
    moments = random.Random(7)
    seen: list[str] = []
    names = [f"t{number}" for number in range(60)]
    for name in names:
        waiting = asyncio.ensure_future(anext(broker.listen()))
        await asyncio.sleep(moments.choice((0, 0, 0.0005, 0.001, 0.002)))
        sending = asyncio.ensure_future(put(other, name))
        await asyncio.sleep(moments.choice((0, 0, 0.0005, 0.001, 0.002, 0.004)))
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            seen.append(JSONFormatter().loads((await waiting).data).task_id)
        await sending
    # The lease is an hour: whatever was claimed and not given back would be missing here.
    seen += await ids(other)
    assert sorted(seen) == sorted(names)


async def test_a_cancelled_listener_gives_its_slot_back(broker: QueueBroker) -> None:
    broker.gate = gate = Slots(1)
    async with listening(broker):
        await eventually_async(lambda: _is_locked(gate))
    assert not gate.free.locked()


async def _is_locked(gate: Slots) -> bool:
    return gate.free.locked()


# -- durability ------------------------------------------------------------------------------


@pytest.fixture
def embedded(tmp_path: Path) -> Settings:
    return Settings(broker=f"sqlite:///{tmp_path / 'sub' / 'queue.db'}")


def path_of(settings: Settings) -> Path:
    return Path(settings.broker.removeprefix("sqlite:///"))


async def test_embedded_messages_and_claims_outlive_those_who_opened_the_file(
    embedded: Settings,
) -> None:
    async with opened(embedded) as broker:
        await put(broker, "claimed", "waiting")
        await claim(broker)
    async with opened(embedded, "b") as broker:
        assert await ids(broker) == ["waiting"]
    async with opened(embedded, "c", SHORT_LEASE) as broker:
        assert (await claim_again(broker)).task_id == "claimed"


async def test_the_embedded_file_is_readable_by_its_owner_only(embedded: Settings) -> None:
    async with opened(embedded) as broker:
        await put(broker, "t")
        files = list(path_of(embedded).parent.iterdir())
        assert {file.name for file in files} >= {"queue.db", "queue.db-wal"}
        for file in files:
            assert stat.S_IMODE(file.stat().st_mode) == 0o600, file


async def test_the_embedded_file_does_not_grow_with_history(embedded: Settings) -> None:
    async def pass_through(broker: QueueBroker, count: int) -> int:
        for number in range(count):
            await put(broker, f"t{number}", priority=number % 3)
            await broker.acknowledge(await claim(broker))
        with contextlib.closing(sqlite3.connect(path_of(embedded))) as connection:
            return int(connection.execute("PRAGMA page_count").fetchone()[0])

    async with opened(embedded) as broker:
        before = await pass_through(broker, 20)
        assert await pass_through(broker, 400) == before


def _open_fresh(files: "list[Settings]", name: str, start: "Barrier") -> None:
    async def work(settings: Settings) -> None:
        async with opened(settings, name) as broker:
            await put(broker, name)
            if settings is files[-1]:
                os._exit(9)  # nothing is closed

    for settings in files:
        start.wait(60)
        asyncio.run(work(settings))


async def test_processes_may_open_a_new_file_at_once_and_die_after_sending(
    tmp_path: Path,
) -> None:
    context = multiprocessing.get_context("spawn")
    files = [Settings(broker=f"sqlite:///{tmp_path / f'{number}.db'}") for number in range(20)]
    names = ["p0", "p1"]
    start = context.Barrier(len(names))
    openers = [context.Process(target=_open_fresh, args=(files, name, start)) for name in names]
    for opener in openers:
        opener.start()
    for opener in openers:
        await asyncio.to_thread(opener.join, 120)
    assert [opener.exitcode for opener in openers] == [9] * len(names)
    for settings in files:
        async with opened(settings) as broker:
            assert sorted(await ids(broker)) == names


async def test_redis_messages_and_claims_outlive_the_death_of_the_server(
    redis_server: RedisServer,
) -> None:
    settings = Settings(broker=redis_server.url)
    async with opened(settings) as broker:
        await put(broker, "claimed", "waiting")
        await put(broker, "urgent", priority=3)
        assert [(await claim(broker)).task_id for _ in range(2)] == ["urgent", "claimed"]
    redis_server.kill()
    redis_server.start()
    async with opened(settings, "b") as broker:
        assert await ids(broker) == ["waiting"]
    async with opened(settings, "c", SHORT_LEASE) as broker:
        assert (await claim_again(broker)).task_id == "urgent"


async def test_a_redis_listener_outlives_restarts_of_the_server(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings(broker=redis_server.url)
    async with opened(settings) as broker, listening(broker) as listener:
        for number in range(2):
            async with opened(settings, "sender") as sender:
                await put(sender, f"t{number}")
            await eventually_async(lambda number=number: listener.has(number + 1))
            redis_server.stop()
            await eventually_async(lambda: _says("does not answer", caplog))
            redis_server.start()
            caplog.clear()
        async with opened(settings, "sender") as sender:
            await put(sender, "last")
        await eventually_async(lambda: listener.has(3))
        assert listener.ids == ["t0", "t1", "last"]


async def _says(text: str, caplog: pytest.LogCaptureFixture) -> bool:
    return text in caplog.text


async def test_a_redis_listener_outlives_dropped_connections_and_forgotten_scripts(
    redis_server: RedisServer,
) -> None:
    settings = Settings(broker=redis_server.url)
    admin = redis.Redis.from_url(redis_server.url)
    async with opened(settings) as broker, listening(broker) as listener:
        for number in range(4):
            async with opened(settings, "sender") as sender:
                await put(sender, f"t{number}")
            await eventually_async(lambda number=number: listener.has(number + 1))
            admin.client_kill_filter(_type="normal", skipme=True)
            admin.script_flush()
        assert listener.ids == ["t0", "t1", "t2", "t3"]


async def test_a_redis_server_that_lost_its_data_is_served_on(redis_server: RedisServer) -> None:
    settings = Settings(broker=redis_server.url)
    async with opened(settings) as broker, listening(broker) as listener:
        await put(broker, "before")
        await eventually_async(lambda: listener.has(1))
        redis.Redis.from_url(redis_server.url).flushall()
        await listener.messages[0].ack()
        await put(broker, "after")
        await eventually_async(lambda: listener.has(2))


async def test_memory_on_redis_does_not_grow_with_history(redis_settings: Settings) -> None:
    client = redis.Redis.from_url(redis_settings.broker)

    def everything() -> dict[str, int]:
        """Return each key of ours with the number of things in it."""
        sizes = {"stream": client.xlen, "zset": client.zcard, "set": client.scard}
        sizes |= {"hash": client.hlen, "list": client.llen, "string": lambda key: 1}
        found = {}
        for key in client.keys(f"{redis_settings.prefix}:*"):
            found[key.decode()] = int(sizes[client.type(key).decode()](key))
        return found

    async def pass_through(broker: QueueBroker, count: int) -> dict[str, int]:
        for number in range(count):
            await put(broker, f"t{number}", priority=number % 5)
            await broker.acknowledge(await claim(broker))
        return everything()

    async with opened(redis_settings) as broker:
        before = await pass_through(broker, 10)
        assert await pass_through(broker, 1000) == before
        assert max(before.values()) <= 1


def test_no_key_on_redis_is_outside_our_prefix(redis_server: RedisServer) -> None:
    async def work() -> None:
        async with opened(Settings(broker=redis_server.url)) as broker:
            await put(broker, "t", "u", "v")
            await broker.reject(await claim(broker), "why not")
            await broker.acknowledge(await claim(broker))

    asyncio.run(work())
    client = redis.Redis.from_url(redis_server.url)
    names = eventually(lambda: client.keys("*"))
    assert all(name.startswith(b"dagster-taskiq:") for name in names)
