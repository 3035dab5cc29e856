"""A job of three steps, two of which run at the same time on workers."""

from dagster import Definitions, job, op

from dagster_taskiq import taskiq_executor
from parcels.outputs import DatabaseIOManager


@op
def weigh() -> int:
    return 12


@op(tags={"dagster-taskiq/priority": "5"})
def label(weight: int) -> str:
    return f"{weight} kg"


@op
def price(weight: int) -> float:
    return 1.5 * weight


@job(executor_def=taskiq_executor)
def ship() -> None:
    weight = weigh()
    label(weight)
    price(weight)


defs = Definitions(jobs=[ship], resources={"io_manager": DatabaseIOManager()})
