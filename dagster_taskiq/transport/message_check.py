"""Messages from which no task can be started: unreadable ones, and those handed out too often.

A :class:`~dagster_taskiq.transport.listener.Listener` asks about each message that it has claimed.
What cannot be started is rejected in its queue, and the backend is told, so that who waits for the
task learns why.
"""

import logging
from collections.abc import Callable

from pydantic import ValidationError
from taskiq import TaskiqFormatter, TaskiqMessage
from taskiq.labels import parse_label

from dagster_taskiq.errors import ServerUnavailableError
from dagster_taskiq.transport.backend import until_available
from dagster_taskiq.transport.message_queues import MessageQueues
from dagster_taskiq.transport.messages import MAX_DELIVERIES, Delivery
from dagster_taskiq.transport.stopper import Stopper
from dagster_taskiq.wire.labels import attempt_of

logger = logging.getLogger("dagster_taskiq.broker")

#: How many faults of an unreadable message are logged.
MOST_PROBLEMS = 5


class MessageCheck:
    """Finds the tasks of the messages of one broker, and sets aside what has none."""

    def __init__(
        self,
        queues: MessageQueues,
        formatter: Callable[[], TaskiqFormatter],
        backend: Callable[[], object],
    ) -> None:
        """Check nothing yet.

        Args:
            queues: where messages are rejected.
            formatter: returns what reads messages; a project may set another one.
            backend: returns the backend, which may be set later as well.
        """
        self._queues = queues
        self._formatter = formatter
        self._backend = backend

    async def read(self, delivery: Delivery) -> TaskiqMessage | None:
        """Return the message of a delivery, its labels as they were sent.

        One that cannot be read is rejected, and one of another task than that which was started
        with its claim.

        Returns:
            ``None`` if it was rejected.

        Raises:
            ServerUnavailableError: it could not be rejected; it will be delivered again.
        """
        attempt: int | None = None
        try:
            message = self._formatter().loads(delivery.body)
            _check_labels(message)
        except Exception as error:  # whatever a formatter raises: the message is at fault
            reason = f"it cannot be read: {_in_one_line(error)}"
        else:
            if delivery.is_started and message.task_id != delivery.task_id:
                reason = "it is the message of another task"
            elif delivery.attempt <= MAX_DELIVERIES:
                return message
            else:
                reason = f"it was handed out {delivery.attempt - 1} times and never started"
                attempt = attempt_of(message.labels)
        logger.error(
            "Set aside message %s of queue %s: %s.", delivery.task_id, delivery.queue, reason
        )
        if delivery.is_started:
            # First of all: a message that comes again says nothing of its start.
            await self._end_started(delivery, reason)
        await self._queues.reject(delivery, reason)
        if not delivery.is_started:
            await self._end_waiting(delivery, reason, attempt)
        return None

    async def _end_waiting(self, delivery: Delivery, reason: str, attempt: int | None) -> None:
        """Record that a task has failed whose message was rejected; if that can be, for now."""
        backend = self._backend()
        if isinstance(backend, Stopper):
            try:
                await backend.end_set_aside(delivery.task_id, reason, attempt)
            except ServerUnavailableError as error:
                logger.warning("Could not record that task %s fails: %s", delivery.task_id, error)

    async def _end_started(self, delivery: Delivery, reason: str) -> None:
        """Record that a task has failed which was started with the claim of its message."""
        backend = self._backend()
        if isinstance(backend, Stopper):
            what = f"record that task {delivery.task_id} fails"
            worker = self._queues.consumer
            await until_available(
                lambda: backend.end_started(delivery.task_id, worker, reason), what
            )


def _check_labels(message: TaskiqMessage) -> None:
    """Check that the labels of a message can be read; they stay as they are.

    taskiq's receiver reads them, which cannot be done twice to those that are bytes.

    Raises:
        ValueError: one is not of its type, or there is no such type.
        TypeError: likewise.
    """
    for name, kind in (message.labels_types or {}).items():
        if name in message.labels:
            parse_label(message.labels[name], kind)


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
