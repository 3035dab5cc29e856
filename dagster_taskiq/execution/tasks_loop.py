"""The event loop of this process on which users' own code runs, as long as the process lives.

It is not the loop on which the process talks to its servers: users' code may block its loop, or
wait in it for what that other loop does.
"""

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")

logger = logging.getLogger(__name__)

#: How the names of its threads begin. They stay, so process state is compared without them.
_THREADS = "dagster-taskiq-tasks"
#: How long it may take until all that goes on there has been cancelled at its end, in seconds.
END_SECONDS = 3.0


class TasksLoop:
    """An event loop in a thread of its own, started when it is needed.

    There are no tasks in it but the users', so what they do to all tasks they do to none of ours.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._is_ending = False
        #: Whether users' code has stopped it. It goes on, but its process should get no more tasks.
        self.was_stopped = False

    @property
    def is_current(self) -> bool:
        """Whether the caller is on it."""
        return self._thread is threading.current_thread()

    def call(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine, and return what it returns."""
        return self.start_soon(work).result()

    def start_soon(self, work: Callable[[], Coroutine[Any, Any, T]]) -> Future[T]:
        """Start a coroutine with the context variables of the caller; return its future."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._loop.set_default_executor(ThreadPoolExecutor(thread_name_prefix=_THREADS))
            self._is_ending = False
            self._thread = threading.Thread(
                target=self._run, args=(self._loop,), name=_THREADS, daemon=True
            )
            self._thread.start()
        return asyncio.run_coroutine_threadsafe(work(), self._loop)

    def end(self) -> None:
        """End it with all that goes on there; the next call starts another one."""
        loop, thread = self._loop, self._thread
        if loop is None or thread is None:
            return
        self._loop = self._thread = None
        self._is_ending = True
        asyncio.run_coroutine_threadsafe(_cancel_all(), loop)
        thread.join(END_SECONDS)

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        while True:
            try:
                loop.run_forever()
            except (KeyboardInterrupt, SystemExit) as error:
                # Of a task of the user's that nobody awaits.
                logger.warning("A task in the background has raised %s.", type(error).__name__)
            if self._is_ending:
                return
            self.was_stopped = True


async def _cancel_all() -> None:
    """Cancel all other tasks of the running loop, wait for them, and stop the loop."""
    loop = asyncio.get_running_loop()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for each in others:
        each.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await loop.shutdown_asyncgens()
    loop.stop()
