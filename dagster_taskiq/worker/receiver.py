"""taskiq's receiver in the parent of a worker, which takes a message when a slot is free for it."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from taskiq import AckableMessage, TaskiqMessage, TaskiqResult
from taskiq.acks import AckController, AcknowledgeType
from taskiq.exceptions import NoResultError
from taskiq.receiver import Receiver

from dagster_taskiq.transport.broker import QueueBroker
from dagster_taskiq.worker import taskiq_log

logger = logging.getLogger(__name__)


class SlotReceiver(Receiver):
    """Handles each message as taskiq's does, and listens in fewer steps.

    taskiq's own way to listen counts what may be taken, and makes two tasks of asyncio for each
    message to wait for that and for the end. Here the broker yields a message only when a slot is
    free. ``taskiq worker`` has taskiq's own.
    """

    def __init__(self, broker: QueueBroker) -> None:
        """Make the receiver of a worker's parent, which executes no task by itself."""
        super().__init__(
            broker, validate_params=False, max_async_tasks=1, ack_type=AcknowledgeType.MANUAL
        )
        self._handled: set[asyncio.Task[None]] = set()

    async def listen(self, finish_event: asyncio.Event) -> None:
        """Start the broker, and handle messages until the event; return when all are handled.

        Raises:
            Exception: that of the broker's start.
        """
        await self.broker.startup()
        listening = asyncio.ensure_future(self._handle_all())
        finishing = asyncio.ensure_future(finish_event.wait())
        try:
            await asyncio.wait({listening, finishing}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            finishing.cancel()
            # A message that is being claimed is released by the broker.
            listening.cancel()
            with suppress(asyncio.CancelledError):
                await listening
        while self._handled:
            await asyncio.wait(self._handled)

    async def run_task(
        self,
        target: Callable[..., Awaitable[Any]],
        message: TaskiqMessage,
        ack_controller: AckController | None = None,
    ) -> TaskiqResult[Any]:
        """Call the function for a message, and return its value or error (taskiq's own hook).

        It is always the same one (:mod:`dagster_taskiq.worker.any_task`): a coroutine, which has no
        dependencies to resolve, and no arguments to convert.
        """
        del ack_controller
        started = time.monotonic()
        value: Any = None
        error: BaseException | None = None
        try:
            value = await target(*message.args)
        except NoResultError as none:
            error = none
        except BaseException as problem:  # as taskiq's does, whatever it is
            error = problem
            taskiq_log.receiver.exception(taskiq_log.FUNCTION_FAILED)
        return TaskiqResult(
            is_err=error is not None,
            return_value=value,
            execution_time=round(time.monotonic() - started, 2),
            labels=message.labels,
            error=error,
        )

    async def _handle_all(self) -> None:
        async for message in self.broker.listen():
            self._handle(message)

    def _handle(self, message: bytes | AckableMessage) -> None:
        handled = asyncio.ensure_future(self.callback(message))
        self._handled.add(handled)
        handled.add_done_callback(self._note_handled)

    def _note_handled(self, handled: "asyncio.Task[None]") -> None:
        self._handled.discard(handled)
        if not handled.cancelled() and handled.exception() is not None:
            logger.error("A message was not handled.", exc_info=handled.exception())
