"""The plans that the benchmarks run: no-op ops, so that all that is measured is the engine."""

import os
import time

from dagster import OpExecutionContext, in_process_executor, job, op

from dagster_taskiq import taskiq_executor


@op
def first() -> int:
    return 0


@op
def add_one(number: int) -> int:
    return number + 1


@op
def alone() -> int:
    return 1


@op
def die() -> None:
    os._exit(7)


@op(config_schema={"seconds": float})
def rest(context: OpExecutionContext) -> None:
    time.sleep(context.op_config["seconds"])


def _chain(length: int) -> None:
    number = first()
    for _ in range(length - 1):
        number = add_one(number)


def _fan(width: int) -> None:
    for index in range(width):
        alone.alias(f"alone_{index}")()


@job(executor_def=taskiq_executor)
def chain_20() -> None:
    _chain(20)


@job(executor_def=in_process_executor)
def chain_20_in_process() -> None:
    _chain(20)


@job(executor_def=taskiq_executor)
def fan_100() -> None:
    _fan(100)


@job(executor_def=in_process_executor)
def fan_100_in_process() -> None:
    _fan(100)


@job(executor_def=taskiq_executor)
def crash() -> None:
    die()


@job(executor_def=taskiq_executor)
def waiting() -> None:
    rest()
