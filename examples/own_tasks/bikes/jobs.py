"""Dagster's part: a job whose ops send some of the tasks and wait for them."""

import os
from pathlib import Path

from dagster import Definitions, job, op

from bikes.tasks import bikes_now, counting
from dagster_taskiq import taskiq_executor
from dagster_taskiq.client import call

STATIONS = ("north", "south", "harbour")
REPORT = Path(os.environ.get("BIKES_REPORT", "report.txt"))


@op
async def count_stations() -> list[str]:
    """Have all stations counted, side by side."""
    sent = [await counting(each).kiq(each) for each in STATIONS]
    for each in sent:
        result = await each.wait_result(timeout=60)
        result.raise_for_error()
    return list(STATIONS)


@op
def report(stations: list[str]) -> None:
    """Write how many bikes there are."""
    found = call(bikes_now)
    lines = [f"{station}: {found[station]} bikes" for station in stations]
    REPORT.write_text("\n".join(lines) + "\n")


@job(executor_def=taskiq_executor)
def bike_report() -> None:
    """Count, then report."""
    report(count_stations())


defs = Definitions(jobs=[bike_report])
