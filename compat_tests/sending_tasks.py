"""Tasks of a user's own that send others and wait for them."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dagster_taskiq.app import broker
from dagster_taskiq.client import call, send


@broker.task
def add(a: int, b: int) -> int:
    return a + b


@broker.task
def fail(text: str) -> None:
    raise LookupError(text)


@broker.task
def say_and_sleep(started: str) -> None:
    Path(started).touch()
    time.sleep(600)


@broker.task
def call_others(a: int, b: int) -> list[int]:
    """Send tasks as synchronous code does."""
    return [call(add, a, b), send(add, b, b).result(timeout=60)]


async def summed(a: int, b: int) -> int:
    sent = await add.kiq(a, b)
    result = await sent.wait_result(check_interval=0.02, timeout=60)
    return int(result.raise_for_error().return_value)


def summed_in_loops(a: int, b: int) -> list[int]:
    """Send from one event loop after the other, and from one in a thread."""
    here = [asyncio.run(summed(a, b)) for _ in range(2)]
    with ThreadPoolExecutor(1) as threads:
        return [*here, threads.submit(asyncio.run, summed(a, b)).result()]


@broker.task
def plain(a: int, b: int) -> list[int]:
    return summed_in_loops(a, b)


@broker.task
async def in_a_coroutine(a: int, b: int) -> list[int]:
    return [await summed(a, b) for _ in range(2)]
