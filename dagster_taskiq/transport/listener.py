"""What a listener does on every broker: take a message when a slot is free, or give it back.

:meth:`QueueBroker.listen <dagster_taskiq.transport.broker.QueueBroker.listen>` asks for each
message; a worker says what became of it. A listener calls the queues of the server
(:mod:`~dagster_taskiq.transport.message_queues`), their gate, and
:mod:`~dagster_taskiq.transport.message_check` for what cannot be read.
"""

import asyncio
import contextlib
import logging

from taskiq import TaskiqMessage

from dagster_taskiq.errors import DagsterTaskiqError, ServerUnavailableError
from dagster_taskiq.transport.connection import RECONNECT_SECONDS
from dagster_taskiq.transport.message_check import MessageCheck
from dagster_taskiq.transport.message_queues import MessageQueues
from dagster_taskiq.transport.messages import Delivery
from dagster_taskiq.wire.labels import QUEUE_LABEL
from dagster_taskiq.wire.queues import is_run_queue

logger = logging.getLogger("dagster_taskiq.broker")

#: Seconds that a listener waits for a wake-up before it tries to claim all the same. So it finds
#: messages that another worker claimed and never started, or whose delay is over, on an idle queue.
IDLE_LOOK_SECONDS = 1.0


class Listener:
    """Takes messages from the queues of one broker, and knows those that are not started yet."""

    def __init__(self, queues: MessageQueues, check: MessageCheck) -> None:
        """Claim nothing yet.

        Args:
            queues: from which to claim.
            check: finds the task of each message.
        """
        self._queues = queues
        self._check = check
        #: What was yielded, and is neither acknowledged nor given back, by the id of its task: more
        #: than one if a message was sent twice. For each there is one call that forgets one.
        self._claimed: dict[str, list[Delivery]] = {}

    @property
    def claimed(self) -> list[Delivery]:
        """What this process has claimed, and neither started nor given back."""
        return [each for of_task in self._claimed.values() for each in of_task]

    async def next_for_slot(self) -> tuple[TaskiqMessage, Delivery]:
        """Wait for a free slot, and for a message to take it, however long there is none.

        Returns:
            The message, and its delivery.
        """
        await self._queues.gate.reserve()
        try:
            # The id in the message itself counts: that in the broker's columns or headers may have
            # been written by any client.
            message, delivery = await self._next()
        except BaseException:
            self._queues.gate.unreserve()
            raise
        self._queues.gate.expect(message.task_id, is_run_queue(delivery.queue))
        return message, delivery

    def was_started(self, task_id: str) -> bool:
        """Return whether the start of a task was recorded with the claim of its message.

        Args:
            task_id: of a message that was yielded, and is not acknowledged yet.
        """
        return any(each.is_started for each in self._claimed.get(task_id, ()))

    async def give_back(self, task_id: str) -> None:
        """Release a message that this process has claimed and will not start.

        Raises:
            ServerUnavailableError: it could not be released; :meth:`give_back_all` tries again.
        """
        delivery = self._first(task_id)
        if delivery is not None:
            self._forget(task_id, delivery)
            try:
                await self._queues.release(delivery)
            except ServerUnavailableError:
                self._claimed.setdefault(task_id, []).append(delivery)
                raise

    async def give_back_all(self) -> None:
        """Release what was yielded and never started, so that no worker waits for the lease."""
        for task_id in [each for each, of_task in self._claimed.items() for _ in of_task]:
            try:
                await self.give_back(task_id)
            except ServerUnavailableError as error:
                logger.warning("Could not give back task %s: %s", task_id, error)
        with contextlib.suppress(ServerUnavailableError):
            await self._queues.stop_claiming()

    async def acknowledge(self, task_id: str) -> None:
        """Delete a message that was yielded: the start of its task is on record, or forbidden."""
        delivery = self._first(task_id)
        if delivery is not None:
            await self.delete(task_id, delivery)

    async def delete(self, task_id: str, delivery: Delivery) -> None:
        """Delete one delivery of a task's message, be it given back already or not."""
        self._forget(task_id, delivery)
        await self._queues.acknowledge(delivery)

    def _first(self, task_id: str) -> Delivery | None:
        return next(iter(self._claimed.get(task_id, ())), None)

    def _forget(self, task_id: str, delivery: Delivery) -> None:
        of_task = self._claimed.get(task_id, [])
        if delivery in of_task:
            of_task.remove(delivery)
        if not of_task:
            self._claimed.pop(task_id, None)

    async def _next(self) -> tuple[TaskiqMessage, Delivery]:
        """Wait for one readable message, however long the broker is unavailable.

        Returns:
            The message, and its delivery.
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

    async def _look(self) -> tuple[TaskiqMessage, Delivery] | None:
        """Claim the first message that can be read; those before it are rejected."""
        while (delivery := await self._queues.claim_or_release()) is not None:
            if delivery.refused is not None:
                state = delivery.refused.value
                logger.info("Dropped task %s: it is %s.", delivery.task_id, state)
                continue
            message = await self._check.read(delivery)
            if message is not None:
                # One that names no queue came from the default one of its sender.
                message.labels.setdefault(QUEUE_LABEL, delivery.queue)
                self._claimed.setdefault(message.task_id, []).append(delivery)
                return message, delivery
        return None

    async def _wait_for_work(self) -> None:
        """Wait for a message, or until runs may start, of which one may be waiting already."""
        if self._queues.gate.takes_runs:
            await self._queues.wait_for_work(IDLE_LOOK_SECONDS)
            return
        waits = [
            asyncio.ensure_future(self._queues.wait_for_work(IDLE_LOOK_SECONDS)),
            asyncio.ensure_future(self._queues.gate.until_takes_runs()),
        ]
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waits:
                each.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
        for each in done:
            each.result()
