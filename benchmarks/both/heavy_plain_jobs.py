"""The jobs of :mod:`heavy_jobs` with Dagster's own executors."""

import heavy_jobs
from plain_jobs import plain

diamond = plain(heavy_jobs.diamond)
fan_200 = plain(heavy_jobs.fan_200)
fan_2000 = plain(heavy_jobs.fan_2000)
