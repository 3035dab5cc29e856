"""As :mod:`jobs`, and in a file of their own: only workers that run them should pay for them."""

import plans
import tables
from dagster import job

from dagster_celery import celery_executor


@job(executor_def=celery_executor)
def diamond() -> None:
    tables.diamond()


@job(executor_def=celery_executor)
def dynamic() -> None:
    plans.dynamic()


@job(executor_def=celery_executor)
def fan_200() -> None:
    plans.fan(200)


@job(executor_def=celery_executor)
def fan_2000() -> None:
    plans.fan(2000)
