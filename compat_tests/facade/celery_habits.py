"""A module as Celery's users have it, with names of ``celery``, on the app of ``make_app()``.

Its receivers of signals note what they are told in the file ``NOTES``.
"""

import json
import os
import time
from pathlib import Path
from typing import Any

from celery import current_task, shared_task, signals
from celery.exceptions import WorkerLostError

from dagster_celery.make_app import make_app


class Config:
    """Settings as Django has them."""

    CELERY_TASK_DEFAULT_QUEUE = "dagster"
    CELERY_TASK_DEFAULT_PRIORITY = 3
    OTHER = "of another library"


app = make_app(json.loads(os.environ.get("APP_ARGS", "{}")))
app.config_from_object(f"{__name__}:Config", namespace="CELERY")
app.autodiscover_tasks(lambda: ["compat_tests.facade"], related_name="discovered_tasks")

NOTES = Path(os.environ.get("NOTES", os.devnull))


def note(*words: object) -> None:
    with NOTES.open("a") as file:
        file.write(" ".join(map(str, words)) + "\n")


@app.on_after_configure.connect
def configured(sender: Any, **_: Any) -> None:
    note("configured", sender is app)


@shared_task(bind=True, max_retries=1, default_retry_delay=0)
def shared(self: Any, number: int) -> list[Any]:
    if self.request.retries == 0:
        self.retry()
    is_current = current_task.request.id == self.request.id and current_task.name == self.name
    return [number, self.request.retries, self.app is app and is_current]


@shared_task
def shared_and_failing() -> None:
    raise ValueError("no")


@signals.task_prerun.connect
def prerun(sender: Any, task_id: str, task: Any, args: Any, kwargs: Any, **_: Any) -> None:
    note("prerun", task.name.rpartition(".")[2], sender is task, len(task_id) > 0, list(args))


@signals.task_postrun.connect
def postrun(sender: Any, task_id: str, retval: Any, state: str, **_: Any) -> None:
    note("postrun", state)


@signals.task_success.connect
def success(sender: Any, result: Any, **_: Any) -> None:
    note("success", result)


@signals.task_failure.connect
def failure(sender: Any, exception: Any, einfo: Any, **_: Any) -> None:
    if isinstance(exception, WorkerLostError):
        note("lost", sender.name.rpartition(".")[2])
    else:
        note("failure", repr(exception), "raise ValueError" in str(einfo))


@signals.task_retry.connect
def retried(sender: Any, request: Any, reason: Any, **_: Any) -> None:
    note("retry", request.retries, type(reason).__name__)


@signals.worker_process_init.connect
def process_began(**_: Any) -> None:
    note("process began", sorted(SET_UP))


SET_UP: list[str] = []


@signals.after_setup_logger.connect
def set_up_log(logger: Any, **_: Any) -> None:
    SET_UP.append(logger.name)


@signals.after_setup_task_logger.connect
def set_up_task_log(logger: Any, **_: Any) -> None:
    SET_UP.append(logger.name)


@shared_task
def slow(path: str) -> None:
    Path(path).touch()
    time.sleep(60)


@shared_task
def dying() -> None:
    os._exit(3)


@signals.task_revoked.connect
def revoked(sender: Any, request: Any, terminated: bool, expired: bool, **_: Any) -> None:
    note("revoked", sender.name.rpartition(".")[2], len(request.id) > 0, terminated, expired)


@signals.before_task_publish.connect
def before_publish(sender: str, headers: Any, body: Any, **_: Any) -> None:
    note("before", sender.rpartition(".")[2], headers["id"] != "", list(body[0]))


@signals.after_task_publish.connect
def after_publish(sender: str, **_: Any) -> None:
    note("after", sender.rpartition(".")[2])


@signals.worker_ready.connect
def never_called(**_: Any) -> None:
    note("a worker is ready")
