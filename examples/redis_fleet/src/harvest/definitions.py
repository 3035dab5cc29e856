"""A job that counts crates: runs and small steps on one queue, what computes on another."""

import hashlib
from collections.abc import Iterator

from dagster import Definitions, DynamicOut, DynamicOutput, RetryPolicy, job, op

from dagster_taskiq import taskiq_executor
from harvest.outputs import DatabaseIOManager

CRATES = 6


@op(out=DynamicOut(int))
def crates() -> Iterator[DynamicOutput[int]]:
    for number in range(CRATES):
        yield DynamicOutput(number, mapping_key=f"crate_{number}")


@op(tags={"dagster-taskiq/queue": "compute"}, retry_policy=RetryPolicy(max_retries=2))
def count(crate: int) -> int:
    return hashlib.sha256(str(crate).encode()).digest()[0] % 20 + 20


@op
def total(counts: list[int]) -> int:
    return sum(counts)


@job(executor_def=taskiq_executor)
def harvest() -> None:
    total(crates().map(count).collect())


defs = Definitions(jobs=[harvest], resources={"io_manager": DatabaseIOManager()})
