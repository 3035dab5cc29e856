"""The jobs of the soak: small, of every shape, each op saying when it began and when it ended."""

import fcntl
import os
import random
import time
from collections.abc import Iterator

from dagster import (
    Definitions,
    DynamicOut,
    DynamicOutput,
    In,
    Nothing,
    OpExecutionContext,
    RetryPolicy,
    RetryRequested,
    job,
    op,
)

from compat_tests.executor.scratch import Scratch
from dagster_taskiq import taskiq_executor

#: A step of the soak is retried for as long as its workers die.
TENACIOUS = RetryPolicy(max_retries=20)
#: The longest that a step works, in seconds.
LONGEST = 1.0


def work(context: OpExecutionContext) -> None:
    """Note a beginning, be busy for a while, note an end; note too if somebody else is at it."""
    scratch = Scratch.of(context)
    step = context.get_step_execution_context().step.key
    # The lock goes with the process, however that ends: who does not get it is one too many.
    with (scratch.directory / f"lock-{step}").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            scratch.note("overlaps", step)
            fcntl.flock(lock, fcntl.LOCK_EX)
        scratch.note("begins", f"{step} {time.time():.3f} {os.getpid()}")
        time.sleep(random.Random(f"{context.run_id}{step}").random() ** 3 * LONGEST)
        scratch.note("ends", f"{step} {time.time():.3f} {os.getpid()}")


@op(retry_policy=TENACIOUS)
def source(context: OpExecutionContext) -> int:
    work(context)
    return 1


@op(retry_policy=TENACIOUS)
def link(context: OpExecutionContext, number: int) -> int:
    work(context)
    return number + 1


@op(retry_policy=TENACIOUS)
def total(context: OpExecutionContext, numbers: list[int]) -> int:
    work(context)
    return sum(numbers)


@op(retry_policy=TENACIOUS, ins={"above": In(Nothing)})
def after(context: OpExecutionContext) -> None:
    work(context)


@op(retry_policy=TENACIOUS, out=DynamicOut(int))
def spread(context: OpExecutionContext, number: int) -> Iterator[DynamicOutput[int]]:
    work(context)
    for each in range(3 + number):
        yield DynamicOutput(each, mapping_key=f"m{each}")


@op(retry_policy=TENACIOUS)
def asks_again(context: OpExecutionContext, number: int) -> int:
    """Ask for a retry, the first time; be retried, by the policy, where the process dies."""
    work(context)
    if Scratch.of(context).count("asked") == 0:
        Scratch.of(context).note("asked")
        raise RetryRequested(max_retries=20, seconds_to_wait=0.2)
    return number


@op(retry_policy=TENACIOUS)
def dies_once(context: OpExecutionContext, number: int) -> int:
    """End the whole process, the first time."""
    work(context)
    scratch = Scratch.of(context)
    if scratch.count("died") == 0:
        scratch.note("died")
        os._exit(7)
    return number


@job(executor_def=taskiq_executor)
def soak_chain() -> None:
    number = source()
    for each in range(4):
        number = link.alias(f"link_{each}")(number)


@job(executor_def=taskiq_executor)
def soak_fan() -> None:
    number = source()
    total([link.alias(f"link_{each}")(number) for each in range(8)])


@job(executor_def=taskiq_executor)
def soak_dynamic() -> None:
    total(spread(source()).map(link).collect())


@job(executor_def=taskiq_executor)
def soak_retries() -> None:
    after(asks_again(source()))


@job(executor_def=taskiq_executor)
def soak_deaths() -> None:
    after(dies_once(source()))


SOAK_JOBS = (soak_chain, soak_fan, soak_dynamic, soak_retries, soak_deaths)

defs = Definitions(jobs=list(SOAK_JOBS))
