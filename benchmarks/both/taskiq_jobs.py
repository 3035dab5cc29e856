"""The jobs of :mod:`jobs` by this project's own name of the executor."""

import jobs
from dagster import Definitions, JobDefinition

from dagster_taskiq import taskiq_executor


def renamed(job: JobDefinition) -> JobDefinition:
    """Return a job with the executor that projects move to."""
    return job.graph.to_job(name=job.name, executor_def=taskiq_executor)


chain_5 = renamed(jobs.chain_5)
chain_5_in_process = jobs.chain_5_in_process
beating_in_process = jobs.beating_in_process
chain_20 = renamed(jobs.chain_20)
fan_10 = renamed(jobs.fan_10)
fan_100 = renamed(jobs.fan_100)
fan_500 = renamed(jobs.fan_500)
naps = renamed(jobs.naps)
many_naps = renamed(jobs.many_naps)
resting = renamed(jobs.resting)
beating = renamed(jobs.beating)

#: What can be launched.
defs = Definitions(
    jobs=[chain_5, chain_5_in_process, fan_10, many_naps, resting, beating, beating_in_process]
)
