"""The tasks of an app on the broker of a worker."""

import asyncio
from collections.abc import Iterable
from typing import Any

from taskiq import TaskiqMessage, TaskiqMiddleware, TaskiqResult

from dagster_celery._celery_app import processes
from dagster_celery._celery_app.canvas import MAP, STARMAP
from dagster_celery._celery_app.carried import carried_by
from dagster_celery._celery_app.current_app import SendingApp
from dagster_celery._celery_app.execution import execute_for_worker, tell_of_end
from dagster_celery._celery_app.following import fail_rest, give_up_chord, look_at_chord
from dagster_celery._celery_app.preparing import CHORD_UNLOCK, MOST_LOOKS, UNLOCK_SECONDS
from dagster_celery._celery_app.replacing import ACCUMULATE
from dagster_celery._celery_app.request import Request, current_request
from dagster_celery._celery_app.signature import maybe_signature
from dagster_celery._celery_app.task import Task
from dagster_celery._step_watchers.watchers import WATCHERS, call_as_watcher
from dagster_taskiq.errors import ChildDiedError, ConfigError, TaskRevokedError, TimeLimitError
from dagster_taskiq.transport.broker import QueueBroker
from dagster_taskiq.wire.task_names import EXECUTE_JOB, EXECUTE_PLAN, RESUME_JOB

#: The tasks by which signatures are executed.
_OF_SIGNATURES = (ACCUMULATE, CHORD_UNLOCK, MAP, STARMAP)
#: The tasks that every app may have, without any of the project's own.
_NOT_OWN = frozenset({EXECUTE_PLAN, EXECUTE_JOB, RESUME_JOB, *WATCHERS, *_OF_SIGNATURES})


#: The errors of tasks that have not ended by themselves.
_ENDED_BY_WORKER = (ChildDiedError, TaskRevokedError, TimeLimitError)


def is_own(name: str) -> bool:
    """Return whether a task is the project's own, and none that every app may have."""
    return name not in _NOT_OWN


def base_class(base: type | None) -> type[Task]:
    """Return the base class of a task; :class:`Task` for ``None``.

    Raises:
        ConfigError: it does not derive from that.
    """
    if base is None:
        return Task
    if not issubclass(base, Task):
        raise ConfigError(
            f"The base class {base.__module__}.{base.__qualname__} of a task has to derive from "
            "app.Task here, and not from celery.Task: write `class MyTask(app.Task)`."
        )
    return base


def register(broker: QueueBroker, task: Task) -> None:
    """Register a task on a broker, unless the broker has a task of that name."""
    if broker.find_task(task.name) is not None:
        return

    def run(*args: Any, **kwargs: Any) -> Any:
        processes.begun()
        return execute_for_worker(
            task, current_request(), lambda *a, **k: call_as_watcher(task.name, task, a, k)
        )

    run.__module__ = type(task).__module__
    broker.register_task(run, task_name=task.name)
    # Where there are only Dagster's tasks, no hook is called around them.
    if is_own(task.name) and not any(isinstance(each, _Following) for each in broker.middlewares):
        broker.add_middlewares(_Following(task.app))


def add_built_in(app: Any) -> None:
    """Define the tasks that every app has."""

    def xmap(task: Any, it: Iterable[Any]) -> list[Any]:
        """Call a task with each item."""
        one = maybe_signature(task, app)
        return [one(item) for item in it]

    def xstarmap(task: Any, it: Iterable[Any]) -> list[Any]:
        """Call a task with the arguments in each item."""
        one = maybe_signature(task, app)
        return [one(*item) for item in it]

    def chord_unlock(self: Task, chord: Any) -> None:
        """Look for the completion of a chord, and later again."""
        if self.request.retries >= MOST_LOOKS:
            give_up_chord(app, chord)
        elif not look_at_chord(app, chord):
            first, longest = UNLOCK_SECONDS
            seconds = min(first * 2 ** min(self.request.retries, 16), longest)
            raise self.retry(countdown=seconds)

    def accumulate(values: list[Any]) -> list[Any]:
        """Return the values of a group."""
        return values

    app.task(name=ACCUMULATE)(accumulate)
    app.task(name=MAP)(xmap)
    app.task(name=STARMAP)(xstarmap)
    app.task(name=CHORD_UNLOCK, bind=True, max_retries=None)(chord_unlock)


class _Following(TaskiqMiddleware):
    """Does, when the end of a task is on record, what follows from it.

    A task that ended with its process is reported to a middleware, too.
    """

    def __init__(self, app: SendingApp) -> None:
        super().__init__()
        self._app = app

    async def post_save(self, message: TaskiqMessage, result: TaskiqResult[Any]) -> None:
        """Call errbacks, and look at the chord (taskiq's own hook)."""
        if carried_by(message.labels) or isinstance(result.error, _ENDED_BY_WORKER):
            # What they send waits for the event loop that this runs on.
            await asyncio.to_thread(self._follow, message, result)

    def _follow(self, message: TaskiqMessage, result: TaskiqResult[Any]) -> None:
        request = Request.of_message(message)
        task = self._app.tasks.get(message.task_name)
        if task is not None and isinstance(result.error, _ENDED_BY_WORKER):
            tell_of_end(task, request, result.error)
        if result.error is not None:
            fail_rest(self._app, request, result.error)
        elif request.chord:
            look_at_chord(self._app, request.chord)
