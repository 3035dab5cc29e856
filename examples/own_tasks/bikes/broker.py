"""The broker, and what surrounds each task: retries, pipelines, a database.

In Celery these are options of the app, and signals of the worker.
"""

import os
from collections.abc import Iterator
from typing import Annotated

from sqlalchemy import create_engine
from sqlalchemy.orm import Session
from taskiq import (
    Context,
    SmartRetryMiddleware,
    TaskiqDepends,
    TaskiqEvents,
    TaskiqState,
)
from taskiq_pipelines import PipelineMiddleware

from bikes.tables import Base
from dagster_taskiq.app import broker

# The hooks for the end of a task are called in the opposite order: first that of the retries, so
# that a step of a pipeline may be tried again.
broker.add_middlewares(
    PipelineMiddleware(),
    # A task with the label `retry_on_error` is tried again, after 1 s, 2 s, ...
    SmartRetryMiddleware(default_retry_count=4, default_delay=1, use_delay_exponent=True),
)


@broker.on_event(TaskiqEvents.WORKER_STARTUP)
def open_database(state: TaskiqState) -> None:
    """Open the database, once in each process that executes tasks (Celery: worker_process_init)."""
    state.engine = create_engine(os.environ.get("BIKES_DATABASE", "sqlite:///bikes.db"))
    Base.metadata.create_all(state.engine)


@broker.on_event(TaskiqEvents.WORKER_SHUTDOWN)
def close_database(state: TaskiqState) -> None:
    """Close it (Celery: worker_process_shutdown)."""
    state.engine.dispose()


def session(context: Annotated[Context, TaskiqDepends()]) -> Iterator[Session]:
    """Give each task a session of its own, which is committed if the task succeeds."""
    with Session(context.state.engine) as opened, opened.begin():
        yield opened
