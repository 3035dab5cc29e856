"""A project's own tasks in the patterns that taskiq's documentation has: retries and pipelines.

For workers started with ``--include compat_tests.own_tasks``.
"""

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Annotated, Any

import anyio
from taskiq import Context, TaskiqDepends, TaskiqMessage, gather
from taskiq.depends.progress_tracker import ProgressTracker, TaskState
from taskiq.exceptions import NoResultError
from taskiq.middlewares import SimpleRetryMiddleware, SmartRetryMiddleware
from taskiq_pipelines import PipelineMiddleware

from compat_tests.own_errors import OutOfStockError
from compat_tests.waiting import eventually_async
from dagster_taskiq.app import broker

#: The label that has a task tried again by ``SmartRetryMiddleware``.
SMART = "smart_retry"


class SmartRetry(SmartRetryMiddleware):
    """taskiq's, for tasks with a label of its own: each worker here has both kinds of retries."""

    def is_retry_on_error(self, message: TaskiqMessage) -> bool:
        return bool(message.labels.get(SMART))

    def make_delay(self, message: TaskiqMessage, retries: int) -> float:
        # The label "delay" would delay the first execution too.
        return float(message.labels.get("retry_after") or super().make_delay(message, retries))


broker.add_middlewares(
    PipelineMiddleware(),
    SimpleRetryMiddleware(default_retry_count=3),
    SmartRetry(default_retry_count=3, default_delay=0.1),
)


def note(path: str, text: object) -> int:
    """Add a line to a file; return how many it has then."""
    with Path(path).open("a") as file:
        file.write(f"{text}\n")
    return len(Path(path).read_text().splitlines())


# -- the steps of pipelines ------------------------------------------------------------------------


@broker.task
def add(number: int, more: int = 1) -> int:
    return number + more


@broker.task
async def double(number: int) -> int:
    await asyncio.sleep(0)
    return number * 2


@broker.task
def numbers_below(number: int) -> list[int]:
    return list(range(number))


@broker.task
async def is_odd(number: int) -> bool:
    return number % 2 == 1


@broker.task
def seven() -> int:
    return 7


@broker.task
def total(numbers: list[int]) -> int:
    return sum(numbers)


@broker.task
def fail(*_: object) -> None:
    raise OutOfStockError("apples", left=0)


@broker.task
async def fail_in_a_loop(*_: object) -> None:
    raise OutOfStockError("pears", left=0)


@broker.task
def fail_at(number: int, bad: int) -> int:
    if number == bad:
        raise OutOfStockError("plums", left=number)
    return number


@broker.task
def be_killed(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


# -- again -----------------------------------------------------------------------------------------


@broker.task
def good_at(path: str, tries: int) -> int:
    """Fail until the file has so many lines."""
    times = note(path, "tried")
    if times < tries:
        raise OutOfStockError("plain", left=times)
    return times


@broker.task
async def good_in_a_loop_at(path: str, tries: int) -> int:
    return good_at.original_func(path, tries)


@broker.task
async def requeue_until(path: str, times: int, context: Annotated[Context, TaskiqDepends()]) -> int:
    """Go to the end of the queue until the file has so many lines."""
    seen = note(path, context.message.task_id)
    if seen < times:
        await context.requeue()
    return seen


@broker.task
def have_no_result(path: str) -> None:
    note(path, "ran")
    raise NoResultError


# -- others ----------------------------------------------------------------------------------------


@broker.task
async def chord(count: int) -> int:
    """Send many tasks, wait for all, and then for one with what they have returned."""
    parts = [await double.kiq(number) for number in range(count)]
    results = await gather(*parts, timeout=60, periodicity=0.05)
    values = [result.raise_for_error().return_value for result in results]
    summed = await (await total.kiq(values)).wait_result(check_interval=0.05, timeout=60)
    return summed.raise_for_error().return_value


@broker.task
async def report_progress(
    go: str, tracker: Annotated[ProgressTracker[Any], TaskiqDepends()]
) -> str:
    """Report how far it is, and wait for a file."""
    await tracker.set_progress(TaskState.STARTED, {"done": 1})
    await tracker.set_progress("halfway")
    await eventually_async(anyio.Path(go).exists)
    return "done"


@broker.task
async def sleep(seconds: float) -> int:
    await asyncio.sleep(seconds)
    return os.getpid()
