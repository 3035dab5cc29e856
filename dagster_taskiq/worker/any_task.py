"""How taskiq gives every message to one function of the worker, whichever task it names.

taskiq calls the function that is registered for the name in the message, and only knows those of
its own process. Here the functions of tasks are in the children. So each message is replaced, on
the way to the function, by one that names this function and has the message as its argument. The
function sees to everything, the end of the task included, and leaves no result for taskiq.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from taskiq import TaskiqMessage, TaskiqMiddleware
from taskiq.acks import AcknowledgeType
from taskiq.exceptions import NoResultError

from dagster_taskiq.transport.broker import QueueBroker
from dagster_taskiq.wire.labels import TIMEOUT_LABEL

#: The name under which the function is registered.
ANY_TASK = "dagster_taskiq:any"


class AnyTaskMiddleware(TaskiqMiddleware):
    """Replaces the message, which is acknowledged by the function: when the start is on record."""

    def pre_execute(self, message: TaskiqMessage) -> TaskiqMessage:
        """Replace the message (taskiq's own hook)."""
        labels = {**message.labels, "ack_type": AcknowledgeType.MANUAL.value}
        # It is for the task, and not for taking and recording it.
        labels.pop(TIMEOUT_LABEL, None)
        return TaskiqMessage.model_construct(
            task_id=message.task_id,
            task_name=ANY_TASK,
            labels=labels,
            labels_types=message.labels_types,
            args=[message],
            kwargs={},
        )


def call_for_every_message(
    broker: QueueBroker, run: Callable[[TaskiqMessage], Awaitable[None]]
) -> None:
    """Have a broker's listener call a function for every message.

    Args:
        broker: the broker.
        run: the function. It raises no error.
    """

    async def any_task(message: Any) -> None:
        await run(message)
        raise NoResultError

    broker.add_middlewares(AnyTaskMiddleware())
    broker.function_for_all = broker.register_task(any_task, task_name=ANY_TASK)
