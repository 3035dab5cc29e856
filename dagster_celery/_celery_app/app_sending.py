"""What one app sends: the request of a call, its way to the broker, and what is told of it.

``app`` has one of these, and calls it for each task that is sent. It calls ``routing`` for the
queue, ``sending`` for the request itself, and the app's client, which sends it.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from dagster_celery._celery_app import in_tests
from dagster_celery._celery_app.app_settings import AppSettings
from dagster_celery._celery_app.carried import carried_by
from dagster_celery._celery_app.celerys_canvas import check_chord
from dagster_celery._celery_app.current_app import SendingApp
from dagster_celery._celery_app.results import AsyncResult
from dagster_celery._celery_app.routing import Call, options_of, queue_of, route_of
from dagster_celery._celery_app.sending import task_request
from dagster_celery._celery_app.signals import send_signal
from dagster_celery._celery_app.task import Task
from dagster_celery._celery_app.task_options import checked
from dagster_taskiq.execution.task_context import current_message
from dagster_taskiq.wire.labels import ATTEMPT_LABEL
from dagster_taskiq.wire.records import TaskState
from dagster_taskiq.wire.task_request import TaskRequest

#: Options of a task that is a part of something, whose id was made for it: it may be sent twice, so
#: that it is executed for certain, and is executed once.
_OF_A_WHOLE = frozenset({"chain", "chord", "group_id", "parent_id", "retries", "root_id"})


class AppSending:
    """Sends the tasks of one app."""

    def __init__(self, app: SendingApp, settings: AppSettings, tasks: Mapping[str, Task]) -> None:
        """Send nothing yet.

        Args:
            app: the app, which has the client and the results.
            settings: its settings.
            tasks: its tasks by their names.
        """
        self._app = app
        self._settings = settings
        self._tasks = tasks

    def send(
        self,
        name: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: Mapping[str, Any],
    ) -> AsyncResult:
        """Send a task with options that have been checked."""
        check_chord(options)
        request = self._request(name, args, kwargs, options)
        about = {"headers": _headers(request), "routing_key": request.queue, "exchange": ""}
        body: tuple[Any, ...] = (request.args, request.kwargs, {})
        send_signal("before_task_publish", name, body=body, properties={}, **about)
        running = current_message()
        if running is not None and running.task_id == request.id:
            # The task that runs now: its worker puts it back when its function has ended.
            attempt = {ATTEMPT_LABEL: running.labels.get(ATTEMPT_LABEL, "")}
            request = replace(request, labels={**request.labels, **attempt})
        elif options.get("attempt"):
            labels = {**request.labels, ATTEMPT_LABEL: options["attempt"]}
            request = replace(request, labels=labels)
        elif options.get("task_id") is not None and not _OF_A_WHOLE & options.keys():
            self._forget_ended(request.id)
        in_tests.note_sent(request)
        self._app.client.submit(request)
        send_signal("after_task_publish", name, body=body, **about)
        result: AsyncResult = self._app.AsyncResult(request.id)
        result.ignored = bool(options.get("ignore_result"))
        return result

    def _forget_ended(self, task_id: str) -> None:
        """Forget the last task of an id that is given again, if it has ended; else it would stand.

        One that was cancelled stays so, as in Celery.
        """
        known = self._app.client.tasks([task_id]).get(task_id)
        if known is not None and known.state.is_final and known.state is not TaskState.REVOKED:
            self._app.client.forget([task_id])

    def request(
        self,
        name: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: Mapping[str, Any],
    ) -> TaskRequest:
        """Return what the task's ``apply_async`` would send.

        Raises:
            ConfigError: an option that is not there, or that this project cannot keep.
        """
        task = self._tasks.get(name)
        merged = {**(task.options if task is not None else {}), **checked(options)}
        return self._request(name, args, kwargs, merged)

    def queue_for(self, name: str, options: Mapping[str, Any]) -> str:
        """Return the queue of a task: its option, its route, or the default one."""
        return self._queue(options, self._route(name, (), {}, options))

    def _request(
        self,
        name: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: Mapping[str, Any],
    ) -> TaskRequest:
        route = self._route(name, args, kwargs, options)
        conf = self._settings.conf
        return task_request(
            name,
            args,
            kwargs,
            {**options_of(route), **options},
            queue=self._queue(options, route),
            default_priority=int(conf.task_default_priority or 0),
            zone=conf.timezone,
            now=time.time(),
        )

    def _queue(self, options: Mapping[str, Any], route: Mapping[str, Any]) -> str:
        default = self._settings.configuration.settings.queue
        return queue_of(options, route, self._settings.conf, default)

    def _route(
        self,
        name: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: Mapping[str, Any],
    ) -> Mapping[str, Any]:
        return route_of(
            Call(name, args, kwargs, self._tasks.get(name)), options, self._settings.conf
        )


def _headers(request: TaskRequest) -> dict[str, Any]:
    """Return what receivers of Celery's signals read about a task that is sent."""
    carried = carried_by(request.labels)
    known = ("root_id", "parent_id", "group_id", "retries", "eta", "expires")
    return {
        "id": request.id,
        "task": request.name,
        **{name: carried.get(name) for name in known},
        **(carried.get("headers") or {}),
    }
