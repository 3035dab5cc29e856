"""Calls of the client library, which is synchronous: each in a thread of its own.

Not in a pool of Python's: a process that ends waits for the threads of those, and a poll goes on
for twenty seconds.
"""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")


def in_thread(work: Callable[[], T]) -> "asyncio.Future[T]":
    """Do something in a new thread; to be called on an event loop.

    It goes on to its end if the future is cancelled, and ends with the process.

    Returns:
        The future with its outcome.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        try:
            result = work()
        except Exception as error:
            fault = error  # the name of an error is deleted behind its block
            deliver(lambda: future.set_exception(fault))
        else:
            deliver(lambda: future.set_result(result))

    def deliver(outcome: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # the loop is closed, and nobody waits
            loop.call_soon_threadsafe(lambda: None if future.done() else outcome())

    threading.Thread(target=run, name="dagster-taskiq-sqs", daemon=True).start()
    return future
