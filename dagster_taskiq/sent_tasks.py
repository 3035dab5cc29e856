"""Sending a project's own tasks from synchronous code, and waiting for how they end.

``dagster_taskiq.client`` has these names for its users.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, Generic, ParamSpec, TypeAlias, TypeVar, overload

from taskiq import AsyncBroker, AsyncTaskiqTask, TaskiqResult
from taskiq.abc.result_backend import AsyncResultBackend
from taskiq.decor import AsyncTaskiqDecoratedTask
from taskiq.exceptions import ResultGetError, ResultIsReadyError, SendTaskError
from taskiq.kicker import AsyncKicker

from dagster_taskiq.errors import DagsterTaskiqError, ResultTimeoutError
from dagster_taskiq.transport import current
from dagster_taskiq.transport.backend import StateBackend
from dagster_taskiq.transport.broker import CANCELLED, QueueBroker
from dagster_taskiq.transport.home_loop import background
from dagster_taskiq.transport.hooks import has_hooks
from dagster_taskiq.wire.records import TaskState

T = TypeVar("T")
P = ParamSpec("P")

#: Seconds between two looks whether a task has ended: the first pause, and the longest.
LOOK_SECONDS = (0.005, 0.2)
#: The factor by which each pause is longer than the one before.
LOOK_GROWTH = 1.3

Sendable: TypeAlias = AsyncTaskiqDecoratedTask[P, T] | AsyncKicker[P, T]


class SentTask(Generic[T]):
    """A task that was sent, for code on any thread.

    Every method raises ``ServerUnavailableError`` if the server does not answer.
    """

    def __init__(
        self, task_id: str, broker: AsyncBroker, return_type: type[T] | None = None
    ) -> None:
        """Find a task by its id.

        Args:
            task_id: its id.
            broker: that to which it was sent.
            return_type: what its value is to be, if that is no plain JSON: a pydantic model, for
                example.
        """
        #: Its id, by which another process finds it.
        self.id = task_id
        self._broker = broker
        backend: AsyncResultBackend[Any] = broker.result_backend
        self._task: AsyncTaskiqTask[T] = AsyncTaskiqTask(task_id, backend, return_type)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id!r})"

    @property
    def state(self) -> TaskState | None:
        """Its state; ``None`` while it waits for a worker, and when its record has expired."""
        return _wait_for(self._look)

    def is_ready(self) -> bool:
        """Return whether it has ended."""
        return _wait_for(self._task.is_ready)

    def result(self, timeout: float | None = None) -> T:
        """Wait until the task has ended, and return its value.

        Args:
            timeout: how long to wait, in seconds; ``None`` for as long as it takes.

        Raises:
            ResultTimeoutError: it has not ended within that time. It goes on.
            TaskRevokedError: it was cancelled.
            Exception: what the task has raised.
        """
        result = _wait_for(lambda: self._ended(timeout))
        if result.error is not None:
            raise result.error
        return result.return_value

    def cancel(self, reason: str = CANCELLED) -> None:
        """Cancel the task: one that waits never starts, one that runs is stopped.

        Args:
            reason: for logs, and for the error that :meth:`result` raises.
        """
        _wait_for(lambda: _ours(self._broker).cancel(self.id, reason))

    async def _look(self) -> TaskState | None:
        backend = self._broker.result_backend
        if not isinstance(backend, StateBackend):
            raise TypeError(f"{backend!r} keeps no states of tasks.")
        return await backend.state_of(self.id)

    async def _ended(self, timeout: float | None) -> TaskiqResult[T]:
        deadline = None if timeout is None else time.monotonic() + timeout
        pause, longest = LOOK_SECONDS
        while not await self._task.is_ready():
            if deadline is not None:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise await self._late(timeout)
                pause = min(pause, left)
            await asyncio.sleep(pause)
            pause = min(pause * LOOK_GROWTH, longest)
        return await self._task.get_result()

    async def _late(self, timeout: float | None) -> ResultTimeoutError:
        state = await self._look()
        if state is TaskState.STARTED:
            what = "It has started, and goes on."
        else:
            what = (
                "No worker has started it: see by `dagster-taskiq status` whether one serves its "
                "queue and has a free slot."
            )
        return ResultTimeoutError(f"Task {self.id} has not ended within {timeout:g} s. {what}")


@overload
def send(
    task: Sendable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
) -> SentTask[T]: ...


@overload
def send(task: Sendable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> SentTask[T]: ...


def send(task: Sendable[..., Any], /, *args: Any, **kwargs: Any) -> SentTask[Any]:
    """Send a task from synchronous code, as ``await task.kiq(...)`` does from a coroutine.

    Args:
        task: a function with ``@broker.task``; or ``task.kicker()`` with more labels.
        args: the function's arguments.
        kwargs: the function's arguments by keyword.

    Raises:
        ServerUnavailableError: the broker does not answer.
        ConfigError: a label cannot be used.
    """
    kicker = task.kicker() if isinstance(task, AsyncTaskiqDecoratedTask) else task
    sent = _wait_for(lambda: kicker.kiq(*args, **kwargs), hooks_of=kicker.broker)
    return SentTask(sent.task_id, kicker.broker, kicker.return_type)


@overload
def call(task: Sendable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs) -> T: ...


@overload
def call(task: Sendable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T: ...


def call(task: Sendable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Send a task, wait until it has ended, and return its value.

    ``send(task, ...).result(timeout)`` does the same for so many seconds at most.

    Args:
        task: as for :func:`send`.
        args: the function's arguments.
        kwargs: the function's arguments by keyword.

    Raises:
        Exception: as :func:`send` and :meth:`SentTask.result`.
    """
    return send(task, *args, **kwargs).result()


def _ours(broker: AsyncBroker) -> QueueBroker:
    if not isinstance(broker, QueueBroker):
        raise TypeError(f"{broker!r} cannot cancel tasks.")
    return broker


def _wait_for(work: Callable[[], Coroutine[Any, Any, T]], hooks_of: AsyncBroker | None = None) -> T:
    """Do something on this process's event loop in the background, and return its result.

    taskiq's own errors, which say nothing, are replaced by what has caused them.

    Args:
        work: what.
        hooks_of: the broker whose middlewares it calls; they are called on the loop on which they
            were started, if that was in this process.
    """
    _check_thread()
    start: current.Start = background().portal.start_task_soon
    if hooks_of is not None and has_hooks(hooks_of, "pre_send", "post_send"):
        project = current.project()
        if project is not None and project.broker is hooks_of:
            start = project.start
    future: Future[T] = start(work)
    try:
        return future.result()
    except (SendTaskError, ResultIsReadyError, ResultGetError) as error:
        if isinstance(error.__cause__, DagsterTaskiqError):
            raise error.__cause__ from None
        raise
    finally:
        future.cancel()


def _check_thread() -> None:
    """Refuse to wait on the loop that would have to do the work.

    Raises:
        RuntimeError: the caller is a coroutine on that loop.
    """
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return
    if loop is background().loop:
        raise RuntimeError(
            "dagster_taskiq.client is for synchronous code, and this is called by a coroutine. "
            "Write `await task.kiq(...)`, and `await sent.wait_result()`."
        )
