"""Sends the tasks of ``celery_habits``, and reports what came of them as JSON."""

import json
import sys
import time
from pathlib import Path
from typing import Any

from celery.exceptions import TaskRevokedError, WorkerLostError
from celery.result import AsyncResult

from compat_tests.facade.celery_habits import (
    NOTES,
    app,
    dying,
    shared,
    shared_and_failing,
    slow,
)


def ended_by_worker(task: Any, **options: Any) -> str:
    """Send a task that does not end by itself, stop it once it runs, and return its end."""
    began = Path(f"{NOTES}.began")
    args = (str(began),) if task is slow else ()
    result = task.apply_async(args, **options)
    while not began.exists() and not result.ready():
        time.sleep(0.05)
    if not result.ready() and task is slow:
        result.revoke(terminate=True)
    try:
        return str(result.get(timeout=60))
    except TaskRevokedError:
        return "revoked"
    except WorkerLostError:
        return "lost"


def main() -> None:
    sent = shared.delay(5)
    celerys = [AsyncResult(sent.id, app=app), AsyncResult(sent.id)]
    ran = [celerys[0].get(timeout=60)]
    states = [[each.state, each.ready(), each.result] for each in celerys]
    try:
        shared_and_failing.delay().get(timeout=60)
    except ValueError as error:
        ran.append(str(error))
    found = app.send_task("compat_tests.facade.discovered_tasks.discovered", (4,))
    ran.append(found.get(timeout=60))
    deadline = time.monotonic() + 30
    while NOTES.read_text().count("postrun") < 4 and time.monotonic() < deadline:
        time.sleep(0.05)
    ended = [ended_by_worker(slow, expires=-1), ended_by_worker(slow), ended_by_worker(dying)]
    while NOTES.read_text().count("lost dying") < 1 and time.monotonic() < deadline:
        time.sleep(0.05)
    conf = [app.conf.task_default_priority, "other" in app.conf]
    notes = NOTES.read_text().splitlines()
    found = {"ran": ran, "notes": notes, "conf": conf, "states": states, "ended": ended}
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
