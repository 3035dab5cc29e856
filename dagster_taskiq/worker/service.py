"""All that stands around a listening broker in a worker: children, heartbeat, commands.

It starts and stops with the broker, so it is there however the broker is made to listen: by
``dagster-taskiq worker start`` or by ``taskiq worker``.
"""

import asyncio
import logging
import os
import socket
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import WeakValueDictionary

from taskiq import Context, TaskiqDepends, TaskiqMessage, TaskiqMiddleware, TaskiqResult
from taskiq.acks import AckableMessage, AcknowledgeType
from taskiq.decor import AsyncTaskiqDecoratedTask
from taskiq.exceptions import NoResultError
from taskiq.utils import maybe_awaitable

from dagster_taskiq.errors import (
    ChildDiedError,
    ChildStartError,
    ConfigError,
    NoRecordError,
    ServerUnavailableError,
    TaskCutShortError,
    TaskFailedError,
    TimeLimitError,
)
from dagster_taskiq.transport.backend import WRITE_RETRY_SECONDS, StateBackend
from dagster_taskiq.transport.broker import QueueBroker
from dagster_taskiq.version import __version__
from dagster_taskiq.wire.labels import POOL_LABEL, QUEUE_LABEL, RUN_LABEL, STEP_LABEL, WORKER_LABEL
from dagster_taskiq.wire.notifications import run_channel, worker_channel
from dagster_taskiq.wire.records import Task, TaskState, Worker
from dagster_taskiq.wire.task_names import (
    EXECUTE_PLAN,
    FINALIZE_RUN,
    FREE_STEP,
    HAS_BEGUN,
    PACKED_ARGS,
    PACKED_RUN,
)
from dagster_taskiq.worker import process_trees
from dagster_taskiq.worker.cancellation import Cancellation
from dagster_taskiq.worker.control import Control
from dagster_taskiq.worker.heartbeat import Liveness
from dagster_taskiq.worker.options import WorkerOptions, included
from dagster_taskiq.worker.pool import Pool
from dagster_taskiq.worker.wakeups import Wakes

logger = logging.getLogger("dagster_taskiq.worker")

#: The name under which the function that hands every task to a child is registered.
ANY_TASK = "dagster_taskiq:any"
#: How long a worker that ends waits for the slots of its last steps to be freed, in seconds.
FREEING_SECONDS = 30.0
#: Label that keeps the task's own name meanwhile.
TASK_LABEL = "dagster_taskiq_task"


#: How often a worker that is the first process of a container looks for zombies, in seconds.
REAP_SECONDS = 2.0


async def _reap_orphans() -> None:
    """Reap what comes to this process as the first of a container, until it is cancelled."""
    seen: set[int] = set()
    while True:
        await asyncio.sleep(REAP_SECONDS)
        seen = process_trees.reap_unclaimed(seen)


class _HandOver(TaskiqMiddleware):
    """Turns every message into one for :meth:`WorkerService.run_task`.

    taskiq looks up a function's parameters by the name in the message, and knows only those of
    this process; the task's own function is in the child. The task acknowledges by itself, at the
    moment its start is on record.
    """

    def __init__(self, on_saved: Callable[[TaskiqMessage, TaskiqResult[Any]], None]) -> None:
        super().__init__()
        self._on_saved = on_saved

    def post_save(self, message: TaskiqMessage, result: TaskiqResult[Any]) -> None:
        self._on_saved(message, result)

    def pre_execute(self, message: TaskiqMessage) -> TaskiqMessage:
        message.labels["ack_type"] = AcknowledgeType.MANUAL.value
        message.labels[TASK_LABEL] = message.task_name
        message.task_name = ANY_TASK
        return message


