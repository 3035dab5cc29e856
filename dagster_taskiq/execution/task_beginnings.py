"""The events with which a task is sent, and begins, in the event log of its run."""

import os
import socket
from collections.abc import Iterator

from dagster import DagsterEvent
from dagster._core.events import DagsterEventType, EngineEventData
from dagster._core.instance import DagsterInstance

from dagster_taskiq.execution.task_context import current_message

#: The types of the events with which a step's task begins, and a run's.
_BEGINNINGS = {DagsterEventType.STEP_WORKER_STARTED, DagsterEventType.ENGINE_EVENT}


def beginning(worker: str) -> dict[str, str]:
    """Return the metadata of the event with which a task begins in this process.

    Args:
        worker: the name of the worker to which this process belongs.
    """
    message = current_message()
    return {
        "worker": worker,
        "host": socket.gethostname(),
        "pid": str(os.getpid()),
        "task_id": message.task_id if message else "",
    }


def begun_task(event: DagsterEvent) -> str:
    """Return the id of the task that begins with an event; empty for other events."""
    data = event.event_specific_data
    if event.event_type not in _BEGINNINGS or not isinstance(data, EngineEventData):
        return ""
    # An event of the launcher has the id of the task that it has sent, and no process.
    task_id = data.metadata.get("task_id") if "pid" in data.metadata else None
    return str(task_id.value) if task_id is not None else ""


def sent_task(event: DagsterEvent) -> str:
    """Return the id of the task of a step that was sent with an event; empty for other events."""
    data = event.event_specific_data
    is_sent = event.event_type is DagsterEventType.STEP_WORKER_STARTING
    if not is_sent or not isinstance(data, EngineEventData):
        return ""
    task_id = data.metadata.get("task_id")
    return str(task_id.value) if task_id is not None else ""


def begun_tasks(instance: DagsterInstance, run_id: str) -> Iterator[str]:
    """Yield the ids of the tasks that have begun, according to the log of a run."""
    for entry in instance.all_logs(run_id, of_type=_BEGINNINGS):
        if entry.dagster_event is not None:
            yield begun_task(entry.dagster_event)
