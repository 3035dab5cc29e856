"""A client of the run loop whose steps are sent by a function, to the broker or to elsewhere."""

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from dagster_celery._celery_app.celery_errors import is_revoked
from dagster_celery._celery_app.results import AsyncResult
from dagster_celery._celery_app.sending import STEP_REQUEST
from dagster_taskiq.execution.perform import describe_failure
from dagster_taskiq.execution.task_context import current_context
from dagster_taskiq.runs.step_client import StepClient
from dagster_taskiq.transport.eviction import Eviction
from dagster_taskiq.wire.notifications import Notification
from dagster_taskiq.wire.records import Task, TaskState, Worker, end_notification
from dagster_taskiq.wire.task_request import TaskRequest

#: Stands for the worker of a step that the function has sent to elsewhere, which is not known.
_ELSEWHERE = Worker("elsewhere", "elsewhere", "", 0, (), 0, "", lease=1.0)
#: Seconds between two polls of results elsewhere; nothing is pushed when they are ready.
_POLL_SECONDS = 0.05


class StepResult(Protocol):
    """What a function that sends steps returns: the result of a step, to be waited for."""

    def ready(self) -> bool:
        """Return whether the step has ended."""

    def get(self) -> Any:
        """Return anything if the step has succeeded; raise an exception if it has failed."""

    def revoke(self) -> Any:
        """Cancel the step, or stop it."""


class SubmittingClient:
    """A :class:`dagster_taskiq.runs.step_client.StepClient` whose tasks are sent by a function.

    A step that the function sends with a task of the app is a task like any other. Anything else
    that it sends runs elsewhere: its result is polled, and is reported to the run loop as a task
    of a worker that is never lost. All other calls go to the client of the broker.
    """

    def __init__(self, client: StepClient, send: Callable[[TaskRequest], StepResult]) -> None:
        """Make the client.

        Args:
            client: the client of the broker.
            send: sends a step, and returns its result.
        """
        self._client = client
        self._function = send
        #: The results, by task id, of steps that run elsewhere.
        self._elsewhere: dict[str, StepResult] = {}
        #: Those of them that have ended, as tasks.
        self._ended: dict[str, Task] = {}
        #: Tasks that were sent before one that could not be: the run loop sends all of them again.
        self._sent_before: set[str] = set()

    @property
    def in_process(self) -> None:
        """``None``: no task waits for this process. An eager one has run when it has been sent."""
        return None

    def submit(self, *requests: TaskRequest) -> list[str]:
        """Have tasks sent, one after the other, each under the id of its request.

        If one of them fails, the next call does not send those before it again.

        Returns:
            Their ids.

        Raises:
            Exception: what the function raises.
        """
        ids = [request.id for request in requests]
        for request in requests:
            if request.id not in self._elsewhere and request.id not in self._sent_before:
                self._send(request)
                self._sent_before.add(request.id)
        # All of them have been sent. A request for one of them that comes later is for a task that
        # was lost.
        self._sent_before.difference_update(ids)
        return ids

    def tasks(self, task_ids: Sequence[str]) -> dict[str, Task]:
        """Return the records of tasks, on the broker or elsewhere, by id."""
        here = self._not_elsewhere(task_ids)
        known = self._client.tasks(here) if here else {}
        known.update({each: self._look(each) for each in task_ids if each in self._elsewhere})
        return known

    def workers(self) -> list[Worker]:
        """Return the workers, with one that stands for elsewhere if a step runs there."""
        return [*self._client.workers(), *([_ELSEWHERE] if self._elsewhere else [])]

    def revoke(self, task_ids: Sequence[str], reason: str) -> None:
        """Cancel tasks, on the broker or elsewhere."""
        for task_id in task_ids:
            if task_id in self._elsewhere:
                self._elsewhere[task_id].revoke()
        here = self._not_elsewhere(task_ids)
        if here:
            self._client.revoke(here, reason)

    def mark_lost(self, task: Task, error: str) -> bool:
        """Record that a task's worker is lost; of steps elsewhere, none ever is."""
        return self._client.mark_lost(task, error)

    def is_empty(self, queue: str) -> bool:
        """Return whether no message of a queue of the broker waits or is being taken."""
        return self._client.is_empty(queue)

    def evictions(self) -> dict[str, Eviction]:
        """Return how the servers delete messages or records to make room, by URL."""
        return self._client.evictions()

    def close_channel(self, channel: str) -> None:
        """Delete the notifications of a channel, when no process will read them any more."""
        self._client.close_channel(channel)

    def wait(
        self, channel: str, after: str, timeout: float, interrupted: Callable[[], bool]
    ) -> list[Notification]:
        """Wait for notifications of a channel; the end of a step elsewhere is one, too."""
        deadline = time.monotonic() + timeout
        while running := [each for each in self._elsewhere if each not in self._ended]:
            found = [task for each in running if (task := self._look(each)).state.is_final]
            if found:
                return [Notification(after, end_notification(task, task.state)) for task in found]
            left = deadline - time.monotonic()
            if left <= 0 or interrupted():
                return []
            notifications = self._client.wait(channel, after, min(_POLL_SECONDS, left), interrupted)
            if notifications:
                return notifications
        return self._client.wait(channel, after, deadline - time.monotonic(), interrupted)

    def _not_elsewhere(self, task_ids: Sequence[str]) -> list[str]:
        return [each for each in task_ids if each not in self._elsewhere]

    def _send(self, request: TaskRequest) -> None:
        token = STEP_REQUEST.set(request)
        try:
            result = self._function(request)
        finally:
            STEP_REQUEST.reset(token)
        if not (isinstance(result, AsyncResult) and result.id == request.id):
            self._elsewhere[request.id] = result
            # Nothing but this result leads to the step: another process would run it again.
            current_context().stay()

    def _look(self, task_id: str) -> Task:
        """Return a step elsewhere as a task, by what its result reports now."""
        if task_id in self._ended:
            return self._ended[task_id]
        result = self._elsewhere[task_id]
        state, error = TaskState.STARTED, ""
        if result.ready():
            state, error = _outcome(result)
        task = Task(task_id, state=state, worker=_ELSEWHERE.id, started_at=1.0, error=error)
        if state.is_final:
            self._ended[task_id] = task
        return task


def _outcome(result: StepResult) -> tuple[TaskState, str]:
    """Return the state that a result which is ready has ended with, and its error."""
    try:
        result.get()
    except Exception as error:
        if is_revoked(error):
            return TaskState.REVOKED, str(error)
        return TaskState.FAILURE, describe_failure(error)
    return TaskState.SUCCESS, ""
