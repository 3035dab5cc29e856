"""A claim whose answer is lost: the next one has the same message, and the start of its task."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

import pytest

from compat_tests.contract.test_broker import message
from compat_tests.contract.test_starts_with_claims import claimed, record, worker
from compat_tests.proxy import Proxy, proxy_to
from compat_tests.servers import own_postgres, own_redis
from compat_tests.waiting import eventually_async
from dagster_taskiq.errors import ServerUnavailableError
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.transport.broker import QueueBroker
from dagster_taskiq.transport.messages import Delivery
from dagster_taskiq.transport.redis.broker import SCRIPTS
from dagster_taskiq.wire.records import TaskState

pytestmark = pytest.mark.anyio


class Server(NamedTuple):
    port: int
    #: Its URL, with the port left open.
    url: str
    #: What the request of a claim holds that changes something.
    claim: bytes
    #: Whether a listener knows the message before the claim is final.
    keeps_bodies: bool


@contextmanager
def serving(kind: str) -> Iterator[Server]:
    if kind == "redis":
        with own_redis() as redis:
            claim = SCRIPTS["claim"].sha.encode()
            yield Server(redis.port, "redis://127.0.0.1:{port}/0", claim, keeps_bodies=False)
    else:
        with own_postgres() as postgres:
            url = postgres.url.replace(f":{postgres.port}/", ":{port}/")
            yield Server(postgres.port, url, b"COMMIT", keeps_bodies=True)


@pytest.fixture(scope="module", params=["redis", "postgresql"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with serving(request.param) as server:
        yield server


@pytest.fixture
def settings(server: Server, request: pytest.FixtureRequest) -> Settings:
    return Settings(broker=server.url.format(port=server.port), prefix=request.node.name)


@pytest.fixture
def door(server: Server) -> Iterator[Proxy]:
    with proxy_to(server.port) as door:
        yield door


async def claim_if_it_answers(broker: QueueBroker) -> Delivery | None:
    with suppress(ServerUnavailableError):
        return await broker.claim_next()
    return None


@pytest.mark.parametrize("times", [1, 3])
async def test_if_the_answer_is_lost_the_next_claim_has_the_started_task(
    server: Server, settings: Settings, door: Proxy, times: int
) -> None:
    behind_door = settings.replace(broker=server.url.format(port=door.port))
    async with worker(settings, "w2") as sender, worker(behind_door, "w1") as one:
        await sender.kick(message("known", queue_name="q"))
        known = await claimed(one)
        await one.acknowledge(known)
        await sender.kick(message("first", queue_name="q"))
        await sender.kick(message("second", queue_name="q"))
        door.lose_answers(server.claim, times)
        while (delivery := await claim_if_it_answers(one)) is None:
            pass
        assert (delivery.task_id, delivery.is_started) == ("first", True)
        assert door.has_lost
        assert (await record(sender, "first")).worker == "w1"
        await one.acknowledge(delivery)
        second = await claimed(one)
        assert second.task_id == "second"
        await one.acknowledge(second)
        assert await one.claim_next() is None


async def test_a_start_whose_answer_and_message_are_lost_is_not_forgotten(
    server: Server, settings: Settings, door: Proxy
) -> None:
    behind_door = settings.replace(broker=server.url.format(port=door.port))
    async with worker(settings, "w2") as other, worker(behind_door, "w1") as one:
        assert await one.claim_next() is None
        await other.kick(message("t", queue_name="q"))
        door.lose_answers(server.claim, 2)
        assert await claim_if_it_answers(one) is None
        # Whoever takes it after the lease is refused, and deletes the message.
        other.settings = settings.replace(lease=0.01, heartbeat_interval=0.002)
        taken = await eventually_async(other.claim_next)
        assert taken is not None
        await other.acknowledge(taken)
        await other.stop_claiming()
        late = await one.claim_next()
        if server.keeps_bodies:
            # Nothing but the message is lost: what it had was known before the answer was.
            assert late is not None
            assert (late.task_id, late.is_started) == ("t", True)
            assert (await record(other, "t")).worker == "w1"
        else:
            assert late is None
            assert (await record(other, "t")).state is TaskState.LOST


@pytest.mark.parametrize("server", ["postgresql"], indirect=True)
async def test_who_ends_while_an_answer_is_missing_gives_back_what_it_started(
    server: Server, settings: Settings, door: Proxy
) -> None:
    behind_door = settings.replace(broker=server.url.format(port=door.port))
    async with worker(settings, "w2") as other:
        async with worker(behind_door, "w1") as one:
            assert await one.claim_next() is None
            await other.kick(message("t", queue_name="q"))
            door.lose_answers(server.claim)
            assert await claim_if_it_answers(one) is None
        assert (await claimed(other)).is_started
        assert (await record(other, "t")).worker == "w2"
