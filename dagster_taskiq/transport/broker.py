"""What every broker here is: a taskiq ``AsyncBroker`` that claims one message at a time.

A concrete broker implements how a message is put, claimed, acknowledged, released and counted.
What is the same for all brokers is here: when to claim (a slot is free), what happens if the
connection is lost, and what is done with a message that cannot be read.
"""

import asyncio
import contextlib
import logging
from abc import abstractmethod
from collections.abc import AsyncGenerator, Callable, Sequence
from functools import partial
from typing import Any, ClassVar, Protocol, runtime_checkable

from pydantic import ValidationError
from taskiq import AckableMessage, AsyncBroker, BrokerMessage, ScheduleSource, TaskiqFormatter
from taskiq.abc.result_backend import AsyncResultBackend
from taskiq.abc.serializer import TaskiqSerializer
from taskiq.decor import AsyncTaskiqDecoratedTask
from typing_extensions import Self

from dagster_taskiq.errors import ConfigError, DagsterTaskiqError, ServerUnavailableError
from dagster_taskiq.settings.env import BACKEND_ENV
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.tags import PRIORITY_TAG, RUN_PRIORITY_TAG
from dagster_taskiq.transport.connection import Connection
from dagster_taskiq.transport.current_task import own_task
from dagster_taskiq.transport.eviction import Eviction
from dagster_taskiq.transport.gate import OpenGate, Service, SlotGate
from dagster_taskiq.transport.home_loop import Home, at_home, move_here
from dagster_taskiq.transport.json_messages import check_formatter, check_serializer
from dagster_taskiq.transport.messages import MAX_DELIVERIES, Delivery, Outgoing
from dagster_taskiq.wire.labels import (
    DELAY_LABEL,
    PRIORITY_LABEL,
    QUEUE_LABEL,
    attempt_of,
    check_times,
    read_time,
)
from dagster_taskiq.wire.queues import QueueDepth, is_run_queue, run_queue
from dagster_taskiq.wire.task_names import is_own_task

logger = logging.getLogger("dagster_taskiq.broker")


#: Seconds that a listener waits for a wake-up before it tries to claim all the same. So it finds
#: messages that another worker claimed and never started, or whose delay is over, on an idle queue.
IDLE_LOOK_SECONDS = 1.0
#: Seconds between two attempts to reach an unavailable broker: the first, and the longest.
RECONNECT_SECONDS = (0.1, 5.0)
#: How many faults of an unreadable message are logged.
MOST_PROBLEMS = 5
#: Why a task was cancelled, if nobody says more.
CANCELLED = "it was cancelled"


@runtime_checkable
class Stopper(Protocol):
    """The part of a backend by which a broker ends tasks."""

    async def stop(self, task_ids: Sequence[str], reason: str, at_once: bool) -> list[str]:
        """Cancel tasks that are on record; return the ids of those that had started."""

    async def end_lost(self, task_ids: Sequence[str]) -> None:
        """End those of these tasks whose workers are lost."""

    async def end_set_aside(self, task_id: str, reason: str, attempt: int | None) -> None:
        """End a user's own task whose message was set aside."""


