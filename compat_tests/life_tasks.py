"""A project's tasks with all that taskiq has around a task: hooks, events, state, dependencies.

Each writes a line to the file that ``LIFE_LOG`` names, with the id of its process.
"""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Annotated, Any

from taskiq import (
    Context,
    TaskiqDepends,
    TaskiqEvents,
    TaskiqMessage,
    TaskiqMiddleware,
    TaskiqResult,
    TaskiqState,
)
from taskiq.exceptions import NoResultError
from taskiq.middlewares import SimpleRetryMiddleware

from compat_tests.life_errors import LOG_ENV, OutOfStockError
from dagster_taskiq.app import broker
from dagster_taskiq.client import client_for
from dagster_taskiq.settings.worker_fleet import process_settings


def say(*words: object) -> None:
    """Add a line to the log, in one write."""
    with Path(os.environ[LOG_ENV]).open("a") as file:
        file.write(" ".join(map(str, (*words, os.getpid()))) + "\n")


#: What tasks leave in their event loop.
left: list[asyncio.Task[None]] = []


class Noting(TaskiqMiddleware):
    """Writes which of its hooks are called."""

    async def startup(self) -> None:
        say("startup", "-")

    def shutdown(self) -> None:
        say("shutdown", "-")

    def pre_execute(self, message: TaskiqMessage) -> TaskiqMessage:
        say("pre_execute", message.task_id)
        if message.labels.get("doubled"):
            message.args = [each * 2 for each in message.args]
        if message.labels.get("timed"):
            message.labels["timer"] = object()
        if message.labels.get("refused"):
            raise OutOfStockError("not this one")
        return message

    async def on_error(
        self, message: TaskiqMessage, result: TaskiqResult[Any], exception: BaseException
    ) -> None:
        say("on_error", message.task_id, type(exception).__name__)

    async def post_execute(self, message: TaskiqMessage, result: TaskiqResult[Any]) -> None:
        say("post_execute", message.task_id)

    def post_save(self, message: TaskiqMessage, result: TaskiqResult[Any]) -> None:
        known = client_for(process_settings()).tasks([message.task_id]).get(message.task_id)
        say("post_save", message.task_id, known.state.value if known else "unknown")


broker.add_middlewares(Noting(), SimpleRetryMiddleware(default_retry_count=3))


@broker.on_event(TaskiqEvents.WORKER_STARTUP)
async def fill(state: TaskiqState) -> None:
    say("filled", "-")
    state.stock = {"apples": 3}


@broker.on_event(TaskiqEvents.WORKER_SHUTDOWN)
def empty(state: TaskiqState) -> None:
    say("emptied", "-", len(state.stock))


async def session() -> AsyncIterator[str]:
    try:
        yield "session"
    finally:
        await asyncio.sleep(0)
        say("closed", "-")


def plain_session() -> Iterator[str]:
    try:
        yield "plain session"
    finally:
        say("closed", "-")


@broker.task
def plain(number: int) -> int:
    return number + 1


@broker.task
async def in_a_loop(number: int) -> int:
    await asyncio.sleep(0)
    return number + 1


@broker.task
def with_state(name: str, context: Annotated[Context, TaskiqDepends()]) -> int:
    return context.state.stock[name]


@broker.task
async def fail_in_a_loop() -> None:
    raise OutOfStockError("no", "apples")


@broker.task
def be_killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


@broker.task
async def wait_in_a_loop(used: Annotated[str, TaskiqDepends(session)]) -> None:
    say("waits", "-")
    try:
        await asyncio.sleep(60)
    finally:
        say("finally", "-")


@broker.task
def wait_with_a_session(used: Annotated[str, TaskiqDepends(plain_session)]) -> None:
    say("waits", "-")
    try:
        while True:
            time.sleep(0.02)
    finally:
        say("finally", "-")


@broker.task
def good_at_the_third_try(context: Annotated[Context, TaskiqDepends()]) -> int:
    tries = int(context.message.labels.get("_retries", 0))
    if tries < 2:
        raise OutOfStockError(tries)
    return tries


@broker.task
async def never_good() -> None:
    raise OutOfStockError("never")


@broker.task
async def come_again(context: Annotated[Context, TaskiqDepends()]) -> str:
    if "X-Taskiq-requeue" not in context.message.labels:
        await context.requeue()
    return str(context.message.labels["X-Taskiq-requeue"])


@broker.task
async def stop_the_loop(how: str) -> int:
    """Do to the event loop what programs do that end, and tell in which process that was."""
    loop = asyncio.get_running_loop()
    if how == "cancel all":
        for each in asyncio.all_tasks() - {asyncio.current_task()}:
            each.cancel()
    elif how == "exit":
        left.append(loop.create_task(_exit()))
        await asyncio.sleep(0)
    else:
        loop.stop()
    return os.getpid()


async def _exit() -> None:
    sys.exit(3)


@broker.task
def say_nothing(context: Annotated[Context, TaskiqDepends()]) -> None:
    raise NoResultError


@broker.task
async def ask_another(depth: int) -> int:
    """Wait for a task that waits for another one, and so on."""
    if not depth:
        return 0
    sent = await ask_another.kiq(depth - 1)
    result = await sent.wait_result(check_interval=0.02, timeout=60)
    return 1 + result.raise_for_error().return_value


@broker.task
def ask_some(number: int) -> list[int]:
    """Wait for others in an event loop of its own."""

    async def ask() -> list[int]:
        sent = [await plain.kiq(each) for each in range(number)]
        results = [await each.wait_result(check_interval=0.02, timeout=60) for each in sent]
        return [each.raise_for_error().return_value for each in results]

    return asyncio.run(ask())
