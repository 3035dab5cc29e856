"""A report of the flood: all stations side by side, each step on the queue that has room for it."""

import json
from collections.abc import Iterator
from pathlib import Path

import yaml
from dagster import DynamicOut, DynamicOutput, OpExecutionContext, RetryPolicy, job, op
from dagster_celery import celery_executor
from dagster_celery.tags import DAGSTER_CELERY_QUEUE_TAG, DAGSTER_CELERY_STEP_PRIORITY_TAG

from rivers import gauges
from rivers.resources import ReportDirectory

#: The same file that the workers are started with.
CONFIG = yaml.safe_load((Path(__file__).parent.parent / "celery.yaml").read_text())


@op(out=DynamicOut(str))
def list_stations() -> Iterator[DynamicOutput[str]]:
    """Yield each station along the river."""
    for station in gauges.FLOOD_LEVELS:
        yield DynamicOutput(station, mapping_key=station)


@op(
    retry_policy=RetryPolicy(max_retries=3, delay=0.5),
    tags={"dagster-celery/priority": "8"},
)
def read_gauge(context: OpExecutionContext, station: str) -> dict:
    """Call a station, again where its line is busy."""
    levels = gauges.call(station, context.retry_number)
    context.log.info("%s has sent %d levels.", station, len(levels))
    return {"station": station, "levels": levels}


@op(tags={"dagster-celery/queue": "crunch"})
def find_crest(reading: dict) -> dict:
    """Find when the water stood highest, smoothed over five hours."""
    station, levels = reading["station"], reading["levels"]
    smooth = [sum(levels[at - 2 : at + 3]) / 5 for at in range(2, len(levels) - 2)]
    crest = max(smooth)
    return {
        "station": station,
        "crest": round(crest, 1),
        "at": gauges.hour(smooth.index(crest) + 2).isoformat(),
        "flooded_hours": sum(level > gauges.FLOOD_LEVELS[station] for level in levels),
    }


@op(tags={DAGSTER_CELERY_QUEUE_TAG: "crunch", DAGSTER_CELERY_STEP_PRIORITY_TAG: "9"})
def write_report(crests: list[dict], reports: ReportDirectory) -> str:
    """Write all crests into one file, in the order in which the wave passed."""
    ordered = sorted(crests, key=lambda crest: crest["at"])
    return reports.write("flood_report.json", json.dumps(ordered, indent=2) + "\n")


@job(
    executor_def=celery_executor.configured(CONFIG["execution"]["config"]),
    tags={"dagster-celery/run_priority": "3"},
)
def flood_report() -> None:
    """Read every gauge, find its crest, and write what was found into one report."""
    readings = list_stations().map(read_gauge)
    write_report(readings.map(find_crest).collect())
