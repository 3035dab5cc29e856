"""A RabbitMQ does not fill up with history: queues go, and what is kept in one message stays small.

Everything is read from the server's own lists.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest

from compat_tests.contract.test_backend import opened as opened_backend
from compat_tests.contract.test_backend import result_of, worker
from compat_tests.contract.test_broker import claim, opened, put
from compat_tests.servers import RabbitServer, own_rabbit
from compat_tests.waiting import eventually, eventually_async
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.transport.backend import StateBackend
from dagster_taskiq.transport.broker import QueueBroker
from dagster_taskiq.transport.rabbitmq.connection import RabbitConnection
from dagster_taskiq.transport.rabbitmq.names import Names
from dagster_taskiq.transport.rabbitmq.records import TASK_RECORDS
from dagster_taskiq.wire.records import Task, TaskState

pytestmark = pytest.mark.anyio

#: How many tasks are on their way at once: as fast as one process gets.
AT_ONCE = 16
#: What a record of a few tasks or workers has room in, in bytes.
ROOM = 4096
RECORDS = [*(f"tasks-{number:02}" for number in range(16)), "workers", "queues", "attempts"]


@dataclass(frozen=True)
class Queue:
    """A queue as ``rabbitmqctl`` lists it."""

    name: str
    messages: int
    message_bytes: int
    exclusive: bool
    arguments: dict[str, Any]


@pytest.fixture(scope="module")
def server() -> Iterator[RabbitServer]:
    with own_rabbit() as server:
        yield server


@pytest.fixture
def settings(server: RabbitServer, request: pytest.FixtureRequest) -> Settings:
    return Settings(
        broker=server.url, backend="rpc://", prefix=request.node.name[:40], result_ttl=1.0
    )


@asynccontextmanager
async def both(settings: Settings) -> AsyncIterator[tuple[QueueBroker, StateBackend]]:
    async with opened(settings) as broker, opened_backend(settings) as backend:
        yield broker, backend


def queues(server: RabbitServer, prefix: str) -> list[Queue]:
    columns = ("name", "messages", "message_bytes", "exclusive", "arguments")
    listed = json.loads(server.ctl("list_queues", *columns, "--formatter", "json"))
    rows = [{**each, "arguments": _plain(each["arguments"])} for each in listed]
    return [Queue(**each) for each in rows if each["name"].startswith(f"{prefix}:")]


def _plain(arguments: Any) -> dict[str, Any]:
    """Return a queue's arguments, which come as rows of name, type and value, or as they are."""
    if isinstance(arguments, dict):
        return arguments
    return {row[0]: row[-1] for row in arguments}


def records(server: RabbitServer, prefix: str) -> dict[str, Queue]:
    head = f"{prefix}:record:"
    found = {each.name: each for each in queues(server, prefix) if each.name.startswith(head)}
    assert sorted(found) == sorted(f"{head}{name}" for name in RECORDS)
    return found


async def pass_through(broker: QueueBroker, backend: StateBackend, names: Sequence[str]) -> None:
    """Submit tasks, start and end them; some of them leave a result, and some are steps."""
    places = asyncio.Semaphore(AT_ONCE)

    async def one(number: int, name: str) -> None:
        async with places:
            is_step = number % 4 != 0
            run = {"run_id": "run", "step_key": "step"} if is_step else {}
            task = Task(name, "t", "q", worker="w1", **run)
            await backend.submitted([task])
            await put(broker, name, priority=number % 5)
            delivery = await claim(broker)
            mine = replace(task, id=delivery.task_id)
            assert await backend.start(mine) is None
            await broker.acknowledge(delivery)
            result = None if is_step else json.dumps(result_of(name).model_dump(mode="json"))
            stored = result.encode() if result else None
            assert await backend.finish(mine, TaskState.SUCCESS, "", stored)

    await asyncio.gather(*(one(number, name) for number, name in enumerate(names)))


async def delete(names: Sequence[str], settings: Settings) -> None:
    connection = RabbitConnection(settings.broker, {}, settings.connect_timeout)
    await connection.open()
    async with connection.channel() as channel:
        for name in names:
            await channel.delete_queue(name)
    await connection.close()


@pytest.mark.timeout(600)
@pytest.mark.test_all("every queue but those of work and records goes by itself")
async def test_the_server_holds_no_more_after_hundreds_of_tasks_than_after_ten(
    server: RabbitServer, settings: Settings
) -> None:
    async def count() -> int:
        return len(await asyncio.to_thread(queues, server, settings.prefix))

    async def ended_are_gone() -> bool:
        found = await asyncio.to_thread(queues, server, settings.prefix)
        return not any(each.messages for each in found if ":ended:" in each.name)

    async with both(settings) as (broker, backend):
        await pass_through(broker, backend, [f"first-{number}" for number in range(10)])
        before = await count()
        await pass_through(broker, backend, [f"t{number}" for number in range(300)])
        assert await count() == before
        await eventually_async(ended_are_gone)
        # What has expired is dropped at the next change of the record it is in.
        await pass_through(broker, backend, [f"last-{number}" for number in range(64)])
        for each in (await asyncio.to_thread(records, server, settings.prefix)).values():
            assert each.messages == 1, each
            assert each.message_bytes < ROOM, each
        ready = [each for each in queues(server, settings.prefix) if ":queue:" in each.name]
        assert [each.messages for each in ready] == [0] * len(ready)


