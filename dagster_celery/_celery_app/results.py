"""The results of an app's tasks, with the methods that Celery's results have."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from taskiq import TaskiqResult
from taskiq.depends.progress_tracker import TaskProgress

from dagster_celery._celery_app.absent import absent
from dagster_celery._celery_app.celery_errors import as_celerys
from dagster_celery._celery_app.control import revoke_tasks
from dagster_celery._celery_app.current_app import current_app
from dagster_celery._celery_app.end_callbacks import Callback, EndCallbacks
from dagster_celery._celery_app.reported_ends import WITHOUT_VALUE
from dagster_celery._celery_app.task_errors import ChordError, SoftTimeLimitError
from dagster_celery._celery_app.values import from_result
from dagster_taskiq.client import Client
from dagster_taskiq.errors import ConfigError, TimeLimitError
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
#: What takes the place of the attributes that are not here.
_IDS = "Keep ids, and make results of them by `app.AsyncResult(id)`."
#: What the task itself, or its retry, has reported counts for these.
_NOT_ENDED = (TaskState.WAITING, TaskState.STARTED)
#: Seconds that a task may take to end after one before it in its chain has failed. Its end is
#: recorded at once, unless a process died at that moment.
_PARENT_SECONDS = 2.0
#: Seconds between two polls for the end of a task: the first pause, and the longest. Each pause is
#: twice as long as the one before.
POLL_SECONDS = (0.02, 0.5)


#: A result as plain data: its id and the one before it, and the members of a group.
Tuple = tuple[tuple[str, Any], list[Any] | None]


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

    def __init__(
        self, id: str, app: ResultApp | None = None, parent: "AnyResult | None" = None
    ) -> None:
        """Find a result by its id.

        Args:
            id: the task's id.
            app: the app whose backend has it; the current one for ``None``.
            parent: the result of what came before it.
        """
        self.id = id
        self.app: ResultApp = app or current_app()
        #: The result of the task before it in its chain, or of the header of its chord; only where
        #: these were sent by this process.
        self.parent = parent
        #: Whether it has no value, since its task has ``ignore_result``.
        self.ignored = False
        self._callbacks = EndCallbacks()

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
        """The task's state.

        ``PENDING`` (unknown tasks too), ``STARTED``, ``RETRY``, ``SUCCESS``, ``FAILURE``,
        ``REVOKED``, ``IGNORED``, ``REJECTED``, or what ``self.update_state()`` has set.
        """
        task = self._task()
        if task is not None and task.state.is_final:
            self._callbacks.call(self)
        if task is None or task.run_id:
            return STATES[task.state] if task else "PENDING"
        if task.state in _NOT_ENDED:
            progress = self.app.client.progress(self.id)
            return STATES[task.state] if progress is None else state_of(progress)
        if task.state is TaskState.SUCCESS:
            return self._without_value() or "SUCCESS"
        return STATES[task.state]

    def _without_value(self) -> str:
        """Return the state of a task that has ended by ``Ignore`` or ``Reject``; else nothing."""
        ended = self.app.client.result(self.id)
        value = None if ended is None else ended.return_value
        if not isinstance(value, dict) or value.keys() != {WITHOUT_VALUE}:
            return ""
        progress = self.app.client.progress(self.id)
        return str(value[WITHOUT_VALUE]) if progress is None else state_of(progress)

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
        """The task's value, or the exception that it raised.

        Before its end, and if it has none, what ``self.update_state()`` has set; else ``None``.
        """
        ended = self.app.client.result(self.id)
        value = None if ended is None else _outcome(ended)
        if value is not None:
            return value
        progress = self.app.client.progress(self.id)
        return None if progress is None else from_result(progress.meta)

    @property
    def info(self) -> Any:
        """The same as ``result``."""
        return self.result

    def then(
        self, callback: Callback, on_error: Callback | None = None, weak: bool = False
    ) -> None:
        """Have a function called with this result when a call finds that the task has ended.

        Args:
            callback: the function; called once, by ``get()``, ``ready()`` or ``state``.
            on_error: is called with the exception that ``callback`` raises.
            weak: has no effect (Celery's own argument).
        """
        del weak
        self._callbacks.add(self, callback, on_error)

    @property
    def traceback(self) -> str | None:
        """Why the task failed, with the output of its process; ``None`` unless it has failed."""
        ended = self.app.client.result(self.id)
        return str(ended.error) if ended is not None and ended.error is not None else None

    def ready(self) -> bool:
        """Return whether the task has ended."""
        task = self._task()
        if task is None or not task.state.is_final:
            return False
        self._callbacks.call(self)
        return True

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
        *,
        callback: Callable[[str, Any], Any] | None = None,
        on_interval: Callable[[], Any] | None = None,
        on_message: Any = None,
        **_: Any,
    ) -> Any:
        """Wait for the end of the task, and return its value. A task may call this.

        Args:
            timeout: how many seconds to wait at most; ``None`` for no limit.
            propagate: whether an exception of the task is raised here; otherwise it is returned.
            interval: seconds between two polls.
            callback: is called with the id and the value, or the exception that is returned.
            on_interval: is called after each poll that has not found the end.
            on_message: is refused.

        Where Celery is imported, the errors that Celery has as well are also of its class
        (:mod:`dagster_celery._celery_app.celery_errors`).

        Raises:
            TimeoutError: the task has not ended within ``timeout``.
            TaskRevokedError: it was revoked.
            ConfigError: there is an ``on_message``.
            Exception: the one that the task has raised.
        """
        if on_message is not None:
            raise ConfigError(
                "get(on_message=...) is not served here: look at `result.state` and `result.info`, "
                "for example in on_interval."
            )
        if self.ignored:
            return None
        deadline = None if timeout is None else time.monotonic() + timeout
        pause = interval or POLL_SECONDS[0]
        failed_since = 0.0
        while (ended := self.app.client.result(self.id)) is None:
            if self.parent is not None and pause >= POLL_SECONDS[1]:
                error = error_of(self.parent)
                failed_since = failed_since or (time.monotonic() if error else 0.0)
                if error and time.monotonic() - failed_since > _PARENT_SECONDS:
                    if propagate:
                        raise error
                    return error
            left = pause if deadline is None else deadline - time.monotonic()
            if left <= 0:
                raise as_celerys(
                    TimeoutError(f"Task {self.id} has not ended within {timeout:g} s.")
                )
            time.sleep(min(pause, left))
            if on_interval is not None:
                on_interval()
            pause = interval or min(pause * 2, POLL_SECONDS[1])
        self._callbacks.call(self)
        outcome = _outcome(ended)
        if ended.error is not None and propagate:
            # As in Celery, what the tasks of the header have raised, where they are known here.
            is_chords = isinstance(outcome, ChordError) and self.parent is not None
            raise (error_of(self.parent) if is_chords and self.parent else None) or outcome
        if callback is not None:
            callback(self.id, outcome)
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

    def as_tuple(self) -> Tuple:
        """Return it as plain data, of which :func:`result_from_tuple` makes it again."""
        return (self.id, _tuple_of(self.parent)), None

    def as_list(self) -> list[str]:
        """Return its id, and those of the results before it."""
        return [self.id, *(self.parent.as_list() if self.parent is not None else ())]

    def __reduce__(self) -> tuple[Any, ...]:
        return result_from_tuple, (self.as_tuple(),)

    def _task(self) -> Task | None:
        return self.app.client.tasks([self.id]).get(self.id)

    # Hidden from type checkers: they are to report an attribute that is not here.
    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> NoReturn:
            raise absent("Celery's AsyncResult", name, _IDS)


class GroupResult:
    """The results of the tasks of a group, in their order."""

    def __init__(
        self, id: str, results: Sequence["AnyResult"], parent: "AnyResult | None" = None, **_: Any
    ) -> None:
        self.id = id
        self.results = list(results)
        self._callbacks = EndCallbacks()
        #: As for :class:`AsyncResult`.
        self.parent = parent

    def __repr__(self) -> str:
        return f"<GroupResult: {self.id} [{', '.join(each.id for each in self.results)}]>"

    def __iter__(self) -> Iterator["AnyResult"]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)

    def __bool__(self) -> bool:
        return True

    def __getitem__(self, index: int) -> "AnyResult":
        return self.results[index]

    @property
    def children(self) -> list["AnyResult"]:
        """The results."""
        return self.results

    def ready(self) -> bool:
        """Return whether all tasks have ended."""
        if not all(each.ready() for each in self.results):
            return False
        self._callbacks.call(self)
        return True

    def then(
        self, callback: Callback, on_error: Callback | None = None, weak: bool = False
    ) -> None:
        """Have a function called with these results when a call finds that all have ended.

        Args:
            callback: the function; called once, by ``get()`` or ``ready()``.
            on_error: is called with the exception that ``callback`` raises.
            weak: has no effect (Celery's own argument).
        """
        del weak
        self._callbacks.add(self, callback, on_error)

    def waiting(self) -> bool:
        """Return whether a task has not ended."""
        return not self.ready()

    def successful(self) -> bool:
        """Return whether all tasks have succeeded."""
        return all(each.successful() for each in self.results)

    def failed(self) -> bool:
        """Return whether a task has failed."""
        return any(each.failed() for each in self.results)

    def completed_count(self) -> int:
        """Return how many tasks have succeeded."""
        return sum(each.successful() for each in self.results)

    def get(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float | None = None,
        callback: Callable[[str, Any], Any] | None = None,
        **options: Any,
    ) -> Any:
        """Wait for the end of all tasks, and return the list of their values.

        Args:
            timeout: how many seconds to wait at most for all of them; ``None`` for no limit.
            propagate: whether the exception of a task is raised here; otherwise it is in the list.
            interval: seconds between two polls.
            callback: is called with the id and the value of each; there is no list then.
            options: as for :meth:`AsyncResult.get`.

        Raises:
            TimeoutError: they have not all ended within ``timeout``.
            Exception: that of a task.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        values = []
        for each in self.results:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            value = each.get(timeout=left, propagate=propagate, interval=interval, **options)
            values.append(value)
            if callback is not None:
                callback(each.id, value)
        self._callbacks.call(self)
        return None if callback is not None else values

    #: The same as ``get`` (Celery's own names).
    join = join_native = get

    def revoke(self, *args: Any, **options: Any) -> None:
        """Cancel the tasks, as :meth:`AsyncResult.revoke`."""
        for each in self.results:
            each.revoke(*args, **options)

    def forget(self) -> None:
        """Delete the records of the tasks that have ended."""
        for each in self.results:
            each.forget()

    def as_tuple(self) -> Tuple:
        """Return them as plain data, as :meth:`AsyncResult.as_tuple`."""
        return (self.id, _tuple_of(self.parent)), [each.as_tuple() for each in self.results]

    def as_list(self) -> list[str]:
        """Return the id, and those of the results before it."""
        return [self.id, *(self.parent.as_list() if self.parent is not None else ())]

    def __reduce__(self) -> tuple[Any, ...]:
        return result_from_tuple, (self.as_tuple(),)

    # Hidden from type checkers, as above.
    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> NoReturn:
            raise absent("Celery's GroupResult", name, _IDS)


def result_from_tuple(r: Any, app: Any = None) -> Any:
    """Return a result of which ``as_tuple()`` has made plain data.

    Args:
        r: the data; a list where JSON has it. A result is returned as it is.
        app: the app whose backend has the results; the current one for ``None``.
    """
    if isinstance(r, AsyncResult | EagerResult | GroupResult):
        return r
    known, members = r
    task_id, parent = known if isinstance(known, list | tuple) else (known, None)
    before = None if parent is None else result_from_tuple(parent, app)
    if members is None:
        return AsyncResult(task_id, app, before)
    return GroupResult(task_id, [result_from_tuple(each, app) for each in members], before)


def _tuple_of(parent: "AnyResult | None") -> Any:
    return None if parent is None else parent.as_tuple()


def error_of(result: "AnyResult") -> BaseException | None:
    """Return the error of a result, or of one that it follows, if one of these has failed."""
    while True:
        members = result.results if isinstance(result, GroupResult) else [result]
        for each in members:
            if not isinstance(each, GroupResult) and each.failed():
                found = each.result
                return found if isinstance(found, BaseException) else RuntimeError(str(found))
        if result.parent is None:
            return None
        result = result.parent


def state_of(progress: TaskProgress[Any]) -> str:
    """Return the state that a task has reported."""
    return str(getattr(progress.state, "value", progress.state))


def _outcome(ended: TaskiqResult[Any]) -> Any:
    """Return the value of a task, or its exception."""
    error = ended.error
    if isinstance(error, TimeLimitError) and "soft time limit" in str(error):
        error = SoftTimeLimitError(*error.args)
    if error is not None:
        return as_celerys(error)
    value = ended.return_value
    if isinstance(value, dict) and value.keys() == {WITHOUT_VALUE}:
        return None
    return from_result(value)


@dataclass
class EagerResult:
    """The result of a task that ran in the process that called it."""

    id: str
    result: Any
    state: str
    traceback: str | None = None
    worker: str | None = None
    #: As for :class:`AsyncResult`.
    parent: "AnyResult | None" = None

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

    def wait(self, *args: Any, **options: Any) -> Any:
        """Do the same as :meth:`get`."""
        return self.get(*args, **options)

    def as_tuple(self) -> Tuple:
        """Return its id as plain data; the value is not in it."""
        return (self.id, _tuple_of(self.parent)), None

    def as_list(self) -> list[str]:
        """Return its id, and those of the results before it."""
        return [self.id, *(self.parent.as_list() if self.parent is not None else ())]

    def then(
        self, callback: Callback, on_error: Callback | None = None, weak: bool = False
    ) -> None:
        """Call a function with this result; see :meth:`AsyncResult.then`."""
        del weak
        EndCallbacks(has_ended=True).add(self, callback, on_error)


#: What sending a task or several returns.
AnyResult = AsyncResult | EagerResult | GroupResult
