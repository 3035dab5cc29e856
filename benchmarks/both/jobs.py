"""The jobs as users of dagster-celery have them: one file for either ``dagster_celery``."""

import plans
from dagster import Definitions, in_process_executor, job

from dagster_celery import celery_executor


@job(executor_def=celery_executor)
def chain_5() -> None:
    plans.chain(5)


@job(executor_def=in_process_executor)
def chain_5_in_process() -> None:
    plans.chain(5)


@job(executor_def=celery_executor)
def chain_20() -> None:
    plans.chain(20)


@job(executor_def=celery_executor)
def fan_10() -> None:
    plans.fan(10)


@job(executor_def=celery_executor)
def fan_100() -> None:
    plans.fan(100)


@job(executor_def=celery_executor)
def fan_500() -> None:
    plans.fan(500)


@job(executor_def=celery_executor)
def naps() -> None:
    plans.naps(8)


@job(executor_def=celery_executor)
def many_naps() -> None:
    plans.naps(40)


@job(executor_def=celery_executor)
def resting() -> None:
    plans.rest()


@job(executor_def=celery_executor)
def beating() -> None:
    plans.beat()


@job(executor_def=in_process_executor)
def beating_in_process() -> None:
    plans.beat()


#: What can be launched.
defs = Definitions(jobs=[chain_5, chain_5_in_process, fan_10, beating, beating_in_process])
