"""The same plans with Dagster's own executors: the run's config says in process or multiprocess."""

import plans
from dagster import JobDefinition, job


def plain(job: JobDefinition) -> JobDefinition:
    """Return a job with Dagster's default executor."""
    return job.graph.to_job(name=job.name)


# Defined anew: a process that imports these has imported nothing of a queue.
@job
def chain_5() -> None:
    plans.chain(5)


@job
def chain_20() -> None:
    plans.chain(20)


@job
def fan_100() -> None:
    plans.fan(100)


@job
def fan_500() -> None:
    plans.fan(500)


@job
def naps() -> None:
    plans.naps(8)