@dataclass
class WorkerService:
    """The life of one worker in this process."""

    broker: QueueBroker
    options: WorkerOptions
    #: Called when a command says to drain, or to end at once.
    on_drain: Callable[[], None]
    on_kill: Callable[[], None]
    #: Whether it has been told to end, which its heartbeats say.
    draining: bool = False
    #: Whether it gives back every task that is still delivered to it.
    takes_no_more: bool = False
    id: str = field(
        default_factory=lambda: f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    )

    def __post_init__(self) -> None:
        settings = self.broker.settings
        backend = self.broker.result_backend
        if not isinstance(backend, StateBackend):
            raise TypeError(f"{backend!r} keeps no state of tasks and workers.")
        self.backend: StateBackend = backend
        user_modules = {task.original_func.__module__ for task in self._user_tasks()}
        pool = replace(
            self.options.pool,
            include=included([*settings.include, *self.options.pool.include, *user_modules]),
        )
        self.pool = Pool(settings, pool, self.options.name, self._wake)
        self._cancellation = Cancellation(self.pool)
        self._liveness = Liveness(
            self.backend,
            self.pool,
            self._cancellation,
            self.describe,
            settings.heartbeat_interval,
        )
        self._started_at = time.monotonic()
        self._background: set[asyncio.Task[Any]] = set()
        # What is done for steps that have ended, and is still done when this worker ends.
        self._freeing: set[asyncio.Task[Any]] = set()
        self.broker.queues = self.options.queues
        self.broker.consumer = self.id
        self.broker.gate = self.pool.slots
        # Tasks that were begun here and whose end is not on record yet.
        self._begun: set[str] = set()
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._wakes = Wakes(self._post_wake, self._in_background)
        self.broker.add_middlewares(_HandOver(self._note_saved))
        # Whatever the task, this process only hands it to a child; it needs to know no user code.
        self.broker.function_for_all = self.broker.register_task(
            self._any_task(), task_name=ANY_TASK
        )

    async def start(self) -> None:
        """Start the children, beat once, and keep beating and obeying in the background.

        Raises:
            ConfigError: a module to include cannot be imported.
        """
        await self.pool.start()
        control = Control(self.backend, self.id, self._cancellation, self.on_drain, self.on_kill)
        for work in (self._liveness.run(), control.run(), self._warn_of_eviction()):
            self._in_background(work)
        if os.getpid() == 1:
            self._in_background(_reap_orphans())
        logger.info(
            "Worker %s is ready: %d slots (%s), queues %s, broker %r.",
            self.options.name,
            self.options.pool.concurrency,
            self.options.slots_source,
            ", ".join(self.options.queues),
            self.broker.settings,
        )

    def begin_to_drain(self) -> None:
        """Let everybody know at once that this worker has been told to end."""
        self.draining = True
        self._liveness.beat_soon()

    async def _warn_of_eviction(self) -> None:
        """Log what the servers delete when they are full; where one is away, nothing is known."""
        try:
            found = [await self.broker.eviction(), await self.backend.eviction()]
        except ServerUnavailableError as error:
            logger.debug("Cannot ask whether a server evicts: %s", error)
            return
        for warning in dict.fromkeys(each.warning for each in found if each is not None):
            logger.warning("%s", warning)

    async def stop(self) -> None:
        """Stop beating, end the children, and sign off."""
        if self._freeing:
            await asyncio.wait(self._freeing, timeout=FREEING_SECONDS)
        for task in list(self._background):
            task.cancel()
        await self.pool.close()
        try:
            await self.backend.deregister(self.id)
            await self.backend.close_channel(worker_channel(self.id))
        except ServerUnavailableError as error:
            logger.warning("Could not sign off: %s", error)

    def describe(self) -> Worker:
        """Return this worker as its next heartbeat shows it."""
        return Worker(
            id=self.id,
            name=self.options.name,
            host=socket.gethostname(),
            pid=os.getpid(),
            queues=self.options.queues,
            concurrency=self.options.pool.concurrency,
            max_runs=self.options.pool.max_runs,
            kill_grace=self.options.pool.kill_grace,
            version=__version__,
            lease=self.broker.settings.lease,
            running=tuple(self.pool.running),
            draining=self.draining,
            uptime=round(time.monotonic() - self._started_at, 1),
        )

    async def run_task(self, context: Context) -> Any:
        """Run whatever task the message names: record the start, acknowledge, hand to a child.

        Raises:
            NoResultError: it is not this worker's to run: delivered twice, revoked, given back.
            TaskRevokedError: it was stopped, or has expired.
            TimeLimitError: it ran longer than it may.
            ChildDiedError: its process died.
        """
        message = context.message
        message.task_name = message.labels.pop(TASK_LABEL)
        if self.takes_no_more:
            self.pool.slots.release_reservation(message.task_id)
            await self.broker.give_back(message.task_id)
            raise NoResultError
        try:
            refused = await self._begin(message)
        except Exception:
            # Nobody knows whether it has started: it is not run here, and comes again if not.
            self.pool.slots.release_reservation(message.task_id)
            raise
        if refused is not None:
            self.pool.slots.release_reservation(message.task_id)
            logger.info("Dropped task %s: it is %s.", message.task_id, refused.value)
            await context.ack()
            raise NoResultError
        message.labels[WORKER_LABEL] = self.id
        # The start is on record: nothing waits for the acknowledgement any more.
        acknowledged = asyncio.ensure_future(self._acknowledge(context))
        try:
            result = await self.pool.run(message)
        except ChildDiedError as error:
            await self._settle(message, str(error))
            raise
        except TaskCutShortError as error:
            why = str(error).rstrip(".")
            await self._settle(message, f"Worker {self.options.name} cut it short: {why}.")
            raise
        except TimeLimitError as error:
            await self._settle(message, f"Worker {self.options.name} stopped the run. {error}")
            raise
        finally:
            await acknowledged
        if result.error is not None:
            raise result.error
        return result.return_value

    def was_handed(self, message: TaskiqMessage) -> bool:
        """Return whether taskiq has called :meth:`run_task` for a message."""
        return TASK_LABEL not in message.labels

    async def refuse(self, message: TaskiqMessage, result: TaskiqResult[Any]) -> None:
        """Record that a task cannot run, because taskiq cannot use what its message says.

        Args:
            message: what was to be run.
            result: what taskiq says of it; made to be a result of this worker's.
        """
        message.task_name = message.labels.pop(TASK_LABEL)
        if await self._begin(message) is None:
            text = f"The message of the task cannot be used: {result.error}"
            result.error = TaskFailedError(text)
            result.labels = {**message.labels, WORKER_LABEL: self.id}
        else:
            result.error = NoResultError()
        self.pool.slots.release_reservation(message.task_id)

    async def fail(self, delivered: AckableMessage, error: Exception) -> None:
        """Record that a task cannot run here, or cannot end here, because a middleware raised."""
        message = self.broker.formatter.loads(delivered.data)
        message.parse_labels()
        await self._begin(message)  # if it had not been; set_result decides whose it is
        text = f"A middleware of the worker raised {type(error).__name__}: {error}"
        result: TaskiqResult[Any] = TaskiqResult(
            is_err=True,
            return_value=None,
            execution_time=0.0,
            labels={**message.labels, WORKER_LABEL: self.id},
            error=TaskFailedError(text),
        )
        await self.backend.set_result(message.task_id, result)
        self._note_saved(message, result)
        self.pool.slots.release_reservation(message.task_id)
        await maybe_awaitable(delivered.ack())

    async def _settle(self, message: TaskiqMessage, why: str) -> None:
        """Let a child end a run whose own process cannot do that any more."""
        packed = PACKED_RUN.get(message.task_name)
        if packed is None:
            return
        kwargs = {
            "args_packed": message.kwargs.get(packed),
            "task_id": message.task_id,
            "worker_id": self.id,
            "why": why,
        }
        await self._have_done(FINALIZE_RUN, message, kwargs)

    async def _free_step(self, message: TaskiqMessage) -> None:
        """Let a child free what a step holds that was stopped or died; its record says so by now.

        Its run may have ended before, or end at this moment without having seen that.
        """
        packed = message.kwargs.get(PACKED_ARGS[EXECUTE_PLAN])
        await self._have_done(FREE_STEP, message, {"args_packed": packed})

    async def _have_done(self, name: str, message: TaskiqMessage, kwargs: dict[str, Any]) -> None:
        """As :meth:`_ask_child`, of a task whose failure is only logged."""
        problem, _ = await self._ask_child(name, message, kwargs)
        if problem is not None:
            logger.warning("Could not %s for task %s: %s", name, message.task_id, problem)

    async def _acknowledge(self, context: Context) -> None:
        try:
            await context.ack()
        except ServerUnavailableError as error:
            # It will be delivered again, and dropped then, since its start is on record.
            logger.warning("Could not acknowledge task %s: %s", context.message.task_id, error)

    def stop_tasks(self, why: str, at_once: bool = False) -> None:
        """Stop everything that runs.

        Args:
            why: what has happened to this worker, to follow its name.
            at_once: kill it; otherwise it has the grace that a cancelled task has.
        """
        self.pool.stop_all(f"worker {self.options.name} ({socket.gethostname()}) {why}", at_once)

    def _any_task(self) -> Callable[..., Any]:
        depends: Any = TaskiqDepends()

        async def any_task(
            *_args: Any, dagster_taskiq_context: Context = depends, **_kwargs: Any
        ) -> Any:
            return await self.run_task(dagster_taskiq_context)

        return any_task

    async def _begin(self, message: TaskiqMessage) -> TaskState | None:
        """Record the start; of several deliveries of one task, that of one only.

        They take turns: while the backend is away, a message that comes again waits until it is
        known whether the first delivery has started the task. And what was begun here is not begun
        again before its end is on record, whatever the backend has lost, or says.

        Returns:
            ``None`` when the task may run now; else the state that forbids it.
        """
        task_id = message.task_id
        turn = self._turns.get(task_id) or asyncio.Lock()
        self._turns[task_id] = turn
        async with turn:
            if task_id in self._begun:
                return TaskState.STARTED
            refused = await self._start(message)
            if refused is None:
                self._begun.add(task_id)
            return refused

    async def _start(self, message: TaskiqMessage) -> TaskState | None:
        """Record the start, waiting for the backend where it is away: no record, no start."""
        task = Task(
            id=message.task_id,
            name=message.task_name,
            queue=str(message.labels.get(QUEUE_LABEL) or self.broker.settings.queue),
            run_id=str(message.labels.get(RUN_LABEL, "")),
            step_key=str(message.labels.get(STEP_LABEL, "")),
            worker=self.id,
        )
        delay = WRITE_RETRY_SECONDS[0]
        in_doubt = False
        recorded = message.task_name in PACKED_ARGS
        while True:
            try:
                refused = await self.backend.start(task, recorded=recorded)
                # A try that failed may have got through, then or later; the start is ours already.
                if in_doubt and refused is TaskState.STARTED:
                    known = (await self.backend.tasks([task.id])).get(task.id)
                    return None if known and known.worker == self.id else refused
                return refused
            except ServerUnavailableError as error:
                logger.warning("Cannot record the start of task %s (%s).", task.id, error.problem)
                in_doubt = True
                await asyncio.sleep(delay)
                delay = min(delay * 2, WRITE_RETRY_SECONDS[1])
            except NoRecordError as error:
                # Whoever sent it has recorded it: it may have begun before that was lost.
                if await self._has_begun(message):
                    logger.warning("%s It has begun before, says the log of its run.", error)
                    return TaskState.STARTED
                recorded = False

    async def _has_begun(self, message: TaskiqMessage) -> bool:
        """Let a child ask the event log of a task's run whether the task has begun before.

        Raises:
            NoResultError: that cannot be known now; the message must come again.
        """
        packed = PACKED_ARGS[message.task_name]
        kwargs = {"args_packed": message.kwargs.get(packed), "task_id": message.task_id}
        problem, value = await self._ask_child(HAS_BEGUN, message, kwargs)
        if problem is not None:
            logger.warning(
                "Nobody knows whether task %s has begun before, so it is not started now: %s",
                message.task_id,
                problem,
            )
            raise NoResultError
        return bool(value)

    async def _ask_child(
        self, name: str, message: TaskiqMessage, kwargs: dict[str, Any]
    ) -> tuple[object, Any]:
        """Run a task of this worker's own in a child of its own, on behalf of another.

        Args:
            name: of the task.
            message: the other's.
            kwargs: its arguments.

        Returns:
            What went wrong, if anything; and what the task has returned.
        """
        own = TaskiqMessage(
            task_id=f"{message.task_id}:{name}",
            task_name=name,
            labels={RUN_LABEL: message.labels.get(RUN_LABEL, "")},
            args=[],
            kwargs=kwargs,
        )
        try:
            result = await self.pool.run_internal(own)
        except (ChildDiedError, ChildStartError, ConfigError, OSError) as error:
            return error, None
        return result.error, result.return_value

    def _wake(self, message: TaskiqMessage) -> None:
        run_id = message.labels.get(RUN_LABEL)
        if run_id:
            self._wakes.wake(str(run_id), message.task_id)

    def _note_saved(self, message: TaskiqMessage, result: TaskiqResult[Any]) -> None:
        self._begun.discard(message.task_id)
        if result.is_err and message.task_name == EXECUTE_PLAN and POOL_LABEL in message.labels:
            freeing = asyncio.ensure_future(self._free_step(message))
            self._freeing.add(freeing)
            freeing.add_done_callback(self._freeing.discard)
        # With the end of a task on record there is mail of it, which wakes as well.
        self._wakes.is_awake(str(message.labels.get(RUN_LABEL, "")))

    async def _post_wake(self, run_id: str, task_id: str) -> None:
        try:
            await self.backend.post(run_channel(run_id), {"task": task_id})
        except ServerUnavailableError as error:
            logger.debug("Could not wake the loop of run %s: %s", run_id, error)

    def _user_tasks(self) -> list[AsyncTaskiqDecoratedTask[Any, Any]]:
        tasks = self.broker.get_all_tasks().values()
        ours = __package__.partition(".")[0]
        return [task for task in tasks if task.original_func.__module__.partition(".")[0] != ours]

    def _in_background(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
