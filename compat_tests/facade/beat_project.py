"""A project as Celery's guide to periodic tasks has it."""

import os
from datetime import timedelta

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
app.add_periodic_task(1.0, note.s("added"), name="added")
