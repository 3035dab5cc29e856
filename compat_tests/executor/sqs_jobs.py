"""Jobs whose messages are counted: steps one after the other, and side by side."""

from dagster import OpExecutionContext, job, op

from compat_tests.executor.scratch import Scratch
from dagster_taskiq import taskiq_executor

#: How many steps each job has.
CHAIN, FAN, MANY = 10, 50, 500


@op
def first(context: OpExecutionContext) -> int:
    Scratch.of(context).note("steps", context.op.name)
    return 0


@op
def following(context: OpExecutionContext, number: int) -> int:
    Scratch.of(context).note("steps", context.op.name)
    return number + 1


@job(executor_def=taskiq_executor)
def chain() -> None:
    number = first()
    for place in range(1, CHAIN):
        number = following.alias(f"following_{place}")(number)


@job(executor_def=taskiq_executor)
def fan() -> None:
    for place in range(FAN):
        first.alias(f"first_{place}")()


@job(executor_def=taskiq_executor)
def many() -> None:
    for place in range(MANY):
        first.alias(f"first_{place}")()
