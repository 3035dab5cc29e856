"""Messages, state and waiting processes when a RabbitMQ stops, freezes and comes back.

One server for all tests: its start takes ten seconds or more.
"""

import asyncio
import contextlib
import logging
import multiprocessing
import os
import signal
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import aiormq
import psutil
import pytest
from aiormq.abc import DeliveredMessage

from compat_tests.contract import test_backend as states
from compat_tests.contract.test_broker import (
    SHORT_LEASE,
    Listening,
    claim,
    claim_again,
    ids,
    listening,
    opened,
    put,
    ready_on_rabbitmq,
)
from compat_tests.contract.test_worker import INCLUDE, Place
from compat_tests.proxy import Proxy, proxy_to
from compat_tests.sending import open_sender
from compat_tests.servers import RabbitServer, own_rabbit
from compat_tests.waiting import eventually, eventually_async
from compat_tests.workers import WorkerProcess, running_worker
from dagster_taskiq.client import client_for
from dagster_taskiq.errors import ServerUnavailableError
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.settings.urls import redact
from dagster_taskiq.transport.broker import QueueBroker
from dagster_taskiq.transport.messages import Delivery
from dagster_taskiq.wire.notifications import FROM_START
from dagster_taskiq.wire.records import Task, TaskState

# A busy machine starts a server in a minute, and some tests start it twice.
pytestmark = [pytest.mark.anyio, pytest.mark.timeout(400)]

#: A server that ends in good order; one that is killed is the harder case.
STOP = pytest.param("stop", marks=pytest.mark.test_all("the same test with a killed server"))

#: Longer than any outage here: what a worker runs is stopped after a lease without a heartbeat.
LEASE = 120.0

#: The first bytes that a client sends.
AMQP = b"AMQP\0\0\x09\x01"


@pytest.fixture(scope="module")
def shared_server() -> Iterator[RabbitServer]:
    with own_rabbit() as server:
        yield server


@pytest.fixture
def server(shared_server: RabbitServer) -> Iterator[RabbitServer]:
    """The server of this file, which a test may leave as it likes."""
    if shared_server.process is None:
        shared_server.start()
    yield shared_server
    if shared_server.process is not None:
        shared_server.thaw()


@pytest.fixture
def settings(server: RabbitServer) -> Settings:
    return settings_at(server.url)


@pytest.fixture
def proxy(server: RabbitServer) -> Iterator[Proxy]:
    with proxy_to(server.port) as proxy:
        yield proxy


@pytest.fixture
def place(tmp_path: Path) -> Place:
    directory = tmp_path / "place"
    directory.mkdir()
    return Place(directory)


def settings_at(url: str) -> Settings:
    prefix = f"test-{uuid.uuid4().hex[:12]}"
    return Settings(
        broker=url, backend="rpc://", prefix=prefix, heartbeat_interval=0.5, lease=LEASE
    )


def through(proxy: Proxy, settings: Settings) -> Settings:
    return settings.replace(broker=f"amqp://guest:guest@127.0.0.1:{proxy.port}/")


async def go_away_and_come_back(
    leave: Callable[[], None],
    server: RabbitServer,
    meanwhile: Callable[[], Awaitable[bool]] | None = None,
) -> None:
    """Have the server leave and start again; in between, wait for a fact."""
    await asyncio.to_thread(leave)
    if meanwhile is not None:
        await eventually_async(meanwhile)
    await asyncio.to_thread(server.start)


async def received(listener: Listening, task_id: str) -> bool:
    """Whether a message has come, for the first time or again.

    The server does not answer an acknowledgement: one that is on its way when the connection is cut
    is lost, and the message comes once more. A worker then finds the task started, and drops it.
    """
    return task_id in listener.ids


async def logged(text: str, caplog: pytest.LogCaptureFixture) -> bool:
    return text in caplog.text


# -- messages --------------------------------------------------------------------------------


async def test_messages_outlive_the_death_of_the_server_and_so_do_claimed_ones(
    server: RabbitServer, settings: Settings
) -> None:
    async with opened(settings) as broker:
        await put(broker, "claimed", "waiting")
        await put(broker, "urgent", priority=3)
        assert [(await claim(broker)).task_id for _ in range(2)] == ["urgent", "claimed"]
        await go_away_and_come_back(server.kill, server)
        # Their claims were the connection's, and that is no more.
        async with opened(settings, "b") as other:
            assert await ids(other) == ["urgent", "claimed", "waiting"]


