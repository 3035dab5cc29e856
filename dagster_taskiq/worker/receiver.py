"""taskiq's receiver in the parent of a worker, which takes a message when a slot is free for it."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

from taskiq import AckableMessage, TaskiqMessage
from taskiq.acks import AcknowledgeType
from taskiq.receiver import Receiver

from dagster_taskiq.transport.broker import QueueBroker

logger = logging.getLogger(__name__)


class SlotReceiver(Receiver):
    """Listens, and gives each message to its worker, in fewer steps than taskiq's.

    taskiq's own way to listen counts what may be taken, and makes two tasks of asyncio for each
    message to wait for that and for the end. Here the broker yields a message only when a slot is
    free. ``taskiq worker`` has taskiq's own, see :mod:`dagster_taskiq.worker.any_task`.
    """

    def __init__(
        self, broker: QueueBroker, handle: Callable[[TaskiqMessage], Awaitable[None]]
    ) -> None:
        """Make the receiver of a worker's parent, which executes no task by itself.

        Args:
            broker: the broker that listens.
            handle: called with each message; see
                :meth:`~dagster_taskiq.worker.task_handler.TaskHandler.handle`.
        """
        super().__init__(
            broker, validate_params=False, max_async_tasks=1, ack_type=AcknowledgeType.MANUAL
        )
        self._handle_message = handle
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

    async def callback(self, message: bytes | AckableMessage, raise_err: bool = False) -> None:
        """Have the worker handle a message (taskiq's own method).

        There is nothing else here: middlewares and dependencies are where tasks are executed, and
        a message is acknowledged by the worker when the start of its task is on record.
        """
        del raise_err
        data = message.data if isinstance(message, AckableMessage) else message
        read = self.broker.formatter.loads(data)
        read.parse_labels()
        await self._handle_message(read)

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
