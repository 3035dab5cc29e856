"""Results of an app's tasks, by the names Celery has for what can be asked of them."""

import time
import traceback as tracebacks
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dagster_taskiq.errors import DagsterTaskiqError
from dagster_taskiq.wire.records import Task, TaskState

if TYPE_CHECKING:
    from dagster_celery._celery_app import CeleryApp

#: Celery's word for each state. It has none for a task whose worker is lost.
STATES = {
    TaskState.WAITING: "PENDING",
    TaskState.STARTED: "STARTED",
    TaskState.SUCCESS: "SUCCESS",
    TaskState.FAILURE: "FAILURE",
    TaskState.REVOKED: "REVOKED",
    TaskState.LOST: "FAILURE",
}
#: Seconds between two looks at a task that has not ended: the first, and the longest.
LOOK_SECONDS = (0.02, 0.5)


class AsyncResult:
    """The result of a task that was sent; known by nothing but the task's id."""

    def __init__(self, id: str, app: "CeleryApp") -> None:
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
        """What the task has returned, or the exception it has raised; ``None`` before its end."""
        ended = self.app.client.result(self.id)
        return None if ended is None else (ended.error or ended.return_value)

    @property
    def info(self) -> Any:
        """The same as ``result``."""
        return self.result

    @property
    def traceback(self) -> str | None:
        """Why the task failed, with what its process said of it."""
        ended = self.app.client.result(self.id)
        return str(ended.error) if ended is not None and ended.error is not None else None

    def ready(self) -> bool:
        """Return whether the task has ended."""
        task = self._task()
        return task is not None and task.state.is_final

    def successful(self) -> bool:
        """Return whether the task has ended well."""
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
        """Wait for the task, and return what it has returned. It may be called within a task.

        Args:
            timeout: seconds to wait at the most.
            propagate: whether an exception of the task is raised here, else it is returned.
            interval: seconds between two looks.

        Raises:
            TimeoutError: the task has not ended by then.
            TaskRevokedError: it was revoked.
            Exception: what the task has raised.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        pause = interval or LOOK_SECONDS[0]
        while (ended := self.app.client.result(self.id)) is None:
            left = pause if deadline is None else deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"Task {self.id} has not ended within {timeout:g} s.")
            time.sleep(min(pause, left))
            pause = interval or min(pause * 2, LOOK_SECONDS[1])
        if ended.error is not None and propagate:
            raise ended.error
        return ended.error if ended.error is not None else ended.return_value

    def wait(self, *args: Any, **kwargs: Any) -> Any:
        """Do as :meth:`get`."""
        return self.get(*args, **kwargs)

    def maybe_throw(self, propagate: bool = True) -> Any:
        """Raise the task's exception if it has failed, else return what it has returned so far."""
        result = self.result
        if isinstance(result, BaseException) and propagate:
            raise result
        return result

    def revoke(self, terminate: bool = False, signal: Any = None, **_: Any) -> None:
        """Cancel the task if it waits.

        Args:
            terminate: stop it if it runs, too.
            signal: ignored: a task is asked to end by SIGTERM, and killed after a grace period.
        """
        del signal
        self.app.control.revoke(self.id, terminate=terminate)

    def forget(self) -> None:
        """Delete what is kept of the task, if it has ended."""
        self.app.client.forget([self.id])

    def _task(self) -> Task | None:
        return self.app.client.tasks([self.id]).get(self.id)


@dataclass(frozen=True)
class EagerResult:
    """The result of a task that was run where it was called."""

    id: str
    result: Any
    state: str
    traceback: str | None = None
    worker: str | None = None

    @classmethod
    def of(cls, task_id: str, call: Callable[[], Any], propagate: bool = False) -> "EagerResult":
        """Make a call, and return how it went.

        Args:
            task_id: the id it gets.
            call: what to do.
            propagate: whether an exception is raised here.
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
        """Return whether the task has ended well."""
        return self.state == "SUCCESS"

    def failed(self) -> bool:
        """Return whether the task has failed."""
        return self.state == "FAILURE"

    def get(self, timeout: float | None = None, propagate: bool = True, **_: Any) -> Any:
        """Return what the task has returned.

        Raises:
            Exception: what the task has raised, where ``propagate`` says so.
        """
        del timeout
        if isinstance(self.result, BaseException) and propagate:
            raise self.result
        return self.result

    def revoke(self, *_: Any, **__: Any) -> None:
        """Do nothing: it has ended."""

    def forget(self) -> None:
        """Do nothing: nothing is kept of it elsewhere."""
