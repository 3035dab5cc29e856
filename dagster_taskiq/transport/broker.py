"""What taskiq and a project see of every broker here: a taskiq ``AsyncBroker`` with queues.

A broker is the queues of a server (:mod:`~dagster_taskiq.transport.message_queues`), which each
kind of broker implements, and has a listener (:mod:`~dagster_taskiq.transport.listener`), which
takes messages from them. What is here is called by taskiq, by clients and by workers: start and
end, sending, cancelling, and listening in taskiq's form.
"""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from taskiq import AckableMessage, AsyncBroker, BrokerMessage, ScheduleSource, TaskiqFormatter
from taskiq.abc.result_backend import AsyncResultBackend
from taskiq.abc.serializer import TaskiqSerializer
from taskiq.decor import AsyncTaskiqDecoratedTask
from typing_extensions import Self

from dagster_taskiq.errors import ConfigError
from dagster_taskiq.settings.env import BACKEND_ENV
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.tracing import spans
from dagster_taskiq.tracing.span import Message, Stamp
from dagster_taskiq.transport.current_task import own_task
from dagster_taskiq.transport.gate import Service
from dagster_taskiq.transport.home_loop import Home, at_home, move_here
from dagster_taskiq.transport.json_messages import (
    ReadBody,
    SentFormatter,
    check_formatter,
    check_serializer,
    with_labels,
)
from dagster_taskiq.transport.listener import Listener
from dagster_taskiq.transport.message_check import MessageCheck
from dagster_taskiq.transport.message_labels import outgoing_of
from dagster_taskiq.transport.message_queues import MessageQueues
from dagster_taskiq.transport.messages import Delivery, Outgoing
from dagster_taskiq.transport.stopper import Stopper

#: Why a task was cancelled, if nobody says more.
CANCELLED = "it was cancelled"


class QueueBroker(MessageQueues, AsyncBroker):
    """A broker with queues, priorities and claims.

    taskiq's own methods may be called on any event loop, without :meth:`startup` too; the others
    are called on the loop that is its home.
    """

    def __init__(self, settings: Settings) -> None:
        MessageQueues.__init__(self, settings)
        AsyncBroker.__init__(self)
        self.formatter = SentFormatter(self)
        #: The event loop on which the connection is used.
        self.home = Home(self)
        #: Takes messages, and knows those that are not started yet.
        self.listener = Listener(
            self, MessageCheck(self, lambda: self.formatter, lambda: self.result_backend)
        )
        #: Makes the service that runs with this broker when it listens in a worker.
        self.make_service: Callable[[], Service] | None = None
        self.service: Service | None = None
        #: The schedules of the app that has made this broker, for a scheduler.
        self.schedule_sources: list[ScheduleSource] = []
        #: Called for every message, whichever task it names; ``None``: the task's own function is.
        #: A worker's parent process has one: it gives all tasks to its child processes.
        self.function_for_all: AsyncTaskiqDecoratedTask[Any, Any] | None = None

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
        try:
            await self.home.run_if_open(self.listener.give_back_all)
        finally:
            # `taskiq worker` cancels a shutdown that takes longer than it was told.
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

    @at_home
    async def kick(self, message: BrokerMessage) -> None:
        """Send one message (taskiq's own method); see :meth:`kick_all`."""
        with self.traced([message]) as stamp:
            labels = dict(message.labels)
            if stamp(labels):
                message = with_labels(message, labels)
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

    def traced(self, messages: Sequence[Message]) -> AbstractContextManager[Stamp]:
        """Let what sends messages in the block be a span; see :func:`spans.sending`."""
        return spans.sending(messages, self.settings.broker, self.settings.queue)

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

    @at_home
    async def requeue(self, ids: Sequence[str]) -> list[str]:
        """Put messages that were set aside back into their queues, to be delivered again.

        A user's own task that has failed because of that has not ended any more.

        Args:
            ids: those of the messages, by :meth:`list_rejected`.

        Returns:
            The ids of those that were put back; others are not there, or not whole.
        """
        backend = self.result_backend
        if not isinstance(backend, Stopper):
            raise TypeError(f"{backend!r} keeps no state of tasks.")
        return await self.requeue_rejected(ids, backend.forget_set_aside)

    def outgoing(self, message: BrokerMessage) -> Outgoing:
        """Return a message as it is put into its queue.

        Raises:
            ConfigError: as :meth:`kick_all`.
        """
        return outgoing_of(message, self.settings.queue)

    async def listen(self) -> AsyncGenerator[AckableMessage, None]:
        """Yield messages, one for each slot that is free, for as long as the caller listens.

        If the connection is lost, the listener waits for the server, with backoff; it never ends.
        """
        try:
            while True:
                message, delivery = await self.home.run(self.listener.next_for_slot)
                yield AckableMessage(
                    data=ReadBody.of(delivery.body, message),
                    ack=partial(self._acknowledge, message.task_id, delivery),
                )
        finally:
            self.gate.end_listening()

    @at_home
    async def _acknowledge(self, task_id: str, delivery: Delivery) -> None:
        await self.listener.delete(task_id, delivery)
