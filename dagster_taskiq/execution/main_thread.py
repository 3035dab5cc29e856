"""Functions that the process's event loop gives to the main thread.

A plain function of a user's is called there: signals interrupt it, and no event loop runs in its
thread, so that it may start one.
"""

import queue
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class MainThread(Executor):
    """An executor whose calls are made by the thread that waits in :meth:`run_until_done`."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Have a function called (the executor's own method)."""
        future: Future[T] = Future()

        def call() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(fn(*args, **kwargs))
            except BaseException as error:  # an interrupt too is an end of the function
                future.set_exception(error)

        self._calls.put(call)
        return future

    def run_until_done(self, future: Future[T], on_interrupt: Callable[[], None]) -> T:
        """Make the calls that are submitted until a future is done, and return its result.

        Args:
            future: what is waited for.
            on_interrupt: called at a ``KeyboardInterrupt`` while no function is called.

        Raises:
            BaseException: that of the future.
        """
        future.add_done_callback(lambda _: self._calls.put(_nothing))
        while not future.done():
            try:
                call = self._calls.get()
            except KeyboardInterrupt:
                on_interrupt()
            else:
                call()
        return future.result()


def _nothing() -> None:
    pass
