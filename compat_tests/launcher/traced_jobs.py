"""A job with spans of its own, in steps and in a task that one of them sends."""

import os
import signal
import time

from dagster import Definitions, job, op
from opentelemetry import trace

from dagster_taskiq import taskiq_executor
from dagster_taskiq.app import broker
from dagster_taskiq.client import call

tracer = trace.get_tracer("shop")


@broker.task
async def stock() -> int:
    with tracer.start_as_current_span("look into the store"):
        return 3


@op
def weigh() -> int:
    with tracer.start_as_current_span("call the store"):
        return call(stock)


@op
def pack(number: int) -> None:
    del number


@op
def is_killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


@job(executor_def=taskiq_executor)
def ship() -> None:
    pack(weigh())


@job(executor_def=taskiq_executor)
def fail() -> None:
    is_killed()


defs = Definitions(jobs=[ship, fail])
