"""Broker and backend of a worker's children: each call goes to the worker, and comes back."""

import asyncio
import builtins
import pickle
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from dagster_taskiq.errors import NoRecordError, ServerUnavailableError
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.transport import registry
from dagster_taskiq.transport.backend import StateBackend
from dagster_taskiq.transport.broker import QueueBroker
from dagster_taskiq.transport.messages import Outgoing
from dagster_taskiq.transport.relay import frames
from dagster_taskiq.transport.relay.broker import RelayedBroker
from dagster_taskiq.transport.relay.relay import Relay
from dagster_taskiq.transport.relay.server import BACKEND_CALLS, BROKER_CALLS, RelayServer
from dagster_taskiq.wire.notifications import FROM_START
from dagster_taskiq.wire.records import Running, Task, TaskState, Worker
from dagster_taskiq.wire.task_counts import EndedTask, Outcome, TaskCounts

pytestmark = pytest.mark.anyio

RUNNING = (Running("t", "execute", "run", "step", 7, 1.5),)
COUNTS = TaskCounts("q", "execute", "job", 2, {Outcome.LOST: 1})
ENDED = EndedTask("t", "execute", "q", Outcome.LOST, 1.0, 2.0)
WORKER = Worker("w", "name", "host", 1, ("q",), 2, "1", 30.0, running=RUNNING)
WORKER = replace(WORKER, counts=(COUNTS,), ended=(ENDED,))
#: As a server that keeps text returns it.
READ = Worker.loads(WORKER.dumps(), 0.0)
TASK = Task("t", "execute", "q", "run", "step", worker="w")


@pytest.fixture
async def worker() -> AsyncIterator[QueueBroker]:
    broker = registry.make(Settings(broker=f"memory://{uuid.uuid4().hex}"))
    broker.queues = ("q",)
    broker.use_running_loop()
    await broker.startup()
    yield broker
    await broker.shutdown()


@asynccontextmanager
async def relayed(worker: QueueBroker) -> AsyncIterator[tuple[RelayServer, QueueBroker]]:
    """Yield a worker's relay, and the broker of one of its children."""
    assert isinstance(worker.result_backend, StateBackend)
    server = RelayServer(worker, worker.result_backend)
    child = Relay(await server.start(), worker.settings).make(worker.settings)
    child.use_running_loop()
    await child.startup()
    try:
        yield server, child
    finally:
        await child.shutdown()
        await server.close()


async def test_each_call_of_a_child_is_the_worker_s(worker: QueueBroker) -> None:
    async with relayed(worker) as (_, child):
        backend, own = child.result_backend, worker.result_backend
        assert isinstance(backend, StateBackend)
        assert isinstance(own, StateBackend)
        await child.ping()
        await backend.ping()
        await child.put_all([Outgoing("t", "q", 3, b"\xff"), Outgoing("u", "q", 0, b"", 60.0)])
        (depth,) = await child.depths()
        assert (depth.queue, depth.waiting) == ("q", 2)
        assert not await child.is_empty("q")
        assert await child.discard(["u"]) == 1
        assert await child.rejected() == 0
        delivery = await worker.claim()
        assert delivery is not None
        assert (delivery.task_id, delivery.body) == ("t", b"\xff")
        assert await child.eviction() is None
        assert await backend.eviction() is None

        await backend.submitted([TASK])
        assert await backend.start(TASK, recorded=True) is None
        with pytest.raises(NoRecordError):
            await backend.start(Task("unknown", worker="w"), recorded=True)
        assert list(READ.counts or ()) == [COUNTS]  # what was read is not sent
        assert await backend.beat(READ) == []
        (known,) = await backend.workers()
        assert replace(known, age=0.0) == WORKER
        assert await backend.revoke(["t"], "why") == {"t": "w"}
        assert await backend.finish(TASK, TaskState.REVOKED, "why", b"\x00")
        assert await backend.tasks(["t"]) == await own.tasks(["t"])
        assert await backend.load_result("t") == b"\x00"
        (notification,) = await backend.collect("run:run", FROM_START, 0)
        assert notification.body["task"] == "t"
        await backend.post("c", {"n": 1})
        await backend.close_channel("c")
        await backend.forget(["t"])
        await backend.sweep()
        await backend.deregister("w")
        assert await own.tasks(["t"]) == {}
        assert await own.workers() == []


async def test_calls_do_not_wait_for_each_other(worker: QueueBroker) -> None:
    async with relayed(worker) as (_, child):
        backend = child.result_backend
        assert isinstance(backend, StateBackend)
        waiting = asyncio.ensure_future(backend.collect("c", FROM_START, 600.0))
        await backend.ping()
        assert not waiting.done()
        await backend.post("c", {"n": 1})
        assert [each.body for each in await waiting] == [{"n": 1}]


async def test_a_child_whose_worker_is_gone_is_told_that_it_is_the_worker(
    worker: QueueBroker,
) -> None:
    async with relayed(worker) as (server, child):
        backend = child.result_backend
        assert isinstance(backend, StateBackend)
        waiting = asyncio.ensure_future(backend.collect("c", FROM_START, 600.0))
        await backend.ping()
        await server.close()
        with pytest.raises(ServerUnavailableError, match=r"The worker of this process.* is gone"):
            await waiting
        with pytest.raises(ServerUnavailableError, match=r"The worker of this process.* is gone"):
            await backend.ping()


async def test_a_child_takes_no_messages(worker: QueueBroker) -> None:
    async with relayed(worker) as (_, child):
        assert isinstance(child, RelayedBroker)
        with pytest.raises(RuntimeError, match="takes no messages"):
            await child.claim()
        with pytest.raises(RuntimeError, match="may not call claim"):
            await child.connection.call("broker", "claim", (), {})


async def test_a_frame_holds_records_and_no_code(tmp_path: Path) -> None:
    evil = pickle.dumps((0, "broker", "ping", (builtins.eval,), {}))
    reader = asyncio.StreamReader()
    reader.feed_data(len(evil).to_bytes(4, "big") + evil)
    with pytest.raises(pickle.UnpicklingError, match="is no record"):
        await frames.read(reader)


def test_children_have_all_that_sends_and_reads() -> None:
    taking = {"claim", "wait_for_work", "acknowledge", "release", "reject"}
    taking |= {"list_rejected", "requeue_rejected", "delete_rejected"}
    assert QueueBroker.__abstractmethods__ - taking - {"listen"} <= BROKER_CALLS
    assert StateBackend.__abstractmethods__ <= BACKEND_CALLS


def test_only_the_servers_of_the_worker_are_reached_through_it() -> None:
    settings = Settings(broker="postgresql://h/d", prefix="p")
    relay = Relay("/socket", settings)
    assert relay.leads_to(settings.replace(queue="another", priority=5))
    assert not relay.leads_to(settings.replace(prefix="another"))
    assert not relay.leads_to(settings.replace(backend="redis://h"))
    assert not relay.leads_to(settings.replace(broker="postgresql://h/another"))
