"""Many commands of one process at once, on Redis."""

import asyncio

from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.transport.redis.connection import COMMANDS_AT_ONCE
from dagster_taskiq.transport.registry import make

MANY = 5 * COMMANDS_AT_ONCE


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
