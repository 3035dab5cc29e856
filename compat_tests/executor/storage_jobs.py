"""Jobs whose events come into the log late, or at the same moment as many others."""

import os
import time

from dagster import OpExecutionContext, job, op

from compat_tests.executor.scratch import Scratch
from dagster_taskiq import taskiq_executor


@op
def nothing() -> None:
    """End as soon as it has begun."""


@job(executor_def=taskiq_executor)
def fan_of_40() -> None:
    for number in range(40):
        nothing.alias(f"f{number}")()


@job(executor_def=taskiq_executor)
def fan_of_500() -> None:
    for number in range(500):
        nothing.alias(f"f{number}")()


@op
def late(context: OpExecutionContext) -> int:
    Scratch.of(context).note("late", str(os.getpid()))
    return 1


@op
def after(context: OpExecutionContext, number: int) -> None:
    Scratch.of(context).note("after", str(number))


@op
def beside(context: OpExecutionContext) -> None:
    """End 0.3 s after the one before it: the rows that others write while one is late."""
    time.sleep(0.3 * int(context.op.name.rpartition("_")[2]))


@job(executor_def=taskiq_executor)
def late_among_six() -> None:
    after(late())
    for number in range(1, 7):
        beside.alias(f"beside_{number}")()
