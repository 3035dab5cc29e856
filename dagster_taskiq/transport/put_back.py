"""Putting a task back: the worker that owns it sends it again, and gives it up."""

from dagster_taskiq.transport.backend import StateBackend, until_available
from dagster_taskiq.transport.broker import QueueBroker
from dagster_taskiq.transport.messages import Outgoing
from dagster_taskiq.wire.records import Task


async def put_back(
    broker: QueueBroker, backend: StateBackend, task: Task, message: Outgoing
) -> bool:
    """Have a task that its worker has started run again: record that it waits, send its message.

    That is one step where broker and backend share a server that has transactions. Elsewhere the
    message is sent first. Who claims it before the record has changed gets ``NotPutBackYetError``,
    and tries again. If this worker dies between, the task ends as LOST, and the message is dropped.

    Goes on for as long as a server is unavailable.

    Args:
        broker: where the message goes.
        backend: has the record.
        task: which task and attempt, and the worker that has started it.
        message: of the next attempt (``ATTEMPT_LABEL``), with its delay.

    Returns:
        Whether the task waits again. ``False`` if this worker does not own it any more, or is to
        stop it: then it is still to be ended by this worker, if that owns it.

    Raises:
        ConfigError: the broker cannot take the message: its delay is too long, or the name of its
            queue is not allowed there; nothing has changed.
    """
    what = f"put back task {task.id}"
    in_one_step = backend.puts_messages and broker.connection is backend.connection
    if not in_one_step:
        await until_available(lambda: broker.put_all([message]), what)
    sent = message if in_one_step else None
    if await until_available(lambda: backend.put_back(task, sent), what):
        return True
    known = (await until_available(lambda: backend.tasks([task.id]), what)).get(task.id)
    if known is not None and known.attempt > task.attempt:
        return True  # at the first try, whose answer was lost
    if not in_one_step:
        await until_available(lambda: broker.discard([task.id]), what)
    return False
