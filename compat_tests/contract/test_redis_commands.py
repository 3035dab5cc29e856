"""How many commands Redis is sent: by idle workers, by loops, and to check launched runs."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from compat_tests.servers import RedisServer, own_redis
from compat_tests.waiting import eventually
from compat_tests.workers import running_worker
from dagster_taskiq.client import Client, client_for
from dagster_taskiq.runs.checked_runs import CheckedRuns
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.transport.backend import StateBackend
from dagster_taskiq.transport.broker import QueueBroker
from dagster_taskiq.transport.gate import OpenGate
from dagster_taskiq.transport.redis.connection import LONG_BLOCK_SECONDS
from dagster_taskiq.transport.registry import make
from dagster_taskiq.wire.notifications import FROM_START
from dagster_taskiq.wire.records import Task, Worker

#: How often an idle worker looks whether a wake-up was lost, in seconds.
LOOK_SECONDS = 1.0
#: How many commands one heartbeat of an idle worker is: a script, and what that calls.
BEAT = {"evalsha": 1, "time": 1, "zadd": 1, "hset": 1}
#: Between two looks of a test's listener, in seconds.
SOON_SECONDS = 0.05


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with own_redis() as server:
        yield server


@pytest.fixture
def asking(server: RedisServer) -> Iterator["redis.Redis"]:
    """A client of the server, which has nothing on it."""
    with redis.Redis.from_url(server.url) as client:
        client.flushall()
        yield client


def counts(client: "redis.Redis") -> dict[str, int]:
    """Return how often each command was executed since the last ``CONFIG RESETSTAT``.

    Those that scripts call count as well; those of the test do not.
    """
    found = client.info("commandstats")
    named = {name.removeprefix("cmdstat_"): about["calls"] for name, about in found.items()}
    own = {"info", "config|resetstat"}
    return {name: calls for name, calls in named.items() if name not in own}


def test_an_idle_worker_sends_two_commands_a_second_at_most(
    server: RedisServer, asking: "redis.Redis", tmp_path: Path
) -> None:
    settings = Settings(broker=server.url)
    with running_worker(settings, tmp_path, "-c", "2"):
        # It waits for messages and for commands, and has looked once.
        eventually(lambda: asking.info("clients")["blocked_clients"] == 2, "it waits")
        eventually(lambda: "exists" in counts(asking), "it has looked")
        since = time.monotonic()
        asking.config_resetstat()
        eventually(lambda: counts(asking).get("evalsha", 0) >= 3, "it has sent heartbeats")
        found = counts(asking)
        seconds = time.monotonic() - since
    # On a slow machine there are fewer.
    assert found.pop("exists") <= seconds / LOOK_SECONDS + 1
    beats = found["evalsha"]
    assert beats <= seconds / settings.heartbeat_interval + 1
    assert {name: found.pop(name) for name in BEAT} == {
        name: calls * beats for name, calls in BEAT.items()
    }
    waits = sum(found.pop(name, 0) for name in ("blpop", "xread"))
    assert waits <= 2 * (seconds / LONG_BLOCK_SECONDS + 1)
    assert not found
    per_second = (
        1 / LOOK_SECONDS + sum(BEAT.values()) / settings.heartbeat_interval + 2 / LONG_BLOCK_SECONDS
    )
    assert per_second <= 2


class _Gate(OpenGate):
    """Takes runs until it is told not to."""

    takes_runs = True


async def opened(server: RedisServer) -> QueueBroker:
    broker = make(Settings(broker=server.url))
    broker.use_running_loop()
    await broker.startup()
    return broker


def test_a_message_is_found_whose_wake_up_was_lost(
    server: RedisServer, asking: "redis.Redis"
) -> None:
    """Another client takes the wake-up, and does nothing with it."""

    async def run() -> None:
        listener = await opened(server)
        try:
            assert await listener.claim() is None
            wakeups = f"{listener.settings.prefix}:wakeups:{listener.queues[0]}"
            thief = asyncio.ensure_future(asyncio.to_thread(asking.blpop, [wakeups], 60))
            while not asking.info("clients")["blocked_clients"]:  # noqa: ASYNC110 - no event
                await asyncio.sleep(SOON_SECONDS)
            waiting = asyncio.ensure_future(listener.wait_for_work(SOON_SECONDS))
            await listener.put("task", listener.queues[0], 0, b"body")
            assert await thief is not None
            await waiting
            assert await listener.claim() is not None
        finally:
            await listener.shutdown()

    asyncio.run(asyncio.wait_for(run(), 60))


def test_a_listener_that_may_take_no_run_waits_for_none(
    server: RedisServer, asking: "redis.Redis"
) -> None:
    """Its wait ends, and with it what it would take from the others that may."""

    async def run() -> None:
        listener = await opened(server)
        listener.gate = gate = _Gate()
        try:
            waiting = asyncio.ensure_future(listener.wait_for_work(SOON_SECONDS))
            while not asking.info("clients")["blocked_clients"]:  # noqa: ASYNC110 - no event
                await asyncio.sleep(SOON_SECONDS)
            gate.takes_runs = False
            await waiting
        finally:
            await listener.shutdown()

    asyncio.run(asyncio.wait_for(run(), 60))


RUNS = [f"run-{number}" for number in range(10)]


@pytest.fixture
def client(server: RedisServer, asking: "redis.Redis") -> Client:
    """A client of a server on which a worker has started some runs, and has beaten once."""
    del asking  # it has emptied the server

    async def start() -> None:
        broker = await opened(server)
        backend = broker.result_backend
        assert isinstance(backend, StateBackend)
        worker = Worker("w", "w", "host", 1, ("q",), 1, "", 30.0)
        for run_id in RUNS:
            await backend.start(Task(run_id, run_id=run_id, worker=worker.id))
        await backend.beat(worker)
        await broker.shutdown()

    asyncio.run(start())
    return client_for(Settings(broker=server.url))


def test_the_check_of_one_more_run_is_one_command(client: Client, asking: "redis.Redis") -> None:
    checked = CheckedRuns()

    def check(run_id: str) -> dict[str, int]:
        asking.config_resetstat()
        task = checked.task(client, run_id)
        assert task is not None
        assert checked.is_alive(task.worker) or checked.worker(client, task.worker)
        return counts(asking)

    # The record of the task; then those of all workers, and the server's clock.
    assert check(RUNS[0]) == {"hmget": 1, "hgetall": 1, "time": 1, "zrange": 1}
    for run_id in (*RUNS[1:], *RUNS):
        assert check(run_id) == {"hmget": 1}


def test_a_loop_that_waits_reads_once_however_often_it_looks_around(
    server: RedisServer, asking: "redis.Redis"
) -> None:
    client = client_for(Settings(broker=server.url))
    asking.config_resetstat()
    for _ in range(5):
        assert client.wait("run", FROM_START, SOON_SECONDS, lambda: False) == []
    assert counts(asking) == {"xread": 1}

    async def post() -> None:
        broker = await opened(server)
        assert isinstance(broker.result_backend, StateBackend)
        await broker.result_backend.post("run", {"task": "one"})
        await broker.shutdown()

    asyncio.run(post())
    (found,) = client.wait("run", FROM_START, 60, lambda: False)
    assert found.body == {"task": "one"}
    # The next read begins there.
    assert client.wait("run", found.cursor, SOON_SECONDS, lambda: False) == []
    client.close_channel("run")
