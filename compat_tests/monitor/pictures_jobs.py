"""The jobs of the fleet in the pictures: a company's day, in which work is sleep."""

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
    job,
    op,
)

from dagster_taskiq import taskiq_executor

#: How long a step takes in the middle, in seconds; one takes a third or three times as long.
SECONDS = 6.0
#: How many steps in a hundred fail.
FAILURES = 4


def work(context: OpExecutionContext, factor: float = 1.0) -> None:
    dice = random.Random(f"{context.run_id} {context.op_handle} {context.retry_number}")
    time.sleep(factor * SECONDS * 3 ** dice.uniform(-1, 1))
    if dice.randrange(100) < FAILURES:
        raise RuntimeError(f"{context.op.name}: the source has sent 0 rows, at least 1 is expected")


@op
def extract_orders(context: OpExecutionContext) -> None:
    work(context)


@op(retry_policy=RetryPolicy(max_retries=2))
def extract_customers(context: OpExecutionContext) -> None:
    work(context)


@op(ins={"after": In(Nothing)}, retry_policy=RetryPolicy(max_retries=1))
def build_models(context: OpExecutionContext) -> None:
    work(context, 2)


@op(ins={"after": In(Nothing)})
def check_quality(context: OpExecutionContext) -> None:
    work(context, 0.5)


@op(ins={"after": In(Nothing)}, tags={"dagster-taskiq/queue": "mail"})
def send_report(context: OpExecutionContext) -> None:
    work(context, 0.3)


@job(executor_def=taskiq_executor)
def nightly_warehouse() -> None:
    models = build_models([extract_orders(), extract_customers()])
    send_report(check_quality(models))


@op(out=DynamicOut(str), tags={"dagster-taskiq/priority": "5"})
def list_parcels() -> Iterator[DynamicOutput[str]]:
    for parcel in ("apples", "bells", "candles", "drums", "eggs", "fans"):
        yield DynamicOutput(parcel, mapping_key=parcel)


@op(tags={"dagster-taskiq/priority": "5"}, retry_policy=RetryPolicy(max_retries=1))
def weigh_parcel(context: OpExecutionContext, parcel: str) -> None:
    work(context)


@job(executor_def=taskiq_executor, tags={"dagster-taskiq/run_priority": "5"})
def ship_parcels() -> None:
    list_parcels().map(weigh_parcel)


@op
def load_features(context: OpExecutionContext) -> None:
    work(context)


@op(ins={"after": In(Nothing)}, tags={"dagster-taskiq/queue": "gpu"})
def train(context: OpExecutionContext) -> None:
    work(context, 5)


@op(ins={"after": In(Nothing)})
def evaluate(context: OpExecutionContext) -> None:
    work(context)


@job(executor_def=taskiq_executor)
def train_forecast() -> None:
    evaluate(train(load_features()))


@op(tags={"dagster-taskiq/queue": "archive"})
def archive(context: OpExecutionContext) -> None:
    """Wait: nobody serves its queue."""


@job(executor_def=taskiq_executor)
def archive_old_orders() -> None:
    archive()


defs = Definitions(jobs=[nightly_warehouse, ship_parcels, train_forecast, archive_old_orders])
