"""A project's async tasks that mostly wait, for a worker with ``--async-tasks``."""

import asyncio
import os
import signal

import anyio

from compat_tests.user_tasks import say
from dagster_taskiq.app import broker


@broker.task
async def wait_for(go: str, started: str, ended: str = "") -> int:
    """Say that it waits; wait for a file; say that it has ended; return the process id."""
    say(started, os.getpid())
    try:
        while not await anyio.Path(go).exists():  # noqa: ASYNC110 - a file has no event
            await asyncio.sleep(0.02)
    finally:
        if ended:
            say(ended, os.getpid())
    return os.getpid()


@broker.task
async def be_killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    await asyncio.sleep(60)


@broker.task
def block(go: str, started: str) -> int:
    """The same as ``wait_for``, in a process of its own."""
    return asyncio.run(wait_for.original_func(go, started))


@broker.task
def square(number: int) -> int:
    return number * number


@broker.task
async def ask_for_a_square(number: int, depth: int = 0) -> int:
    """Wait for a plain task, or for a task that waits for one, and so on."""
    sent = await (ask_for_a_square.kiq(number, depth - 1) if depth else square.kiq(number))
    result = await sent.wait_result(check_interval=0.05, timeout=60)
    return result.raise_for_error().return_value
