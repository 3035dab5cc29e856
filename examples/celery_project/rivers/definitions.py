"""All that Dagster is told of this project."""

from dagster import Definitions, EnvVar

from rivers.flood_report import flood_report
from rivers.levels import daily_means, flood_days, hourly_levels, week_of_levels
from rivers.resources import ReportDirectory

defs = Definitions(
    assets=[hourly_levels, daily_means, flood_days],
    jobs=[flood_report, week_of_levels],
    resources={"reports": ReportDirectory(path=EnvVar("REPORT_DIR"))},
)
