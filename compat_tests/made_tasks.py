"""A project that makes its broker itself, and defines its tasks on that."""

from typing import Annotated

from taskiq import Context, TaskiqDepends, TaskiqEvents, TaskiqState

from dagster_taskiq import app
from dagster_taskiq.settings.settings import Settings

broker = app.make(Settings.from_dict({}))


@broker.on_event(TaskiqEvents.WORKER_STARTUP)
def fill(state: TaskiqState) -> None:
    state.stock = 3


@broker.task
def count(more: int, context: Annotated[Context, TaskiqDepends()]) -> int:
    return int(context.state.stock) + more
