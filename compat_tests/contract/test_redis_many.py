"""Many commands of one process at once, on Redis."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio.connection import AbstractConnection

from compat_tests.proxy import Proxy, proxy_to
from compat_tests.servers import RedisServer, own_redis
from dagster_taskiq.errors import ServerUnavailableError
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.transport.redis.connection import COMMANDS_AT_ONCE, RedisConnection, Script
from dagster_taskiq.transport.redis.pipelined import LARGEST_SHARED
from dagster_taskiq.transport.registry import make

MANY = 5 * COMMANDS_AT_ONCE


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with own_redis() as server:
        yield server


@pytest.fixture
def echo(tmp_path: Path) -> Script:
    """A script that returns its argument."""
    path = tmp_path / "echo.lua"
    path.write_text("return ARGV[1]")
    return Script(path)


@asynccontextmanager
async def connected(url: str, **options: float | None) -> AsyncIterator[RedisConnection]:
    connection = RedisConnection(url, options, timeout=5.0)
    await connection.open()
    try:
        yield connection
    finally:
        await connection.close()


def test_more_than_there_are_connections_wait_for_their_turn(redis_url: str) -> None:
    async def ask() -> list[bool]:
        broker = make(Settings(broker=redis_url, prefix="many"))
        await broker.startup()
        try:
            ready = broker.result_backend.is_result_ready
            return await asyncio.gather(*[ready(f"task-{number}") for number in range(MANY)])
        finally:
            await broker.shutdown()

    assert asyncio.run(ask()) == [False] * MANY


def test_scripts_share_one_connection_and_each_gets_its_own_answer(
    server: RedisServer, echo: Script
) -> None:
    large = b"x" * 3_000_000

    async def run() -> tuple[list[bytes], int]:
        async with connected(server.url) as connection:
            asked = [str(number) for number in range(MANY)] + [large]
            answers = await asyncio.gather(*[connection.script(echo, [], [each]) for each in asked])
            clients: bytes = await connection.command("CLIENT", "LIST")
            return answers, len(clients.splitlines())

    answers, connections = asyncio.run(run())
    assert answers == [*(str(number).encode() for number in range(MANY)), large]
    assert connections == 2  # one for the scripts, and one for the question


def test_one_who_waits_no_longer_takes_no_other_answer_away(
    server: RedisServer, echo: Script
) -> None:
    async def run() -> list[bytes]:
        async with connected(server.url) as connection:
            await connection.script(echo, [], ["first"])
            calls = [
                asyncio.ensure_future(connection.script(echo, [], [str(number)]))
                for number in range(10)
            ]
            await asyncio.sleep(0)  # they are being sent
            for call in calls[::2]:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
            assert all(call.cancelled() for call in calls[::2])
            return [call.result() for call in calls[1::2]]

    assert asyncio.run(run()) == [b"1", b"3", b"5", b"7", b"9"]


def test_scripts_whose_connection_is_lost_are_run_again(server: RedisServer, echo: Script) -> None:
    async def run(door: Proxy) -> list[bytes]:
        async with connected(f"redis://127.0.0.1:{door.port}/0") as connection:
            await connection.script(echo, [], ["first"])
            door.lose_answers(b"EVALSHA")
            return await asyncio.gather(
                *[connection.script(echo, [], [str(number)]) for number in range(10)]
            )

    with proxy_to(server.port) as door:
        assert asyncio.run(run(door)) == [str(number).encode() for number in range(10)]


def at_end(link: AbstractConnection) -> bool:
    return link._reader is None or link._reader.at_eof()


@pytest.mark.parametrize("is_seen", [False, True])
def test_a_connection_that_is_lost_as_it_is_made_is_made_once_more(
    server: RedisServer, echo: Script, is_seen: bool
) -> None:
    made = []

    async def run(door: Proxy) -> bytes:
        url = f"redis://127.0.0.1:{door.port}/0"
        async with connected(url, socket_timeout=None) as connection:
            pool = connection.client.connection_pool
            get_connection = pool.get_connection

            async def get_and_cut() -> AbstractConnection:
                link: AbstractConnection = await get_connection()
                made.append(link)
                if len(made) == 1:
                    door.cut()
                while is_seen and len(made) == 1 and not at_end(link):  # noqa: ASYNC110 - no event
                    await asyncio.sleep(0)
                return link

            pool.get_connection = get_and_cut
            answer: bytes = await connection.script(echo, [], ["one"])
            return answer

    with proxy_to(server.port) as door:
        assert asyncio.run(asyncio.wait_for(run(door), 60)) == b"one"
    assert len(made) == 2


def test_what_is_large_has_a_connection_for_itself(server: RedisServer, echo: Script) -> None:
    async def run(door: Proxy) -> tuple[bytes, bytes]:
        async with connected(f"redis://127.0.0.1:{door.port}/0") as connection:
            await connection.script(echo, [], ["first"])
            before: bytes = await connection.command("CLIENT", "LIST")
            # Its connection is lost, and that of the others is not.
            door.lose_answers(b"large", 1)
            large = connection.script(echo, [], [b"large" * LARGEST_SHARED])
            many = [connection.script(echo, [], [str(number)]) for number in range(10)]
            assert (await asyncio.gather(large, *many))[0] == b"large" * LARGEST_SHARED
            assert door.has_lost
            after: bytes = await connection.command("CLIENT", "LIST")
            return before, after

    with proxy_to(server.port) as door:
        before, after = asyncio.run(run(door))
    assert shared_connection(before) == shared_connection(after)


def shared_connection(clients: bytes) -> bytes:
    """Return the id of the one on which scripts are run."""
    (line,) = [each for each in clients.splitlines() if b" cmd=evalsha" in each]
    return line.split()[0]


def test_a_slow_line_may_take_longer_than_the_time_limit_while_it_goes_on(
    server: RedisServer, echo: Script
) -> None:
    asked = [bytes([65 + number % 26]) * 60_000 for number in range(COMMANDS_AT_ONCE)]

    async def run(door: Proxy) -> list[bytes]:
        url = f"redis://127.0.0.1:{door.port}/0"
        async with connected(url, socket_timeout=1.0) as connection:
            await connection.script(echo, [], ["first"])
            door.pause = 0.04
            return await asyncio.gather(*[connection.script(echo, [], [each]) for each in asked])

    with proxy_to(server.port) as door:
        assert asyncio.run(run(door)) == asked


def test_a_server_that_does_not_answer_is_given_up_and_asked_anew_later(
    server: RedisServer, echo: Script
) -> None:
    async def run() -> None:
        async with connected(server.url, socket_timeout=0.5) as connection:
            await connection.script(echo, [], ["first"])
            server.freeze()
            try:
                with pytest.raises(ServerUnavailableError):
                    await connection.script(echo, [], ["lost"])
            finally:
                server.thaw()
            with contextlib.suppress(ServerUnavailableError):  # it may still be waking up
                await connection.script(echo, [], ["again"])
            assert await connection.script(echo, [], ["again"]) == b"again"

    asyncio.run(run())
