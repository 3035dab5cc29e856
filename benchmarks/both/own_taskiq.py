"""A user's own tasks as taskiq has them, on this project's broker or on another one."""

import asyncio
import os
import time
from pathlib import Path
from typing import Any

if "OWN_TASKIQ_REDIS" in os.environ:
    from taskiq.serializers import JSONSerializer
    from taskiq_redis import ListQueueBroker, RedisAsyncResultBackend

    broker = ListQueueBroker(os.environ["OWN_TASKIQ_REDIS"]).with_result_backend(
        RedisAsyncResultBackend(
            os.environ["OWN_TASKIQ_REDIS"], serializer=JSONSerializer(), result_ex_time=3600
        )
    )
else:
    from dagster_taskiq.app import broker

_loop = asyncio.new_event_loop()


@broker.task
def nothing() -> None:
    """Do nothing."""


@broker.task
async def nothing_async() -> None:
    """Do nothing, as a coroutine."""


@broker.task
def hold(path: str) -> None:
    """Keep a slot until a file is there."""
    while not Path(path).exists():
        time.sleep(0.005)


@broker.task
def mark(path: str) -> None:
    """Write down when this is executed."""
    with Path(path).open("a") as file:
        file.write(f"{time.time()}\n")


async def _send(name: str, count: int, *args: Any) -> None:
    if not _started:
        await broker.startup()
        _started.append(True)
    task = {"nothing": nothing, "async": nothing_async, "hold": hold, "mark": mark}[name]
    for _ in range(count):
        await task.kiq(*args)


_started: list[bool] = []


def send(name: str, count: int, *args: Any) -> None:
    """Send a task some times, and return when the broker has the messages."""
    _loop.run_until_complete(_send(name, count, *args))
