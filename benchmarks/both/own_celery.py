"""A user's own tasks as Celery has them."""

import os
import time
from pathlib import Path
from typing import Any

from celery import Celery

app = Celery("own", broker=os.environ["OWN_BROKER"], backend=os.environ["OWN_BACKEND"])


@app.task
def nothing() -> None:
    """Do nothing."""


@app.task
def hold(path: str) -> None:
    """Keep a slot until a file is there."""
    while not Path(path).exists():
        time.sleep(0.005)


@app.task
def mark(path: str) -> None:
    """Write down when this is executed."""
    with Path(path).open("a") as file:
        file.write(f"{time.time()}\n")


def send(name: str, count: int, *args: Any) -> None:
    """Send a task some times, and return when the broker has the messages."""
    task = {"nothing": nothing, "hold": hold, "mark": mark}[name]
    for _ in range(count):
        task.delay(*args)
