"""How taskiq gives every message to one function of the worker, whichever task it names.

taskiq calls the function that is registered for the name in the message, and only knows those of
its own process. Here the functions of tasks are in the children. So each message is replaced, on
the way to the function, by one that names this function and has the message as its argument.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from taskiq import TaskiqMessage, TaskiqMiddleware, TaskiqResult
from taskiq.acks import AcknowledgeType

from dagster_taskiq.transport.broker import QueueBroker
from dagster_taskiq.wire.labels import TIMEOUT_LABEL

#: The name under which the function is registered.
ANY_TASK = "dagster_taskiq:any"


@dataclass
class Call:
    """The call of the function for one message."""

    message: TaskiqMessage
    #: Its label ``timeout``, which is for the task and not for taking and recording it: it is taken
    #: out before taskiq looks for it, and is there again when the function is called.
    timeout: Any = None


@dataclass(frozen=True)
class Ended:
    """What the function returns for a task that has ended: its result, be it a value or error."""

    result: TaskiqResult[Any]


class AnyTaskMiddleware(TaskiqMiddleware):
    """Replaces the message, and reports when its result is on record.

    The message is acknowledged by the function, at the moment the start is on record.
    """

    def __init__(self, on_saved: Callable[[TaskiqMessage, TaskiqResult[Any]], None]) -> None:
        """Take what is to be called when the backend has the result of a task."""
        super().__init__()
        self._on_saved = on_saved

    def pre_execute(self, message: TaskiqMessage) -> TaskiqMessage:
        """Replace the message (taskiq's own hook)."""
        message.labels["ack_type"] = AcknowledgeType.MANUAL.value
        call = Call(message, message.labels.pop(TIMEOUT_LABEL, None))
        # Its labels are those of the message, also when some are added.
        return TaskiqMessage.model_construct(
            task_id=message.task_id,
            task_name=ANY_TASK,
            labels=message.labels,
            labels_types=message.labels_types,
            args=[call],
            kwargs={},
        )

    def post_execute(self, message: TaskiqMessage, result: TaskiqResult[Any]) -> None:
        """Give the result of the function the contents of the task's (taskiq's own hook)."""
        del message
        if isinstance(result.return_value, Ended):
            for name, value in result.return_value.result:
                setattr(result, name, value)

    def post_save(self, message: TaskiqMessage, result: TaskiqResult[Any]) -> None:
        """Report that the result is on record (taskiq's own hook)."""
        self._on_saved(call_of(message).message, result)


def call_for_every_message(
    broker: QueueBroker, run: Callable[[TaskiqMessage], Awaitable[Any]]
) -> None:
    """Have a broker's listener call a function for every message.

    Args:
        broker: its middlewares must include :class:`AnyTaskMiddleware`.
        run: the function, which returns how the task has ended: :class:`Ended`, or
            :class:`~dagster_taskiq.transport.results.ReportedEnd`.
    """

    async def any_task(call: Any) -> Any:
        if call.timeout is not None:
            call.message.labels[TIMEOUT_LABEL] = call.timeout
        return await run(call.message)

    broker.function_for_all = broker.register_task(any_task, task_name=ANY_TASK)


def call_of(replaced: TaskiqMessage) -> Call:
    """Return the call that a message has been replaced by."""
    call: Call = replaced.args[0]
    return call
