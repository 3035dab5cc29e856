"""A project as Celery's guide to periodic tasks has it."""

import os
from datetime import timedelta
from typing import Any

from compat_tests.user_tasks import say
from dagster_celery.make_app import make_app
from dagster_celery.schedules import crontab

NOTES = os.environ.get("BEAT_PROJECT_NOTES", os.devnull)

app = make_app()


@app.task(name="note")
def note(*words: str, **named: str) -> None:
    say(NOTES, " ".join([*words, *(f"{name}={value}" for name, value in named.items())]))


app.conf.beat_schedule = {
    "each-second": {
        "task": "note",
        "schedule": timedelta(seconds=1),
        "args": ("second",),
        "options": {"priority": 3, "expires": 3600},
    },
    "each-minute": {"task": "note", "schedule": crontab(), "kwargs": {"every": "minute"}},
}
app.conf.timezone = "Europe/Berlin"


@app.on_after_configure.connect
def add_periodic_tasks(sender: Any, **_: Any) -> None:
    sender.add_periodic_task(1.0, note.s("configured"), name="configured")


@app.on_after_finalize.connect
def add_more_periodic_tasks(sender: Any, **_: Any) -> None:
    sender.add_periodic_task(crontab(), note.s("final"), ("very",), expires=600)
