"""The jobs of the shop."""

from dagster import Definitions, asset, define_asset_job, job, op

from dagster_celery import celery_executor
from dagster_taskiq import taskiq_executor


@op
def orders() -> list[int]:
    return [1, 2, 3]


@op
def count(orders: list[int]) -> int:
    from shop_tasks import send_mail

    from dagster_taskiq.client import call

    call(send_mail, "boss@example.org", subject=f"{len(orders)} orders")
    return len(orders)


@job(executor_def=taskiq_executor)
def report_job() -> None:
    count(orders())


@job(executor_def=celery_executor)
def older_report_job() -> None:
    count(orders())


@asset
def total() -> int:
    return 42


assets_job = define_asset_job("assets_job", executor_def=taskiq_executor)
defs = Definitions(assets=[total], jobs=[assets_job, report_job, older_report_job])
