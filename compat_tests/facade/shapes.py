"""Graphs in which several steps are ready at once, for executors of every kind."""

from typing import Any

from dagster import DynamicOut, DynamicOutput, OpExecutionContext, RetryPolicy, op


@op
def one() -> int:
    return 1


@op
def more(number: int) -> int:
    return number + 1


@op
def join(left: int, right: int) -> int:
    return left + right


@op(out=DynamicOut())
def numbers() -> Any:
    for number in (1, 2):
        yield DynamicOutput(number, mapping_key=str(number))


@op
def total(numbers: list[int]) -> int:
    return sum(numbers)


@op(retry_policy=RetryPolicy(max_retries=1))
def flaky(context: OpExecutionContext) -> int:
    if context.retry_number == 0:
        raise ValueError("the first time it does not work")
    return context.retry_number


def fan() -> None:
    """A fan of dynamic outputs that is gathered again, and a retry in parallel."""
    total(numbers().map(more).collect())
    flaky()


def shapes() -> None:
    """The same, with a diamond."""
    start = one()
    join(more.alias("left")(start), more.alias("right")(start))
    fan()
