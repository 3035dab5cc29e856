"""The example project: a shop's assets, its parcels, and its stock.

Two parcels give trouble on their first attempt. One asks for a retry, as code does that waits
for something; the other's process is killed, as the kernel does when memory runs out.
"""

import os
import signal
import time
from collections.abc import Iterator
from typing import Any

from dagster import (
    AssetCheckResult,
    AssetExecutionContext,
    AssetOut,
    DagsterExecutionInterruptedError,
    Definitions,
    DynamicOut,
    DynamicOutput,
    OpExecutionContext,
    Out,
    Output,
    RetryPolicy,
    RetryRequested,
    StaticPartitionsDefinition,
    asset,
    asset_check,
    define_asset_job,
    job,
    multi_asset,
    op,
)

from dagster_taskiq.executor import taskiq_executor

#: How long a step pretends to work, in seconds: long enough to watch two of them side by side.
WORK_SECONDS = 0.3
#: How long a shelf is counted, in seconds: long enough to press "Terminate" meanwhile.
COUNT_SECONDS = 30.0
#: The parcels that ``weigh_parcel`` fans out over.
PARCELS = ("apples", "bells", "candles", "drums", "eggs", "fans")
#: The parcel whose first weighing asks to be tried again.
SLOW_SCALES = "bells"
#: The parcel whose first weighing does not survive.
KILLED = "drums"

ORDERS = {"north": 3, "south": 5}
REGIONS = StaticPartitionsDefinition(list(ORDERS))


@multi_asset(outs={"orders": AssetOut(), "price": AssetOut()})
def shop() -> tuple[dict[str, int], int]:
    """Return the orders of each region and the price of one: two assets from one step."""
    time.sleep(WORK_SECONDS)
    return ORDERS, 7


@asset(partitions_def=REGIONS)
def revenue(context: AssetExecutionContext, orders: dict[str, int], price: int) -> int:
    """Return what one region, the partition of this run, brings in."""
    time.sleep(WORK_SECONDS)
    return orders[context.partition_key] * price


@asset_check(asset="orders")
def every_region_orders(orders: dict[str, int]) -> AssetCheckResult:
    """Check that no region stays away."""
    return AssetCheckResult(passed=all(orders.values()), metadata={"regions": len(orders)})


@op(out=DynamicOut(str))
def list_parcels() -> Iterator[DynamicOutput[str]]:
    """Yield each parcel, for a step of its own."""
    for parcel in PARCELS:
        yield DynamicOutput(parcel, mapping_key=parcel)


@op(retry_policy=RetryPolicy(max_retries=1))
def weigh_parcel(context: OpExecutionContext, parcel: str) -> int:
    """Return the weight of a parcel, if not at the first attempt then at the second."""
    first = context.retry_number == 0
    if parcel == SLOW_SCALES and first:
        context.log.warning("The scales are not ready.")
        raise RetryRequested(max_retries=1, seconds_to_wait=WORK_SECONDS)
    time.sleep(WORK_SECONDS)
    if parcel == KILLED and first:
        os.kill(os.getpid(), signal.SIGKILL)
    context.log.info(f"{parcel} weighs {len(parcel)} kg.")
    return len(parcel)


@op
def load_van(context: OpExecutionContext, weights: list[int]) -> Output[int]:
    """Add up the weights of all parcels."""
    context.log.info(f"{len(weights)} parcels with {sum(weights)} kg are in the van.")
    return Output(sum(weights), metadata={"parcels": len(weights), "weight": sum(weights)})


@op(out={"by_road": Out(int, is_required=False), "by_sea": Out(int, is_required=False)})
def choose_route(weight: int) -> Iterator[Output[Any]]:
    """Yield one of two outputs; the steps behind the other are skipped."""
    yield Output(weight, "by_road" if weight < 1000 else "by_sea")


@op
def drive(context: OpExecutionContext, weight: int) -> str:
    """Ship by road."""
    for street in ("Orchard Lane", "Mill Road", "Harbour Street"):
        print(f"Turning into {street} with {weight} kg ...")
        time.sleep(WORK_SECONDS / 3)
    context.log.info("All parcels are delivered.")
    return f"{weight} kg delivered"


@op
def sail(weight: int) -> str:
    """Ship by sea, which these few parcels never do."""
    return f"{weight} kg shipped"


@job
def ship_parcels() -> None:
    """Fan out over the parcels, fan in to the van, and take one of two roads."""
    route = choose_route(load_van(list_parcels().map(weigh_parcel).collect()))
    drive(route.by_road)
    sail(route.by_sea)


@op
def count_shelf(context: OpExecutionContext) -> int:
    """Count what is on a shelf, for long enough to be terminated: see its log and its stdout."""
    found = 0
    context.log.info(f"Counting for {COUNT_SECONDS:.0f} s.")
    try:
        for _ in range(round(COUNT_SECONDS)):
            time.sleep(1.0)
            found += 3
            print(f"{found} boxes so far", flush=True)
    except DagsterExecutionInterruptedError:
        context.log.warning(f"Stopped after {found} boxes.")
        raise
    context.log.info(f"There are {found} boxes.")
    return found


@job
def count_stock() -> None:
    """Count four shelves, two at the same time: a minute in which to press "Terminate"."""
    for shelf in ("left", "right", "top", "bottom"):
        count_shelf.alias(f"count_{shelf}_shelf")()


shop_assets = define_asset_job("shop_assets")

defs = Definitions(
    assets=[shop, revenue],
    asset_checks=[every_region_orders],
    jobs=[ship_parcels, count_stock, shop_assets],
    # For all jobs, the one behind the UI's "Materialize" included.
    executor=taskiq_executor,
)