class QueueBroker(AsyncBroker):
    """A broker with queues, priorities and claims.

    taskiq's own methods may be called on any event loop, without :meth:`startup` too; the others
    are called on the loop that is its home.

    Every method that talks to the server raises ``ServerUnavailableError`` if the server cannot
    serve now, and ``ConfigError`` if it will not before the configuration changes.
    """

    #: The server; a backend that is on the same one shares it.
    connection: Connection
    #: Whether the children of a worker use its connection, because each costs the server much.
    shares_connection: ClassVar[bool] = False

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        #: The event loop on which the connection is used.
        self.home = Home(self)
        #: The queues that :meth:`listen` serves, without their run queues.
        self.queues: tuple[str, ...] = (settings.queue,)
        #: The worker's id, which is recorded with each claim.
        self.consumer = "listener"
        self.gate: SlotGate = OpenGate()
        #: Makes the service that runs with this broker when it listens in a worker.
        self.make_service: Callable[[], Service] | None = None
        self.service: Service | None = None
        #: The schedules of the app that has made this broker, for a scheduler.
        self.schedule_sources: list[ScheduleSource] = []
        #: Called for every message, whichever task it names; ``None``: the task's own function is.
        #: A worker's parent process has one: it gives all tasks to its child processes.
        self.function_for_all: AsyncTaskiqDecoratedTask[Any, Any] | None = None
        #: Whether a listener may record the start of a user's own task as it claims the message.
        self.starts_with_claim = False
        self._claimed: dict[str, Delivery] = {}

    def with_result_backend(self, result_backend: AsyncResultBackend[Any]) -> Self:
        """Set the backend (taskiq's own method), which has to be one of this package.

        Raises:
            ConfigError: it is of another kind.
        """
        if not isinstance(result_backend, Stopper):
            raise ConfigError(
                f"{type(result_backend).__name__} cannot be the result backend of this broker: it "
                "keeps results, and no state of tasks and workers. Leave it out, and results are "
                "on the server of the broker; for another server, set its URL as `backend` in the "
                f"settings, or in {BACKEND_ENV}."
            )
        return super().with_result_backend(result_backend)

    def with_serializer(self, serializer: TaskiqSerializer) -> Self:
        """Set what writes and reads messages (taskiq's own method), which has to use JSON.

        Raises:
            ConfigError: it does not.
        """
        check_serializer(serializer)
        return super().with_serializer(serializer)

    def with_formatter(self, formatter: TaskiqFormatter) -> Self:
        """Set the form of messages (taskiq's own method), which has to be taskiq's own in JSON.

        Raises:
            ConfigError: it is not.
        """
        check_formatter(formatter)
        return super().with_formatter(formatter)

    def find_task(self, task_name: str) -> AsyncTaskiqDecoratedTask[Any, Any] | None:
        """Return the function to call for a message (taskiq's own hook)."""
        return self.function_for_all or super().find_task(task_name)

    @property
    def all_queues(self) -> tuple[str, ...]:
        """The queues, and their run queues."""
        return (*self.queues, *map(run_queue, self.queues))

    @property
    def open_queues(self) -> tuple[str, ...]:
        """The queues from which to claim now: run queues only if a run may start."""
        return self.all_queues if self.gate.takes_runs else self.queues

    async def startup(self) -> None:
        """Connect; run taskiq's start-up hooks; in a worker, start its service.

        The hooks run on the loop of the caller.
        """
        if self.is_worker_process and self.make_service is not None:
            # taskiq's run_receiver_task begins in a process that may be sending tasks.
            await move_here(self._homes)
            self.service = self.make_service()
        await self.home.open()
        await super().startup()
        if self.service is not None:
            await self.service.start()

    async def shutdown(self) -> None:
        """Undo :meth:`startup`, in the opposite order."""
        if self.service is not None:
            await self.service.stop()
            self.service = None
        await self.home.run_if_open(self._give_back_all)
        await super().shutdown()
        await self.home.close()

    def use_running_loop(self) -> None:
        """Let the running event loop be the home of this broker and of its backend.

        It is that of a worker's parent, which does nothing else.
        """
        for home in self._homes:
            home.use_running_loop()

    @property
    def _homes(self) -> list[Home]:
        homes = [getattr(each, "home", None) for each in (self, self.result_backend)]
        return [home for home in homes if isinstance(home, Home)]

    @abstractmethod
    async def ping(self) -> None:
        """Return when the server has answered."""

    async def eviction(self) -> Eviction | None:
        """Return how the server deletes messages to make room; ``None`` if it does not."""
        return None

    @abstractmethod
    async def put_all(self, messages: Sequence[Outgoing]) -> None:
        """Store messages durably. When this returned, they will be delivered.

        Those of one queue and priority are delivered in this order. If it raises, some of them may
        have been stored.
        """

    async def put(
        self, task_id: str, queue: str, priority: int, body: bytes, delay: float = 0.0
    ) -> None:
        """Store one message; see :class:`Outgoing` and :meth:`put_all`."""
        await self.put_all([Outgoing(task_id, queue, priority, body, delay)])

    @abstractmethod
    async def claim(self) -> Delivery | None:
        """Take the first message of ``self.open_queues``: highest priority, then oldest.

        A message that another worker claimed and neither started nor released within the lease
        counts as waiting again.

        Returns:
            ``None`` if no message waits.
        """

    async def claim_next(self) -> Delivery | None:
        """Claim for a listener, which calls :meth:`wait_for_work` if there is nothing.

        A listener does not cancel this.

        May overlook a message that has come since the last call, if :meth:`wait_for_work` then
        returns at once. A message without a wake-up is found within ``IDLE_LOOK_SECONDS``.
        """
        return await self.claim()

    def may_start_with_claim(self, backend_connection: Connection) -> bool:
        """Return whether :meth:`claim_next` can record the start of a task in the same step.

        Args:
            backend_connection: that of the backend with the records.
        """
        del backend_connection
        return False

    async def stop_claiming(self) -> None:
        """Do what is done with the next claim otherwise: there may be none."""

    def was_started(self, task_id: str) -> bool:
        """Return whether the start of a task was recorded with the claim of its message.

        Args:
            task_id: of a message that was yielded, and is not acknowledged yet.
        """
        delivery = self._claimed.get(task_id)
        return delivery is not None and delivery.is_started

    @abstractmethod
    async def wait_for_work(self, timeout: float) -> None:
        """Return when a message may have come, after ``timeout`` seconds at the latest."""

    @abstractmethod
    async def acknowledge(self, delivery: Delivery) -> None:
        """Delete a claimed message."""

    @abstractmethod
    async def release(self, delivery: Delivery) -> None:
        """Put a claimed message back to its old place in the queue, free to be claimed at once."""

    @abstractmethod
    async def reject(self, delivery: Delivery, reason: str) -> None:
        """Move a claimed message, with the reason, to those that are kept but never delivered."""

    @abstractmethod
    async def discard(self, task_ids: Sequence[str]) -> int:
        """Delete waiting messages of these tasks; return how many there were."""

    @abstractmethod
    async def depths(self) -> list[QueueDepth]:
        """Return the queues that hold messages, by name."""

    async def is_empty(self, queue: str) -> bool:
        """Return whether a queue holds no message that will be delivered."""
        return all(row.queue != queue for row in await self.depths())

    @abstractmethod
    async def rejected(self) -> int:
        """Return how many messages have been rejected."""

    @at_home
    async def kick(self, message: BrokerMessage) -> None:
        """Send one message (taskiq's own method); see :meth:`kick_all`."""
        await self.kick_all([message])

    async def kick_all(self, messages: Sequence[BrokerMessage]) -> None:
        """Send messages; the labels ``queue_name``, ``priority`` and ``delay`` of each are read.

        Raises:
            ConfigError: a priority is not an integer, or a label of
                :mod:`dagster_taskiq.wire.labels` is not a time; nothing has been sent.
        """
        others = []
        for message in messages:
            outgoing = self.outgoing(message)
            # Only its worker may put the task back that is executed now.
            current = own_task(message.task_id)
            if current is None:
                others.append(outgoing)
            else:
                current.keep(message)
        if others:
            await self.put_all(others)

    @at_home
    async def cancel(
        self, task_ids: str | Sequence[str], reason: str = CANCELLED, *, at_once: bool = False
    ) -> None:
        """Cancel tasks: what waits is taken out of its queue, what runs is stopped.

        What has ended stays as it is.

        Args:
            task_ids: the id of a task, or several.
            reason: for logs, for the records of the tasks, and for the error of their results.
            at_once: what runs is killed, with no time to clean up.
        """
        backend = self.result_backend
        if not isinstance(backend, Stopper):
            raise TypeError(f"{backend!r} keeps no state of tasks.")
        ids = [task_ids] if isinstance(task_ids, str) else list(task_ids)
        started = await backend.stop(ids, reason, at_once)
        await self.discard([each for each in ids if each not in started])
        if started:
            # No worker stops those of a lost one, and no loop of a run ends them.
            await backend.end_lost(started)

    def outgoing(self, message: BrokerMessage) -> Outgoing:
        """Return a message as it is put into its queue.

        Raises:
            ConfigError: as :meth:`kick_all`.
        """
        check_times(message.labels)
        priority = message.labels.get(PRIORITY_LABEL) or 0
        try:
            level = int(priority)
            if level != float(priority):
                raise ValueError(priority)
        except (TypeError, ValueError, OverflowError):
            raise ConfigError(
                f'The label "{PRIORITY_LABEL}" of task {message.task_name} must be an integer, '
                f"but it is {priority!r}. Higher runs first, 0 is that of a task without the "
                "label, and negative numbers are allowed. (A step or run of Dagster has the tag "
                f'"{PRIORITY_TAG}" or "{RUN_PRIORITY_TAG}" for it.)'
            ) from None
        queue = str(message.labels.get(QUEUE_LABEL) or self.settings.queue)
        delay = read_time(message.labels, DELAY_LABEL)
        is_own = is_own_task(message.task_name, message.labels)
        own_task = message.task_name if is_own else ""
        attempt = attempt_of(message.labels)
        return Outgoing(message.task_id, queue, level, message.message, delay, own_task, attempt)

    async def listen(self) -> AsyncGenerator[AckableMessage, None]:
        """Yield messages, one for each slot that is free, for as long as the caller listens.

        If the connection is lost, the listener waits for the server, with backoff; it never ends.
        """
        try:
            while True:
                yield await self.home.run(self._next_for_slot)
        finally:
            self.gate.end_listening()

    async def _next_for_slot(self) -> AckableMessage:
        """Wait for a free slot, and for a message to take it."""
        await self.gate.reserve()
        try:
            # The id in the message itself counts: that in the broker's columns or headers may have
            # been written by any client.
            task_id, delivery = await self._next()
        except BaseException:
            self.gate.unreserve()
            raise
        self.gate.expect(task_id, is_run_queue(delivery.queue))
        return AckableMessage(data=delivery.body, ack=partial(self._ack, task_id, delivery))

    async def give_back(self, task_id: str) -> None:
        """Release a message that this process has claimed and will not start."""
        delivery = self._claimed.pop(task_id, None)
        if delivery is not None:
            await self.release(delivery)

    async def _give_back_all(self) -> None:
        """Release what was yielded and never started, so that no worker waits for the lease."""
        for task_id in list(self._claimed):
            try:
                await self.give_back(task_id)
            except ServerUnavailableError as error:
                logger.warning("Could not give back task %s: %s", task_id, error)
        with contextlib.suppress(ServerUnavailableError):
            await self.stop_claiming()

    async def acknowledge_claimed(self, task_id: str) -> None:
        """Delete a message that was yielded: the start of its task is on record, or forbidden."""
        delivery = self._claimed.pop(task_id, None)
        if delivery is not None:
            await self.acknowledge(delivery)

    @at_home
    async def _ack(self, task_id: str, delivery: Delivery) -> None:
        self._claimed.pop(task_id, None)
        await self.acknowledge(delivery)

    async def _next(self) -> tuple[str, Delivery]:
        """Wait for one readable message, however long the broker is unavailable.

        Returns:
            The id of its task, and the message.
        """
        delay = RECONNECT_SECONDS[0]
        trouble = ""
        while True:
            try:
                found = await self._look()
                if found is None:
                    await self._wait_for_work()
            except Exception as error:
                # Whatever it is: the tasks that run in this worker must not end with its listener.
                self._log_trouble(error, trouble)
                trouble = str(error) or type(error).__name__
                await asyncio.sleep(delay)
                delay = min(delay * 2, RECONNECT_SECONDS[1])
                continue
            if trouble:
                logger.warning("The broker answers again.")
                trouble, delay = "", RECONNECT_SECONDS[0]
            if found is not None:
                return found

    def _log_trouble(self, error: Exception, before: str) -> None:
        """Log why no message can be claimed: once for each outage, and for each other fault.

        Args:
            error: the fault of this attempt.
            before: the text of the fault of the attempt before; empty if there was none.
        """
        if isinstance(error, ServerUnavailableError):
            if not before:
                logger.warning(
                    "The broker does not answer (%s). Trying again until it does.", error.problem
                )
        elif str(error) != before:
            traceback = not isinstance(error, DagsterTaskiqError)
            logger.error(
                "Cannot take messages (%s). Trying again until that works.",
                str(error).rstrip("."),
                exc_info=traceback,
            )

    async def _look(self) -> tuple[str, Delivery] | None:
        """Claim the first message that can be read; those before it are rejected."""
        while (delivery := await self.claim_or_release()) is not None:
            if delivery.refused is not None:
                state = delivery.refused.value
                logger.info("Dropped task %s: it is %s.", delivery.task_id, state)
                continue
            if delivery.is_started:
                # What its sender has written beside the message was enough to start it.
                self._claimed[delivery.task_id] = delivery
                return delivery.task_id, delivery
            task_id = await self._task_of(delivery)
            if task_id is not None:
                self._claimed[task_id] = delivery
                return task_id, delivery
        return None

    async def claim_or_release(self) -> Delivery | None:
        """Claim a message for a listener; if it is cancelled meanwhile, release the message."""
        claim = asyncio.ensure_future(self.claim_next())
        try:
            return await asyncio.shield(claim)
        except asyncio.CancelledError:
            late = await _outcome(claim)
            if late is not None:
                with contextlib.suppress(ServerUnavailableError):
                    await self.release(late)
            raise

    async def _wait_for_work(self) -> None:
        """Wait for a message, or until runs may start, of which one may be waiting already."""
        if self.gate.takes_runs:
            await self.wait_for_work(IDLE_LOOK_SECONDS)
            return
        waits = [
            asyncio.ensure_future(self.wait_for_work(IDLE_LOOK_SECONDS)),
            asyncio.ensure_future(self.gate.until_takes_runs()),
        ]
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waits:
                each.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
        for each in done:
            each.result()

    async def _task_of(self, delivery: Delivery) -> str | None:
        """Return the id of a message's task; a message that cannot be read is rejected."""
        attempt: int | None = None
        try:
            message = self.formatter.loads(delivery.body)
            message.parse_labels()
        except Exception as error:  # whatever a formatter raises: the message is at fault
            reason = f"it cannot be read: {_in_one_line(error)}"
        else:
            if delivery.attempt <= MAX_DELIVERIES:
                return message.task_id
            reason = f"it was handed out {delivery.attempt - 1} times and never started"
            attempt = attempt_of(message.labels)
        logger.error(
            "Set aside message %s of queue %s: %s.", delivery.task_id, delivery.queue, reason
        )
        await self.reject(delivery, reason)
        backend = self.result_backend
        if isinstance(backend, Stopper):
            try:
                await backend.end_set_aside(delivery.task_id, reason, attempt)
            except ServerUnavailableError as error:
                logger.warning("Could not record that task %s fails: %s", delivery.task_id, error)
        return None


async def _outcome(claim: "asyncio.Future[Delivery | None]") -> Delivery | None:
    try:
        return await claim
    except Exception:  # the caller that wanted the message was cancelled
        return None


def _in_one_line(error: Exception) -> str:
    """Return what is wrong with a message, without quoting its contents."""
    if isinstance(error, ValidationError):
        problems = error.errors(include_url=False, include_context=False, include_input=False)
        texts = []
        for each in problems:
            place = ".".join(map(str, each["loc"]))
            texts.append(f"{place}: {each['msg']}" if place else each["msg"])
        return "; ".join(texts[:MOST_PROBLEMS])
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
