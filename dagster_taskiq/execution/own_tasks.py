"""Users' own tasks: all that taskiq does with a message is done in the process that executes it.

taskiq's receiver calls the hooks of the middlewares, resolves the dependencies, calls the function
and hands over the result; where nothing else reads the message, it is not written and read again
for that. It runs in an event loop that stays for the tasks that follow; a plain function is called
by the main thread. What the receiver cannot decide here, because the record of
the task is its worker's, comes back through :mod:`dagster_taskiq.transport.current_task`: the end
of the task, and a message by which it is to be executed again.
"""

import asyncio
import logging
import sys
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from functools import lru_cache
from typing import Any, TypeVar

from taskiq import AsyncBroker, BrokerMessage, TaskiqMessage, TaskiqResult
from taskiq.acks import AckableMessage, AckController
from taskiq.events import TaskiqEvents
from taskiq.exceptions import NoResultError
from taskiq.receiver import Receiver
from taskiq.serializers import JSONSerializer, ORJSONSerializer
from taskiq.utils import maybe_awaitable

from dagster_taskiq.errors import MiddlewareError, TaskRevokedError
from dagster_taskiq.execution.main_thread import MainThread
from dagster_taskiq.execution.observers import observed
from dagster_taskiq.execution.task_context import current_context
from dagster_taskiq.execution.tasks_loop import TasksLoop
from dagster_taskiq.execution.typed_messages import TypedFormatter, with_typed_values
from dagster_taskiq.transport.current_task import executing_own_task
from dagster_taskiq.transport.home_loop import background
from dagster_taskiq.transport.hooks import has_hooks
from dagster_taskiq.transport.results import PutBack, failure, result_from_json

T = TypeVar("T")

logger = logging.getLogger(__name__)


class TaskLife:
    """One execution of one task by taskiq's receiver."""

    def __init__(
        self,
        message: TaskiqMessage,
        *,
        may_be_put_back: bool,
        record: Callable[[TaskiqResult[Any]], None] | None = None,
    ) -> None:
        """Execute nothing yet.

        Args:
            message: names the task.
            record: has the end of the task recorded, and returns when that is done; it blocks.
                ``None`` if nothing is to be done after that.
            may_be_put_back: whether a middleware may have the task executed again; not that of a
                step or run, which Dagster retries.
        """
        self._message = message
        self._record = record
        self._may_be_put_back = may_be_put_back
        #: What has ended without a result was to be executed again, by this message.
        self._kept: BrokerMessage | None = None
        #: The result, once it was given to the backend.
        self._result: TaskiqResult[Any] | None = None

    @property
    def task_id(self) -> str:
        """Its id."""
        return self._message.task_id

    def keep(self, message: BrokerMessage) -> None:
        """Keep a message by which it is to be executed again, unless that is not wanted."""
        if not self._may_be_put_back:
            logger.debug("Task %s belongs to Dagster, and is not sent again.", self.task_id)
        elif current_context().stop_request() is not None:
            logger.info("Task %s is being stopped, and is not sent again.", self.task_id)
        else:
            self._kept = message

    async def record_end(self, result: TaskiqResult[Any]) -> None:
        """Return when its end is on record."""
        if self._kept is not None:
            return  # it goes on: the result of this execution is not its end
        request = current_context().stop_request()
        if request is not None and result.is_err:
            result.error = TaskRevokedError(request.reason)
        self._result = result
        if self._record is not None:
            await asyncio.to_thread(self._record, result)

    async def run(self, receiver: Receiver, *, is_whole: bool) -> TaskiqResult[Any] | PutBack:
        """Have a receiver execute it.

        Args:
            receiver: the receiver.
            is_whole: whether it is to do all that it does with a message: there are hooks to call,
                or a serializer that reads the message. Otherwise it resolves the dependencies and
                calls the function.
        """
        with executing_own_task(self):
            try:
                if is_whole:
                    body = TypedFormatter(receiver.broker).write(self._message).message
                    await receiver.callback(AckableMessage(data=body, ack=_acknowledged))
                else:
                    await self._run_function(receiver)
            except asyncio.CancelledError as error:
                # The task was stopped while a hook was awaited.
                _uncancel()
                await self._fail(error)
            except Exception as error:
                logger.exception("A middleware, or the teardown of a dependency, raised an error.")
                text = (
                    "A middleware, or the teardown of a dependency, raised "
                    f"{type(error).__name__}: {error}"
                )
                await self._fail(MiddlewareError(text))
        if self._result is not None:
            return self._result
        return self.without_result()

    async def _run_function(self, receiver: Receiver) -> None:
        """Have a receiver execute the function, and have the end recorded, as it does itself."""
        read = with_typed_values(self._message)
        read = read.model_copy(update={"labels": dict(read.labels)})
        read.parse_labels()
        task = receiver.broker.find_task(read.task_name)
        if task is not None:
            result = await receiver.run_task(task.original_func, read, AckController(_acknowledged))
            if not isinstance(result.error, NoResultError):
                await self.record_end(result)

    def without_result(self) -> TaskiqResult[Any] | PutBack:
        """Return how it has ended, when it has no result."""
        if self._may_be_put_back:
            return PutBack(self._kept)
        return failure(NoResultError(), self._message.labels)

    async def _fail(self, error: BaseException) -> None:
        """Let it end with an error, unless its end is on record."""
        self._kept = None
        if self._result is None:
            await self.record_end(failure(error, self._message.labels))


