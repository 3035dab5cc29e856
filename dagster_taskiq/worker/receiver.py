"""taskiq's receiver, as a worker of this package uses it."""

import logging
from collections.abc import Callable
from typing import Any

from taskiq import TaskiqMessage, TaskiqResult
from taskiq.acks import AckableMessage, AckController
from taskiq.receiver import Receiver

from dagster_taskiq.worker.service import WorkerService

logger = logging.getLogger("dagster_taskiq.worker")


class WorkerReceiver(Receiver):
    """taskiq's receiver, with an end for messages that never come to be a task.

    Where a middleware raises, or a label such as ``timeout`` is no number, taskiq leaves neither a
    result that counts nor an acknowledgement: the slot would stay taken, and the message would come
    again, for ever.
    """

    def __init__(self, service: WorkerService, **options: Any) -> None:
        self._service = service
        super().__init__(service.broker, **options)

    async def run_task(
        self,
        target: Callable[..., Any],
        message: TaskiqMessage,
        ack_controller: AckController | None = None,
    ) -> TaskiqResult[Any]:
        """Run one task (taskiq's own hook); it fails too where taskiq did not get to running it."""
        result = await super().run_task(target, message, ack_controller)
        if not self._service.was_handed(message):
            await self._service.refuse(message, result)
            if ack_controller is not None:
                await ack_controller.ack()
        return result

    async def callback(self, message: bytes | AckableMessage, raise_err: bool = False) -> None:
        """Process one message (taskiq's own hook)."""
        try:
            await super().callback(message, raise_err)
        except Exception as error:
            logger.exception("A middleware raised.")
            if isinstance(message, AckableMessage):
                await self._service.fail(message, error)