@pytest.mark.parametrize("leaving", [STOP, "kill"])
async def test_delayed_messages_outlive_the_server_and_come_when_they_are_due(
    server: RabbitServer, settings: Settings, leaving: str
) -> None:
    # The first is due while the server is away, the others go from queue to queue before and after.
    delays = {"1.0": 1.0, "9.75": 9.75, "15.25": 15.25}
    async with opened(settings) as broker:
        sent = time.monotonic()
        for name, delay in delays.items():
            await broker.put(name, "q", 0, b"", delay)
        await go_away_and_come_back(getattr(server, leaving), server)
        found = []
        for _ in delays:
            found.append((await claim_when_it_answers(broker)).task_id)
            assert time.monotonic() - sent >= delays[found[-1]]
        assert sorted(found) == sorted(delays)
        assert await broker.claim() is None


async def claim_when_it_answers(broker: QueueBroker) -> Delivery:
    async def look() -> Delivery | None:
        with contextlib.suppress(ServerUnavailableError):
            return await broker.claim()
        return None

    delivery = await eventually_async(look)
    assert delivery is not None
    return delivery


async def test_a_message_that_was_acknowledged_does_not_come_back_with_the_server(
    server: RabbitServer, settings: Settings
) -> None:
    async with opened(settings) as broker:
        await put(broker, "done", "waiting")
        await broker.acknowledge(await claim(broker))
        await go_away_and_come_back(server.stop, server)
        assert await ids(broker) == ["waiting"]