class RunningLife:
    """A task that is being executed in the event loop."""

    def __init__(self) -> None:
        #: How it has ended, when it has.
        self.future: Future[TaskiqResult[Any] | PutBack] = Future()
        self._task: asyncio.Task[Any] | None = None
        self._is_cancelled = False

    async def follow(
        self, life: TaskLife, receiver: Receiver, *, is_whole: bool
    ) -> TaskiqResult[Any] | PutBack:
        """Execute it in the running loop; for the arguments see :meth:`TaskLife.run`."""
        self._task = asyncio.current_task()
        if self._is_cancelled and self._task is not None:
            self._task.cancel()
        return await life.run(receiver, is_whole=is_whole)

    def cancel(self) -> None:
        """Cancel it from another thread: it can clean up, and its dependencies are torn down."""
        self._is_cancelled = True
        if self._task is not None:
            self._task.get_loop().call_soon_threadsafe(self._task.cancel)


class OwnTasks:
    """Executes tasks in this process, on behalf of its main thread."""

    def __init__(self, broker: AsyncBroker) -> None:
        """Execute nothing yet.

        Args:
            broker: has the tasks.
        """
        broker.formatter = TypedFormatter(broker)
        self._broker = broker
        self._loop = TasksLoop()
        self._main_thread = MainThread()
        self._receivers: dict[bool, Receiver] = {}
        self._is_started = False

    @property
    def has_hooks(self) -> bool:
        """Whether a middleware has a hook for the execution of a task."""
        return has_hooks(self._broker, "pre_execute", "on_error", "post_execute", "post_save")

    @property
    def has_own_serializer(self) -> bool:
        """Whether the project has a serializer that may read a message in its own way."""
        return type(self._broker.serializer) not in (JSONSerializer, ORJSONSerializer)

    @property
    def has_startup(self) -> bool:
        """Whether something is to be done before the first task."""
        handlers = self._broker.event_handlers[TaskiqEvents.WORKER_STARTUP]
        return bool(handlers) or bool(self._broker.middlewares)

    def execute(self, message: TaskiqMessage, *, is_own: bool) -> TaskiqResult[Any] | PutBack:
        """Execute the task of a message with taskiq's receiver, and return how that ended.

        Args:
            message: names the task, which the broker has.
            is_own: whether it is a user's own task. Otherwise it belongs to Dagster: middlewares
                are called with copies, and what they do or raise has no effect on the task.
        """
        running = self.begin(message, is_own=is_own)
        return self._main_thread.run_until_done(running.future, running.cancel)

    def begin(self, message: TaskiqMessage, *, is_own: bool = True) -> "RunningLife":
        """Begin to execute a task as :meth:`execute`. If it is a coroutine, it needs nothing more.

        Raises:
            Exception: that of a start-up handler.
        """
        self.start()
        is_followed = has_hooks(self._broker, "post_save")
        record = current_context().record_end if is_followed else None
        life = TaskLife(message, may_be_put_back=is_own, record=record)
        running = RunningLife()
        is_whole = self.has_hooks or self.has_own_serializer
        running.future = self._loop.start_soon(
            lambda: running.follow(life, self._receiver(is_own), is_whole=is_whole)
        )
        return running

    def observe_end(self, message: TaskiqMessage, result: TaskiqResult[Any]) -> None:
        """Call the hooks that tell of the end of a task, for one that ended elsewhere.

        Args:
            message: the task, whose process died or was killed, for example.
            result: how it ended, which is on record and does not change any more.
        """
        self.start()
        life = TaskLife(message, may_be_put_back=False)

        async def run() -> None:
            with executing_own_task(life):
                observers = list(reversed(observed(self._broker).middlewares))
                if result.error is not None:
                    for each in observers:
                        await maybe_awaitable(each.on_error(message, result, result.error))
                for each in observers:
                    await maybe_awaitable(each.post_execute(message, result))
                for each in observers:
                    await maybe_awaitable(each.post_save(message, result))

        self._loop.call(run)

    def start(self) -> None:
        """Run the start-up handlers of the broker and its middlewares, once in this process.

        Raises:
            Exception: that of a handler. It is tried again for the next task.
        """
        if not self._is_started:
            with current_context().loading("the startup of the broker"):
                self._loop.call(self._broker.startup)
            self._is_started = True

    def start_hooks(self, work: Callable[[], Coroutine[Any, Any, T]]) -> Future[T]:
        """Start a coroutine that calls hooks of middlewares, and return its future.

        It runs where they were started. If that is not possible, it runs on the loop in the
        background: when the caller blocks that loop meanwhile, as a coroutine does that executes
        code for threads; and when a start-up handler raises an error, which is logged.
        """
        if self._loop.is_current:
            return background().portal.start_task_soon(work)
        try:
            self.start()
        except Exception:
            logger.exception("The start-up of the broker raised an error.")
            return background().portal.start_task_soon(work)
        return self._loop.start_soon(work)

    def remains(self) -> list[str]:
        """Return what tasks have left behind that cannot be restored, in words."""
        return ["an event loop that it has stopped"] if self._loop.was_stopped else []

    def shut_down(self) -> None:
        """Run the shutdown handlers, if those for the start-up have run."""
        if self._is_started:
            self._is_started = False
            self._loop.call(self._broker.shutdown)
        self._loop.end()

    def _receiver(self, is_own: bool) -> Receiver:
        if is_own not in self._receivers:
            broker = self._broker if is_own else observed(self._broker)
            self._receivers[is_own] = Receiver(
                broker, executor=self._main_thread, run_startup=False, max_async_tasks=1
            )
        return self._receivers[is_own]


@lru_cache(maxsize=4)
def own_tasks_of(broker: AsyncBroker) -> OwnTasks:
    """Return what executes the users' own tasks of a broker in this process."""
    return OwnTasks(broker)


def end_observer(broker: AsyncBroker) -> Callable[[dict[str, Any], str], None]:
    """Return the task that tells the middlewares of a broker of the end of another task."""

    def observe_end(message: dict[str, Any], result: str) -> None:
        """Tell them.

        Args:
            message: the task that has ended.
            result: how, as JSON.
        """
        task = TaskiqMessage.model_validate(message)
        task.parse_labels()
        own_tasks_of(broker).observe_end(task, result_from_json(result.encode()))

    return observe_end


async def _acknowledged() -> None:
    """Do nothing: the message was acknowledged when the start was recorded."""


def _uncancel() -> None:
    """Let this asyncio task go on as one that was not cancelled."""
    task = asyncio.current_task()
    if task is not None and sys.version_info >= (3, 11):
        task.uncancel()
