"""Users' async tasks that a child executes side by side, in one event loop."""

import logging
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import Any

from taskiq import AsyncBroker, TaskiqMessage, TaskiqResult

from dagster_taskiq.execution.own_tasks import RunningLife, own_tasks_of
from dagster_taskiq.execution.perform import begin
from dagster_taskiq.execution.task_context import StopRequest, TaskContext, task_context
from dagster_taskiq.transport import result_waits
from dagster_taskiq.transport.current_task import current_own_task
from dagster_taskiq.transport.results import PutBack, failure
from dagster_taskiq.wire.stop_causes import StopCause
from dagster_taskiq.worker.child.parent import Parent
from dagster_taskiq.worker.child.process_state import ProcessState
from dagster_taskiq.worker.child.reports import as_text, report_end
from dagster_taskiq.worker.child.slot_lending import SlotLending

logger = logging.getLogger(__name__)


class AsyncTasks:
    """Those of this child, begun and stopped by the thread that receives what its parent sends."""

    def __init__(
        self, parent: Parent, process: ProcessState, context: TaskContext, broker: AsyncBroker
    ) -> None:
        """Execute nothing yet.

        Args:
            parent: is told how each ends.
            process: has the context variables with which a task begins.
            context: of a task.
            broker: has the tasks.
        """
        self._parent = parent
        self._process = process
        self._context = context
        self._broker = broker
        self._running: dict[str, RunningLife] = {}
        self._stops: dict[str, StopRequest] = {}
        self._lending: dict[str, SlotLending] = {}

    def handle(self, frame: dict[str, Any]) -> None:
        """Begin or stop a task, as a frame of the parent says."""
        task_id: str = frame["id"]
        if "stop" in frame:
            self._stops[task_id] = StopRequest(frame["stop"], StopCause(frame["cause"]))
            if task_id in self._running:
                self._running[task_id].cancel()
            return
        result_waits.observe(self._note_wait)
        message = TaskiqMessage.model_validate(frame["run"])
        parent = self._parent.about(task_id)
        self._lending[task_id] = SlotLending(parent)
        context = replace(
            self._context,
            record_end=lambda result: parent.record_end(as_text(result, is_typed=True)),
            stop_request=partial(self._stops.get, task_id),
        )
        try:
            running = self._process.run(self._begin, context, message)
        except Exception as error:
            self._lending.pop(task_id, None)
            logger.exception("Task %s (%s) cannot begin.", task_id, message.task_name)
            report_end(parent, message, failure(error, message.labels), is_typed=True, left=[])
            return
        self._running[task_id] = running
        running.future.add_done_callback(partial(self._report, parent, message))

    async def _note_wait(self, task_id: str, has_ended: bool) -> None:
        """Have the task that looks for the result of another lend its place, or take it back."""
        current = current_own_task()
        lending = self._lending.get(current.task_id) if current is not None else None
        if lending is not None:
            await lending.note(task_id, has_ended)

    def _begin(self, context: TaskContext, message: TaskiqMessage) -> RunningLife:
        with task_context(context):
            return begin(self._broker, message)

    def _report(
        self,
        parent: Parent,
        message: TaskiqMessage,
        future: Future[TaskiqResult[Any] | PutBack],
    ) -> None:
        self._running.pop(message.task_id, None)
        self._lending.pop(message.task_id, None)
        self._stops.pop(message.task_id, None)
        ended: TaskiqResult[Any] | PutBack
        try:
            ended = future.result()
        except BaseException as error:  # users' code can do anything to its event loop
            ended = failure(error, message.labels)
        left = own_tasks_of(self._broker).remains()
        report_end(parent, message, ended, is_typed=True, left=left)
