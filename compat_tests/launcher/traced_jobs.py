"""Jobs with spans of their own, in steps and in a task that one of them sends."""

import os
import signal
import time

from dagster import job, op
from opentelemetry import trace

from dagster_taskiq import taskiq_executor
from dagster_taskiq.client import call

tracer = trace.get_tracer("shop")


@op
def weigh_in_a_trace() -> int:
    # Only a worker of these jobs has the task.
    from compat_tests.launcher.traced_tasks import stock

    with tracer.start_as_current_span("call the store"):
        return call(stock)


@op
def pack_in_a_trace(number: int) -> None:
    del number


@op
def killed_in_a_trace() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


@op
def stopped_in_a_trace() -> None:
    tracer.start_span("it has begun").end()
    time.sleep(60)


@job(executor_def=taskiq_executor)
def traced_ship() -> None:
    pack_in_a_trace(weigh_in_a_trace())


@job(executor_def=taskiq_executor)
def traced_fail() -> None:
    killed_in_a_trace()


@job(executor_def=taskiq_executor)
def traced_stop() -> None:
    stopped_in_a_trace()


TRACED_JOBS = [traced_ship, traced_fail, traced_stop]
