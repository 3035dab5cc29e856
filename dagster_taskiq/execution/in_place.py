"""Executing a user's own task where it is sent, without a worker: on ``memory://``."""

import os
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context
from functools import cache, partial
from typing import Any

from taskiq import BrokerMessage, TaskiqResult
from taskiq.receiver import Receiver

from dagster_taskiq.errors import UnknownTaskError
from dagster_taskiq.execution.own_tasks import TaskLife
from dagster_taskiq.transport.backend import StateBackend
from dagster_taskiq.transport.broker import QueueBroker
from dagster_taskiq.transport.home_loop import background
from dagster_taskiq.transport.json_messages import PlainFormatter
from dagster_taskiq.transport.results import PutBack
from dagster_taskiq.wire.labels import ATTEMPT_LABEL, QUEUE_LABEL, WORKER_LABEL, attempt_of
from dagster_taskiq.wire.records import Task


async def execute_in_place(broker: QueueBroker, message: BrokerMessage) -> None:
    """Execute a task to its end, as a worker would; return when its result is on record.

    An async function runs on this event loop, and a plain one in a thread. A task that is to be
    executed again is, at once, as often as its middlewares want: nothing waits for a ``delay``.

    Args:
        broker: has the task, and all that belongs to it.
        message: names the task.

    Raises:
        UnknownTaskError: the broker has no such task.
    """
    if broker.find_task(message.task_name) is None:
        known = ", ".join(sorted(broker.get_all_tasks()))
        raise UnknownTaskError(
            f"There is no task named {message.task_name!r} on this broker. Import the module that "
            f"defines it. It has: {known}."
        )
    backend = broker.result_backend
    if not isinstance(backend, StateBackend):
        raise TypeError(f"{backend!r} keeps no state of tasks and workers.")
    receiver = Receiver(broker, executor=_threads(), run_startup=False, max_async_tasks=1)
    again: BrokerMessage | None = message
    while again is not None:
        parsed = PlainFormatter().loads(again.message)
        task = Task(
            id=parsed.task_id,
            name=parsed.task_name,
            queue=str(parsed.labels.get(QUEUE_LABEL) or broker.settings.queue),
            worker=f"process-{os.getpid()}",
            attempt=attempt_of(parsed.labels),
        )
        if await backend.home.run(partial(backend.start, task)) is not None:
            return  # it was revoked, or has ended
        # What is sent again is for the next attempt.
        parsed.labels[ATTEMPT_LABEL] = task.attempt + 1
        record = partial(_record, backend, task)
        life = TaskLife(parsed, may_be_put_back=True, record=record)
        ended = await life.run(receiver, is_whole=True)
        if not isinstance(ended, PutBack):
            return
        await backend.home.run(partial(backend.put_back, task, None))
        again = ended.message


def _record(backend: StateBackend, task: Task, result: TaskiqResult[Any]) -> None:
    labels = {**result.labels, WORKER_LABEL: task.worker, ATTEMPT_LABEL: task.attempt}
    stored = result.model_copy(update={"labels": labels})
    # In another context: in that of the task, the result would be handed to its execution again.
    Context().run(background().portal.call, backend.set_result, task.id, stored)


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(thread_name_prefix="dagster-taskiq-in-place")
