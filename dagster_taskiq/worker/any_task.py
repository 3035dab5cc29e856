"""How taskiq gives every message to one function of the worker, whichever task it names.

taskiq calls the function that is registered for the name in the message, and only knows those of
its own process. Here the functions of tasks are in the children. So the name is replaced on the way
to the function, and kept in a label.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from taskiq import Context, TaskiqDepends, TaskiqMessage, TaskiqMiddleware, TaskiqResult
from taskiq.acks import AcknowledgeType

from dagster_taskiq.transport.broker import QueueBroker

#: The name under which the function is registered.
ANY_TASK = "dagster_taskiq:any"
#: Label that keeps the task's own name until the function is called.
TASK_LABEL = "dagster_taskiq_task"


@dataclass(frozen=True)
class Ended:
    """What the function returns for a task that has ended: its result, be it a value or error."""

    result: TaskiqResult[Any]


class AnyTaskMiddleware(TaskiqMiddleware):
    """Replaces the name of the task, and reports when its result is on record.

    The message is acknowledged by the function, at the moment the start is on record.
    """

    def __init__(self, on_saved: Callable[[TaskiqMessage, TaskiqResult[Any]], None]) -> None:
        """Take what is to be called when the backend has the result of a task."""
        super().__init__()
        self._on_saved = on_saved

    def pre_execute(self, message: TaskiqMessage) -> TaskiqMessage:
        """Replace the name (taskiq's own hook)."""
        message.labels["ack_type"] = AcknowledgeType.MANUAL.value
        message.labels[TASK_LABEL] = message.task_name
        message.task_name = ANY_TASK
        return message

    def post_execute(self, message: TaskiqMessage, result: TaskiqResult[Any]) -> None:
        """Give the result of the function the contents of the task's (taskiq's own hook)."""
        del message
        if isinstance(result.return_value, Ended):
            for name, value in result.return_value.result:
                setattr(result, name, value)

    def post_save(self, message: TaskiqMessage, result: TaskiqResult[Any]) -> None:
        """Report that the result is on record (taskiq's own hook)."""
        self._on_saved(message, result)


def call_for_every_message(broker: QueueBroker, run: Callable[[Context], Awaitable[Any]]) -> None:
    """Have a broker's listener call a function for every message.

    Args:
        broker: its middlewares must include :class:`AnyTaskMiddleware`.
        run: the function; it calls :func:`restore_name` first, and returns :class:`Ended`.
    """
    depends: Any = TaskiqDepends()

    async def any_task(
        *_args: Any, dagster_taskiq_context: Context = depends, **_kwargs: Any
    ) -> Any:
        return await run(dagster_taskiq_context)

    broker.function_for_all = broker.register_task(any_task, task_name=ANY_TASK)


def restore_name(message: TaskiqMessage) -> None:
    """Give a message the task's own name back."""
    message.task_name = message.labels.pop(TASK_LABEL)


def was_called(message: TaskiqMessage) -> bool:
    """Return whether taskiq has called the function for a message."""
    return TASK_LABEL not in message.labels
