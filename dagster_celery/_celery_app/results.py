"""The results of an app's tasks, with the methods that Celery's results have."""

import time
import traceback as tracebacks
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from taskiq import TaskiqResult

from dagster_celery._celery_app.celery_errors import as_celerys
from dagster_celery._celery_app.control import revoke_tasks
from dagster_celery._celery_app.values import from_result
from dagster_taskiq.client import Client
from dagster_taskiq.errors import DagsterTaskiqError
from dagster_taskiq.wire.records import Task, TaskState

#: Celery's name for each state. It has none for a task whose worker is lost.
STATES = {
    TaskState.WAITING: "PENDING",
    TaskState.STARTED: "STARTED",
    TaskState.SUCCESS: "SUCCESS",
    TaskState.FAILURE: "FAILURE",
    TaskState.REVOKED: "REVOKED",
    TaskState.LOST: "FAILURE",
}
#: Seconds between two polls for the end of a task: the first pause, and the longest. Each pause is
#: twice as long as the one before.
POLL_SECONDS = (0.02, 0.5)


class ResultApp(Protocol):
    """What a result uses of its app."""

    @property
    def client(self) -> Client:
        """The client of broker and backend, connected."""


class AsyncResult:
    """The result of a task that was sent.

    It is made of the task's id alone, so any process can make it. Its properties and methods raise
    ``ServerUnavailableError`` if the backend does not answer.
    """

    def __init__(self, id: str, app: ResultApp) -> None:
        self.id = id
        self.app = app

    def __repr__(self) -> str:
        return f"<AsyncResult: {self.id}>"

    def __str__(self) -> str:
        return self.id

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AsyncResult) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    @property
    def task_id(self) -> str:
        """The task's id."""
        return self.id

    @property
    def state(self) -> str:
        """``PENDING`` (unknown tasks too), ``STARTED``, ``SUCCESS``, ``FAILURE`` or ``REVOKED``."""
        task = self._task()
        return STATES[task.state] if task else "PENDING"

    @property
    def status(self) -> str:
        """The same as ``state``."""
        return self.state

    @property
    def worker(self) -> str | None:
        """The name of the worker that started the task."""
        task = self._task()
        if task is None or not task.worker:
            return None
        worker = self.app.client.worker(task.worker)
        return worker.name if worker else task.worker

    @property
    def result(self) -> Any:
        """The task's value, or the exception that it raised; ``None`` before its end."""
        ended = self.app.client.result(self.id)
        return None if ended is None else _outcome(ended)

    @property
    def info(self) -> Any:
        """The same as ``result``."""
        return self.result

    @property
    def traceback(self) -> str | None:
        """Why the task failed, with the output of its process; ``None`` unless it has failed."""
        ended = self.app.client.result(self.id)
        return str(ended.error) if ended is not None and ended.error is not None else None

    def ready(self) -> bool:
        """Return whether the task has ended."""
        task = self._task()
        return task is not None and task.state.is_final

    def successful(self) -> bool:
        """Return whether the task has succeeded."""
        return self.state == "SUCCESS"

    def failed(self) -> bool:
        """Return whether the task has failed."""
        return self.state == "FAILURE"

    def get(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float | None = None,
        **_: Any,
    ) -> Any:
        """Wait for the end of the task, and return its value. A task may call this.

        Args:
            timeout: how many seconds to wait at most; ``None`` for no limit.
            propagate: whether an exception of the task is raised here; otherwise it is returned.
            interval: seconds between two polls.

        Where Celery is imported, the errors that Celery has as well are also of its class
        (:mod:`dagster_celery._celery_app.celery_errors`).

        Raises:
            TimeoutError: the task has not ended within ``timeout``.
            TaskRevokedError: it was revoked.
            Exception: the one that the task has raised.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        pause = interval or POLL_SECONDS[0]
        while (ended := self.app.client.result(self.id)) is None:
            left = pause if deadline is None else deadline - time.monotonic()
            if left <= 0:
                raise as_celerys(
                    TimeoutError(f"Task {self.id} has not ended within {timeout:g} s.")
                )
            time.sleep(min(pause, left))
            pause = interval or min(pause * 2, POLL_SECONDS[1])
        outcome = _outcome(ended)
        if ended.error is not None and propagate:
            raise outcome
        return outcome

    def wait(self, *args: Any, **kwargs: Any) -> Any:
        """Do the same as :meth:`get`."""
        return self.get(*args, **kwargs)

    def maybe_throw(self, propagate: bool = True) -> Any:
        """Raise the task's exception if it has failed, otherwise return its value so far."""
        result = self.result
        if isinstance(result, BaseException) and propagate:
            raise result
        return result

    def revoke(self, terminate: bool = False, signal: Any = None, **_: Any) -> None:
        """Cancel the task if it waits.

        Args:
            terminate: whether it is stopped if it runs.
            signal: has no effect: a task gets SIGTERM, and SIGKILL after a grace period.
        """
        del signal
        revoke_tasks(self.app.client, [self.id], terminate)

    def forget(self) -> None:
        """Delete the record of the task, if the task has ended."""
        self.app.client.forget([self.id])

    def _task(self) -> Task | None:
        return self.app.client.tasks([self.id]).get(self.id)


def _outcome(ended: TaskiqResult[Any]) -> Any:
    """Return the value of a task, or its exception."""
    return from_result(ended.return_value) if ended.error is None else as_celerys(ended.error)


@dataclass(frozen=True)
class EagerResult:
    """The result of a task that ran in the process that called it."""

    id: str
    result: Any
    state: str
    traceback: str | None = None
    worker: str | None = None

    @classmethod
    def of(cls, task_id: str, call: Callable[[], Any], propagate: bool = False) -> "EagerResult":
        """Make a call, and return its result.

        Args:
            task_id: the id of the result.
            call: what to call.
            propagate: whether an exception of the call is raised here.

        Raises:
            Exception: that of the call, if ``propagate`` is true.
        """
        try:
            return cls(task_id, call(), "SUCCESS")
        except Exception as error:
            if propagate:
                raise
            text = str(error) if isinstance(error, DagsterTaskiqError) else tracebacks.format_exc()
            return cls(task_id, error, "FAILURE", text)

    @property
    def task_id(self) -> str:
        """The task's id."""
        return self.id

    @property
    def status(self) -> str:
        """The same as ``state``."""
        return self.state

    @property
    def info(self) -> Any:
        """The same as ``result``."""
        return self.result

    def ready(self) -> bool:
        """Return ``True``."""
        return True

    def successful(self) -> bool:
        """Return whether the task has succeeded."""
        return self.state == "SUCCESS"

    def failed(self) -> bool:
        """Return whether the task has failed."""
        return self.state == "FAILURE"

    def get(self, timeout: float | None = None, propagate: bool = True, **_: Any) -> Any:
        """Return the task's value, or its exception if ``propagate`` is false.

        Raises:
            Exception: that of the task, if ``propagate`` is true.
        """
        del timeout
        if isinstance(self.result, BaseException) and propagate:
            raise self.result
        return self.result

    def revoke(self, *_: Any, **__: Any) -> None:
        """Do nothing: the task has ended."""

    def forget(self) -> None:
        """Do nothing: there is no record of the task."""
