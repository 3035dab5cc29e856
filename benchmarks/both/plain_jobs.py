"""The same plans with Dagster's own executors: the run's config says in process or multiprocess."""

import jobs
from dagster import JobDefinition


def plain(job: JobDefinition) -> JobDefinition:
    """Return a job with Dagster's default executor."""
    return job.graph.to_job(name=job.name)


chain_5 = plain(jobs.chain_5)
chain_20 = plain(jobs.chain_20)
fan_100 = plain(jobs.fan_100)
fan_500 = plain(jobs.fan_500)
naps = plain(jobs.naps)