async def test_a_record_holds_one_message_however_many_write_to_it_at_once(
    server: RabbitServer, settings: Settings
) -> None:
    async def beat(number: int) -> None:
        async with opened_backend(settings) as backend:
            for _ in range(20):
                await backend.beat(worker(f"w{number}"))
            await backend.deregister(f"w{number}")

    await asyncio.gather(*(beat(number) for number in range(6)))
    found = await asyncio.to_thread(records, server, settings.prefix)
    assert {each.messages for each in found.values()} == {1}
    assert found[f"{settings.prefix}:record:workers"].message_bytes < ROOM


async def test_a_worker_that_died_and_was_never_seen_again_costs_one_record_only(
    server: RabbitServer, settings: Settings
) -> None:
    async with opened_backend(settings) as backend:
        await backend.beat(worker("w0"))
        before = len(await asyncio.to_thread(queues, server, settings.prefix))
        for number in range(30):
            await backend.beat(worker(f"w{number}"))
        assert len(await asyncio.to_thread(queues, server, settings.prefix)) == before


async def test_every_queue_but_those_of_work_and_records_goes_by_itself(
    server: RabbitServer, settings: Settings
) -> None:
    async with both(settings) as (broker, backend):
        await pass_through(broker, backend, [f"t{number}" for number in range(8)])
        await backend.post("c", {"n": 1})
        await backend.collect("c", "", 0)
        await put(broker, "bad")
        await broker.reject(await claim(broker), "why not")
        await broker.wait_for_work(0.01)
        kept = (":queue:", ":record:", ":ended:", ":rejected")
        for each in await asyncio.to_thread(queues, server, settings.prefix):
            if each.exclusive or any(part in each.name for part in kept):
                continue
            assert each.arguments.get("x-expires", 0) > 0, each
    # With the connections go the queues that were theirs alone.
    left = eventually(
        lambda: (
            [
                each
                for each in queues(server, settings.prefix)
                if not any(part in each.name for part in (*kept, ":retained:"))
            ]
            == []
        )
    )
    assert left
    aside = [each for each in queues(server, settings.prefix) if each.name.endswith(":rejected")]
    assert [each.messages for each in aside] == [1]
    # Nobody takes from it: it has to be limited in another way.
    assert aside[0].arguments.get("x-max-length", 0) > 0


async def test_no_queue_and_no_exchange_is_outside_our_prefix(
    server: RabbitServer, settings: Settings
) -> None:
    async with both(settings) as (broker, backend):
        await pass_through(broker, backend, ["t", "u", "v", "w"])
        await put(broker, "bad")
        await broker.reject(await claim(broker), "why not")
        await broker.wait_for_work(0.01)
        await backend.post("c", {"n": 1})
        await backend.collect("c", "", 0)
        names = []
        for kind in ("list_queues", "list_exchanges"):
            listed = await asyncio.to_thread(server.ctl, kind, "name", "--formatter", "json")
            names += [each["name"] for each in json.loads(listed)]
    ours = [name for name in names if name.startswith(f"{settings.prefix}:")]
    assert any(":record:" in name for name in ours)
    # Other tests of this file have theirs, each under its own name.
    theirs = [name for name in names if name and not name.startswith(("amq.", "test_"))]
    assert theirs == []


async def test_hundreds_of_ended_tasks_are_remembered_and_none_starts_again(
    server: RabbitServer, settings: Settings
) -> None:
    settings = settings.model_copy(update={"result_ttl": 3600.0})
    tasks = [Task(f"t{number}", "mine", "q", worker="w1") for number in range(300)]
    results = {task.id: json.dumps({"of": task.id}).encode() for task in tasks}
    results["t0"] = b"large" * 10_000
    async with opened_backend(settings) as backend:
        for task in tasks:
            assert await backend.start(task) is None
            assert await backend.finish(task, TaskState.SUCCESS, "", results[task.id])
        for each in (await asyncio.to_thread(records, server, settings.prefix)).values():
            assert each.message_bytes < ROOM, each
    async with opened_backend(settings) as other:
        found = await other.tasks(list(results))
        assert {(task.state, task.worker, task.name) for task in found.values()} == {
            (TaskState.SUCCESS, "w1", "mine")
        }
        assert {each: await other.load_result(each) for each in results} == results
        for task in tasks:
            again = replace(task, worker="w2")
            assert await other.start(again) is TaskState.SUCCESS
            assert not await other.finish(again, TaskState.FAILURE, "late", b"late")
        assert await other.revoke(list(results), "late") == {}
        assert await other.tasks(list(results)) == found
        # Those that are forgotten are gone from wherever they were, and no others.
        await other.forget([task.id for task in tasks[:100]])
        assert set(await other.tasks(list(results))) == {task.id for task in tasks[100:]}
        assert await other.load_result("t0") is None
        assert await other.start(tasks[0]) is None
    # A server that has lost them still knows that they have ended.
    await delete([Names(settings.prefix).ended(each) for each in TASK_RECORDS], settings)
    async with opened_backend(settings) as third:
        states = {await third.start(replace(task, worker="w3")) for task in tasks[100:]}
        assert states == {TaskState.SUCCESS, TaskState.LOST}
        # What ends from now on has a place again.
        more = [Task(f"more-{number}", "mine", "q", worker="w3") for number in range(300)]
        for task in more:
            assert await third.start(task) is None
            assert await third.finish(task, TaskState.SUCCESS, "", b"{}")
        found = await third.tasks([task.id for task in more])
        assert {task.state for task in found.values()} == {TaskState.SUCCESS}