@pytest.mark.test_all("a worker outlives a restart")
async def test_a_listener_outlives_restarts_of_the_server(
    server: RabbitServer, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(settings) as broker, listening(broker) as listener:
        for number, leave in enumerate((server.stop, server.kill)):
            async with opened(settings, "sender") as sender:
                await put(sender, f"t{number}")
            await eventually_async(lambda number=number: received(listener, f"t{number}"))
            await listener.messages[-1].ack()
            away = lambda: logged("does not answer", caplog)  # noqa: E731
            await go_away_and_come_back(leave, server, away)
            caplog.clear()
        async with opened(settings, "sender") as sender:
            await put(sender, "last")
        await eventually_async(lambda: received(listener, "last"))
        assert list(dict.fromkeys(listener.ids)) == ["t0", "t1", "last"]


async def test_a_listener_outlives_dropped_and_refused_connections(
    settings: Settings, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        opened(settings, "sender") as sender,
        opened(through(proxy, settings)) as broker,
        listening(broker) as listener,
    ):
        for number in range(4):
            await put(sender, f"t{number}")
            await eventually_async(lambda number=number: received(listener, f"t{number}"))
            with contextlib.suppress(ServerUnavailableError):
                await listener.messages[-1].ack()
            proxy.cut()
        proxy.refuse()
        await eventually_async(lambda: logged("does not answer", caplog))
        await put(sender, "t4")
        proxy.accept()
        await eventually_async(lambda: received(listener, "t4"))
        assert list(dict.fromkeys(listener.ids)) == [f"t{number}" for number in range(5)]


async def test_what_was_handed_out_through_a_dropped_connection_is_handed_out_again(
    settings: Settings, proxy: Proxy
) -> None:
    async with (
        opened(settings, "sender") as sender,
        opened(through(proxy, settings)) as broker,
        listening(broker) as listener,
    ):
        await put(sender, "t")
        await eventually_async(lambda: listener.has(1))
        proxy.cut()
        await eventually_async(lambda: listener.has(2))
        assert listener.ids == ["t", "t"]
        # The first one can no longer be acknowledged.
        with pytest.raises(ServerUnavailableError):
            await listener.messages[0].ack()
        await listener.messages[1].ack()
        await listener.end()
        assert await sender.claim() is None
        assert await ready_on_rabbitmq(settings) == {}


def _claim_and_freeze(settings: Settings) -> None:
    async def work() -> None:
        async with opened(settings, "frozen", lease=3.0) as broker:
            await claim(broker)
            os.kill(os.getpid(), signal.SIGSTOP)

    asyncio.run(work())


async def test_what_a_frozen_process_had_claimed_is_delivered_to_another(
    settings: Settings,
) -> None:
    async with opened(settings) as broker:
        await put(broker, "t")
        process = multiprocessing.get_context("spawn").Process(
            target=_claim_and_freeze, args=(settings,)
        )
        process.start()
        assert process.pid is not None
        frozen = psutil.Process(process.pid)
        try:
            await eventually_async(lambda: _is_stopped(frozen))
            again = await claim_again(broker)
            assert (again.task_id, again.attempt) == ("t", 2)
        finally:
            process.kill()
            process.join()


async def _is_stopped(process: psutil.Process) -> bool:
    return process.status() == psutil.STATUS_STOPPED


async def test_a_frozen_server_delays_those_who_send_and_claim_and_no_more(
    server: RabbitServer, settings: Settings
) -> None:
    async with opened(settings) as broker, opened(settings, "b", SHORT_LEASE) as other:
        await put(broker, "before")
        server.freeze()

        async def send() -> bool:
            try:
                await put(broker, "meanwhile")
            except ServerUnavailableError:
                return False
            return True

        sending = asyncio.ensure_future(send())
        _, waiting = await asyncio.wait([sending], timeout=2)
        server.thaw()
        assert waiting, "it cannot have been confirmed"
        assert await sending
        assert [(await claim_again(other)).task_id for _ in range(2)] == ["before", "meanwhile"]


# -- state -----------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [STOP, "kill"])
async def test_state_outlives_a_restart_of_the_server(
    server: RabbitServer, settings: Settings, end: str
) -> None:
    async with states.opened(settings) as backend:
        await states.started(backend)
        await states.store(backend, states.result_of([1, 2]), "done")
        await backend.revoke(["revoked"], "enough")
        await backend.beat(states.worker("w1", "t"))
        await go_away_and_come_back(getattr(server, end), server)
        assert (await states.the(backend)).state is TaskState.STARTED
        assert (await states.the(backend, "revoked")).state is TaskState.REVOKED
        assert (await backend.get_result("done")).return_value == [1, 2]
        assert [each.id for each in await backend.workers()] == ["w1"]
        assert await backend.start(replace(states.TASK, worker="w2")) is TaskState.STARTED
        assert await backend.beat(states.worker("w1", "t")) == []
        assert await backend.finish(states.TASK, TaskState.SUCCESS, "", None)
        assert await states.ends_posted(backend) == [{"task": "t", "state": "SUCCESS"}]


async def test_the_end_of_a_task_is_recorded_however_long_the_server_is_away(
    server: RabbitServer, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    async with states.opened(settings) as backend:
        await backend.start(Task("t", worker="w1"))
        await asyncio.to_thread(server.stop)
        storing = asyncio.ensure_future(backend.set_result("t", states.result_of("value")))
        await eventually_async(lambda: logged("Cannot store the end of task t", caplog))
        await asyncio.to_thread(server.start)
        await storing
        assert (await backend.get_result("t")).return_value == "value"


async def test_a_task_whose_start_is_cut_off_again_and_again_starts_once(
    settings: Settings, proxy: Proxy
) -> None:
    async with (
        states.opened(settings) as witness,
        states.opened(through(proxy, settings)) as backend,
    ):
        for number in range(30):
            task = replace(states.TASK, id=f"t{number}")
            await witness.submitted([task])
            starting = asyncio.ensure_future(backend.start(task))
            await asyncio.sleep(0.0005 * number)
            proxy.cut()
            try:
                outcome = await starting
            except ServerUnavailableError:
                # It may have started, or not; the state tells which.
                known = await states.the(witness, task.id)
                assert known.state in (TaskState.WAITING, TaskState.STARTED)
            else:
                assert outcome is None
                assert (await states.the(witness, task.id)).state is TaskState.STARTED


async def test_a_reader_of_notifications_sees_a_restart_and_reads_on(
    server: RabbitServer, settings: Settings
) -> None:
    async with states.opened(settings) as backend:
        reading = asyncio.ensure_future(states._next_notifications(backend, "c", FROM_START))
        await asyncio.sleep(0)
        await asyncio.to_thread(server.stop)
        with pytest.raises(ServerUnavailableError):
            await reading
        await asyncio.to_thread(server.start)
        await backend.post("c", {"n": 1})
        (first,) = await backend.collect("c", FROM_START, 60.0)
        assert first.body == {"n": 1}
        # New ones are pushed again.
        reading = asyncio.ensure_future(states._next_notifications(backend, "c", first.cursor))
        await asyncio.sleep(0)
        await backend.post("c", {"n": 2})
        assert [each.body for each in await reading] == [{"n": 2}]


# -- workers ---------------------------------------------------------------------------------


def test_a_worker_that_starts_before_its_server_waits_for_it_and_logs_it(
    server: RabbitServer, settings: Settings, tmp_path: Path
) -> None:
    server.stop()
    worker = WorkerProcess(settings, tmp_path, "w1", *INCLUDE, "-c", "1")
    try:
        line = f"Cannot reach the broker {redact(server.url)}"
        eventually(lambda: line in worker.output())
        server.start()
        with open_sender(settings) as sender:
            assert sender.value(sender.send("add", 1, 2)) == 3
    finally:
        worker.end()
    assert "Traceback" not in worker.output()


@pytest.mark.parametrize("end", [STOP, "kill"])
def test_a_worker_outlives_a_restart_of_the_server_with_what_it_runs(
    server: RabbitServer, settings: Settings, tmp_path: Path, place: Place, end: str
) -> None:
    with (
        running_worker(settings, tmp_path, *INCLUDE, "-c", "1") as worker,
        open_sender(settings) as sender,
    ):
        held = sender.send("hold", place.path("started"), place.path("go"))
        pid = place.pid("started")
        behind = sender.send("note", place.path("notes"))
        getattr(server, end)()
        eventually(lambda: "Cannot send a heartbeat" in worker.output())
        place.write("go")
        server.start()
        assert sender.value(held) == "held"
        # What waited was kept as well, and the child that ran on is used again.
        assert sender.value(behind) == pid
        assert len(place.lines("started")) == len(place.lines("notes")) == 1
    assert "Traceback" not in worker.output()


def test_a_worker_outlives_a_server_that_is_frozen_for_a_while(
    server: RabbitServer, settings: Settings, tmp_path: Path, place: Place
) -> None:
    with (
        running_worker(settings, tmp_path, *INCLUDE, "-c", "1") as worker,
        open_sender(settings) as sender,
    ):
        held = sender.send("hold", place.path("started"), place.path("go"))
        place.pid("started")
        server.freeze()
        eventually(lambda: "Cannot send a heartbeat" in worker.output())
        place.write("go")
        server.thaw()
        assert sender.value(held) == "held"
        assert sender.value(sender.send("add", 1, 2)) == 3
        assert len(place.lines("started")) == 1
        assert [each.is_lost for each in client_for(settings).workers()] == [False]
    assert "Traceback" not in worker.output()


def test_a_worker_outlives_connections_that_are_cut_while_it_works(
    settings: Settings, proxy: Proxy, tmp_path: Path, place: Place
) -> None:
    notes = place.path("notes")
    with (
        running_worker(through(proxy, settings), tmp_path, *INCLUDE, "-c", "2") as worker,
        open_sender(settings) as sender,
    ):
        for round_ in range(5):
            sent = [sender.send("note", notes) for _ in range(4)]
            eventually(lambda round_=round_: len(place.lines("notes")) > 4 * round_)
            proxy.cut()
            for each in sent:
                sender.value(each)
        # None ran twice, wherever it was on its way when the connection went.
        assert len(place.lines("notes")) == 20
    assert "Traceback" not in worker.output()


def test_a_connection_that_is_cut_as_it_is_made_is_made_once_more(
    settings: Settings, proxy: Proxy
) -> None:
    """A run must not fail for it that begins at this moment."""
    proxy.lose_answers(AMQP)
    assert client_for(through(proxy, settings)).depths() == []
    assert proxy.has_lost

    proxy.lose_answers(AMQP, 2)
    with pytest.raises(ServerUnavailableError, match="does not answer"):
        client_for(through(proxy, settings).replace(prefix="another"))


@pytest.mark.test_all("what was acknowledged does not come back")
def test_a_step_that_runs_beyond_the_servers_consumer_timeout_runs_once(
    tmp_path: Path, place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "aiormq")  # what follows is cut off on purpose
    with own_rabbit("{consumer_timeout, 2000}", "{channel_tick_interval, 500}") as server:
        settings = settings_at(server.url)
        with (
            running_worker(settings, tmp_path, *INCLUDE, "-c", "1") as worker,
            open_sender(settings) as sender,
        ):
            held = sender.send("hold", place.path("started"), place.path("go"))
            place.pid("started")
            behind = sender.send("note", place.path("notes"))
            for _ in range(2):
                asyncio.run(until_an_unacknowledged_message_is_taken_back(server.url))
            place.write("go")
            assert sender.value(held) == "held"
            sender.value(behind)
            # It does not affect an idle worker, which waits for notifications, either.
            asyncio.run(until_an_unacknowledged_message_is_taken_back(server.url))
            assert sender.value(sender.send("add", 1, 2)) == 3
            (known,) = client_for(settings).workers()
            client_for(settings).send_command(known.id, {"command": "drain"})
            assert worker.wait() == 0
            assert len(place.lines("started")) == len(place.lines("notes")) == 1
    for text in ("Traceback", "does not answer", "Cannot", "timeout"):
        assert text not in worker.output()


async def until_an_unacknowledged_message_is_taken_back(url: str) -> None:
    """Return when the server has closed a channel that held a message for too long."""
    connection = await aiormq.connect(url)
    channel = await connection.channel()
    queue = (await channel.queue_declare(exclusive=True)).queue
    assert queue is not None

    async def keep(message: DeliveredMessage) -> None:
        del message

    await channel.basic_consume(queue, keep)
    await channel.basic_publish(b"", routing_key=queue)
    with pytest.raises(aiormq.exceptions.ChannelPreconditionFailed):
        await channel.closing
    await connection.close()
