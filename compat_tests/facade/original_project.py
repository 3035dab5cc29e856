"""A project as it runs on the original dagster-celery and, unchanged, on this one.

Tests copy it to a directory of its own, from where either imports it.
"""

import os
from pathlib import Path

from dagster import Definitions, DynamicOut, DynamicOutput, OpExecutionContext, RetryPolicy, job, op

from dagster_celery import celery_executor


def note(context: OpExecutionContext, text: str) -> None:
    with (Path(os.environ["NOTES"])).open("a") as file:
        file.write(f"{text} of {context.run_id}, attempt {context.retry_number}\n")


@op(out=DynamicOut())
def many(context):  # type: ignore[no-untyped-def]
    note(context, "many")
    for number in range(3):
        yield DynamicOutput(number, mapping_key=str(number))


@op(retry_policy=RetryPolicy(max_retries=1))
def flaky(context: OpExecutionContext, number: int) -> int:
    note(context, f"flaky {number}")
    if number == 1 and context.retry_number == 0:
        raise ValueError("the first time it does not work")
    return number


@op(tags={"dagster-celery/queue": "side-of-the-day"})
def total(context: OpExecutionContext, numbers: list[int]) -> int:
    note(context, "total")
    return sum(numbers)


@job(executor_def=celery_executor)
def fan_out() -> None:
    total(many().map(flaky).collect())


defs = Definitions(jobs=[fan_out])
