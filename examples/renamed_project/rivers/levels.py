"""The levels of a week as assets. A whole run of them is one task, on the queue for such work."""

import csv
import io
from collections import defaultdict

from dagster import (
    AssetExecutionContext,
    MaterializeResult,
    asset,
    define_asset_job,
    in_process_executor,
)

from rivers import gauges
from rivers.resources import ReportDirectory


@asset
def hourly_levels() -> dict[str, list[float]]:
    """What each station has measured; they are called until they answer."""
    levels = {}
    for station in gauges.FLOOD_LEVELS:
        for attempt in range(3):
            try:
                levels[station] = gauges.call(station, attempt)
                break
            except gauges.LineBusyError:
                continue
    return levels


@asset
def daily_means(hourly_levels: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """The mean level of each day, for each station."""
    means: dict[str, dict[str, float]] = defaultdict(dict)
    for station, levels in hourly_levels.items():
        for first in range(0, len(levels), 24):
            day = levels[first : first + 24]
            means[station][f"{gauges.hour(first):%Y-%m-%d}"] = round(sum(day) / len(day), 1)
    return dict(means)


@asset
def flood_days(
    context: AssetExecutionContext,
    daily_means: dict[str, dict[str, float]],
    reports: ReportDirectory,
) -> MaterializeResult:
    """The days on which a station was flooded, in a file for a spreadsheet."""
    table = io.StringIO()
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(("station", "day", "mean level"))
    flooded = [
        (station, day, mean)
        for station, means in daily_means.items()
        for day, mean in means.items()
        if mean > gauges.FLOOD_LEVELS[station]
    ]
    rows.writerows(flooded)
    context.log.info("%d days of flood, all stations together.", len(flooded))
    path = reports.write("flood_days.csv", table.getvalue())
    return MaterializeResult(metadata={"days": len(flooded), "path": path})


week_of_levels = define_asset_job(
    "week_of_levels",
    executor_def=in_process_executor,
    tags={"dagster-taskiq/queue": "crunch"},
)
