"""The jobs of :mod:`heavy_jobs` by this project's own name of the executor."""

import heavy_jobs
from taskiq_jobs import renamed

diamond = renamed(heavy_jobs.diamond)
dynamic = renamed(heavy_jobs.dynamic)
fan_200 = renamed(heavy_jobs.fan_200)
fan_2000 = renamed(heavy_jobs.fan_2000)
