"""Sends the tasks of ``celery_habits``, and reports what came of them as JSON."""

import json
import sys
import time

from celery.result import AsyncResult

from compat_tests.facade.celery_habits import NOTES, app, shared, shared_and_failing


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
    conf = [app.conf.task_default_priority, "other" in app.conf]
    notes = NOTES.read_text().splitlines()
    json.dump({"ran": ran, "notes": notes, "conf": conf, "states": states}, sys.stdout)


if __name__ == "__main__":
    main()
