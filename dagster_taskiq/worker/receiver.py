"""taskiq's receiver, as a worker of this package uses it."""

from collections.abc import Callable
from typing import Any

from taskiq import TaskiqMessage, TaskiqResult
from taskiq.acks import AckController
from taskiq.receiver import Receiver

from dagster_taskiq.transport.broker import QueueBroker
from dagster_taskiq.worker import any_task
from dagster_taskiq.worker.task_handler import TaskHandler


class WorkerReceiver(Receiver):
    """taskiq's receiver, which also records the end of a message that never becomes a task.

    If a label such as ``timeout`` is no number, taskiq writes no result that counts and
    acknowledges nothing: the slot would stay taken, and the message would be delivered again and
    again.
    """

    def __init__(self, broker: QueueBroker, handler: TaskHandler, **options: Any) -> None:
        """Listen to nothing yet.

        Args:
            broker: whose messages are received.
            handler: the worker's.
            options: those of taskiq's receiver.
        """
        self._handler = handler
        super().__init__(broker, **options)

    async def run_task(
        self,
        target: Callable[..., Any],
        message: TaskiqMessage,
        ack_controller: AckController | None = None,
    ) -> TaskiqResult[Any]:
        """Run one task (taskiq's own hook); it fails if taskiq could not call its function."""
        result = await super().run_task(target, message, ack_controller)
        call = any_task.call_of(message)
        if not call.is_made:
            await self._handler.refuse(call.message, result)
            if ack_controller is not None:
                await ack_controller.ack()
        return result
