"""The event loop of this process on which users' own code runs, as long as the process lives.

It is not the loop on which the process talks to its servers: users' code may block its loop, or
wait in it for what that other loop does.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import TypeVar

from anyio.from_thread import BlockingPortal, start_blocking_portal

T = TypeVar("T")

#: How the names of its threads begin. They stay, so process state is compared without them.
_THREADS = "dagster-taskiq-tasks"


class TasksLoop:
    """An event loop in a thread of its own, started when it is needed."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._portal: BlockingPortal | None = None

    def call(self, work: Callable[[], Awaitable[T]]) -> T:
        """Run a coroutine, and return what it returns."""
        return self.start_soon(work).result()

    def start_soon(self, work: Callable[[], Awaitable[T]]) -> Future[T]:
        """Start a coroutine with the context variables of the caller; return its future."""
        if self._portal is None:
            self._portal = self._stack.enter_context(start_blocking_portal())
            self._portal.call(_name_threads)
        return self._portal.start_task_soon(work)

    def end(self) -> None:
        """End it with all that goes on there; the next call starts another one."""
        portal, self._portal = self._portal, None
        if portal is not None:
            with self._stack:
                portal.call(portal.stop, True)


async def _name_threads() -> None:
    threading.current_thread().name = _THREADS
    threads = ThreadPoolExecutor(thread_name_prefix=_THREADS)
    asyncio.get_running_loop().set_default_executor(threads)
