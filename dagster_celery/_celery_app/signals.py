"""Celery's signals, sent to those who have connected to them.

Celery is not imported here: a module that connects to one of its signals has imported it.
"""

import inspect
import logging
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any
from weakref import ReferenceType

from dagster_celery._celery_app.current_app import AppTask
from dagster_celery._celery_app.request import Request
from dagster_celery._warnings import DagsterCeleryWarning
from dagster_taskiq.deprecations import warn_shown

#: In a child that executes tasks, where Celery sends it in the worker's own process as well.
_IN_CHILD = "in each child that executes tasks, before worker_process_init"

#: Celery's signals that are sent here, with what differs: those of a task in the process that
#: executes it, those of a worker's process in the child that executes tasks of an app, the others
#: where Celery sends them.
SENT: Mapping[str, str] = {
    "after_setup_logger": _IN_CHILD,
    "after_setup_task_logger": _IN_CHILD,
    "after_task_publish": "",
    "before_task_publish": "",
    "import_modules": "",
    "setup_logging": _IN_CHILD,
    "task_failure": "in a child, too, for a task whose process died or was killed",
    "task_postrun": "",
    "task_prerun": "",
    "task_retry": "",
    "task_revoked": "for a task that ran or has expired; one that waited is gone from its queue",
    "task_success": "",
    "worker_process_init": "",
    "worker_process_shutdown": "",
}

_PARENT = (
    "a worker's own process runs no code of the project. Connect to worker_process_init or "
    "worker_process_shutdown instead, which are sent in each child"
)
_BEAT = "the command `dagster-celery scheduler start` takes the place of beat, and sends none"
_POOL = "there are only processes here"

#: Celery's signals that are not sent here, and what to do instead.
NOT_SENT: Mapping[str, str] = {
    "beat_embedded_init": _BEAT,
    "beat_init": _BEAT,
    "celeryd_after_setup": _PARENT,
    "celeryd_init": _PARENT,
    "eventlet_pool_apply": _POOL,
    "eventlet_pool_postshutdown": _POOL,
    "eventlet_pool_preshutdown": _POOL,
    "eventlet_pool_started": _POOL,
    "heartbeat_sent": "`dagster-taskiq status` shows the heartbeats of workers",
    "task_internal_error": "what goes wrong around a task is in the worker's log",
    "task_received": "a worker takes a task when a slot is free. Connect to task_prerun instead",
    "task_rejected": "a message that cannot be read is set aside, and is in the worker's log",
    "task_sent": "connect to after_task_publish instead",
    "task_unknown": "the result of such a task is an error that names it",
    "user_preload_options": "the command line is that of dagster-celery",
    "worker_before_create_process": _PARENT,
    "worker_init": _PARENT,
    "worker_ready": _PARENT,
    "worker_shutdown": _PARENT,
    "worker_shutting_down": _PARENT,
}


def send_signal(name: str, sender: Any = None, **named: Any) -> None:
    """Send one of Celery's signals, if this process has something connected to it."""
    found = _signal(name)
    if found is not None and found.receivers:
        found.send(sender=sender, **named)


def warn_of_unsent() -> None:
    """Warn of what this process has connected to signals that are not sent here.

    At the function that is connected, since it is the process of a worker that notices it.
    """
    for name, instead in NOT_SENT.items():
        for function in _receivers(name):
            code = getattr(inspect.unwrap(function), "__code__", None)
            place = ("<celery signals>", 1)
            if code is not None:
                place = (code.co_filename, code.co_firstlineno)
            known = f"{function.__module__}.{getattr(function, '__qualname__', function)}"
            warn_shown(
                f"{known} is connected to Celery's signal {name}, which is not sent here: "
                f"{instead}.",
                DagsterCeleryWarning,
                *place,
            )


def send_logging_signals() -> None:
    """Send the signals by which a process has its log set up; as in Celery, the first alone."""
    about = {"loglevel": logging.INFO, "logfile": None, "format": "", "colorize": False}
    if getattr(_signal("setup_logging"), "receivers", None):
        send_signal("setup_logging", **about)
        return
    send_signal("after_setup_logger", logger=logging.getLogger(), **about)
    send_signal("after_setup_task_logger", logger=logging.getLogger("celery.task"), **about)


def _signal(name: str) -> Any:
    return getattr(sys.modules.get("celery.signals"), name, None)


def _receivers(name: str) -> Iterator[Any]:
    """Yield the functions that are connected to a signal, without Celery's own."""
    found = _signal(name)
    for _, receiver in (None if found is None else found.receivers) or ():
        function = receiver() if isinstance(receiver, ReferenceType) else receiver
        module = str(getattr(function, "__module__", ""))
        if function is not None and module.partition(".")[0] not in ("celery", "kombu"):
            yield function


class Signals:
    """The signals about one execution of a task."""

    def __init__(self, task: AppTask, request: Request) -> None:
        self._task = task
        self._request = request
        self._about = {
            "task_id": request.id,
            "args": request.args,
            "kwargs": request.kwargs,
        }
        self._started = time.monotonic()

    def prerun(self) -> None:
        """Send ``task_prerun``."""
        send_signal("task_prerun", self._task, task=self._task, **self._about)

    def postrun(self, value: Any, state: str) -> None:
        """Send ``task_postrun``."""
        named = {"task": self._task, "retval": value, "state": state or None, **self._about}
        send_signal("task_postrun", self._task, **named)

    def success(self, value: Any) -> None:
        """Send ``task_success``."""
        runtime = time.monotonic() - self._started
        send_signal("task_success", self._task, result=value, runtime=runtime)

    def failure(self, error: BaseException, info: Any) -> None:
        """Send ``task_failure``."""
        named = {"exception": error, "traceback": error.__traceback__, "einfo": info}
        send_signal("task_failure", self._task, **named, **self._about)

    def revoked(self, is_expired: bool) -> None:
        """Send ``task_revoked``."""
        named = {"terminated": not is_expired, "expired": is_expired}
        number = None if is_expired else signal.SIGTERM
        send_signal("task_revoked", self._task, request=self._request, signum=number, **named)

    def retry(self, reason: BaseException, info: Any) -> None:
        """Send ``task_retry``."""
        send_signal("task_retry", self._task, request=self._request, reason=reason, einfo=info)
