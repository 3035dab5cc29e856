"""Tests of jobs that have an executor of workers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dagster import DagsterInstance, execute_job, reconstructable
from shop_jobs import assets_job, defs, older_report_job, report_job
from shop_tasks import send_mail

from dagster_taskiq.testing import SentTasks


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[DagsterInstance]:
    with DagsterInstance.local_temp(str(tmp_path)) as instance:
        yield instance


@pytest.mark.parametrize("job", [report_job, older_report_job], ids=lambda job: str(job.name))
def test_a_job_runs_here(job: Any, instance: DagsterInstance, sent_tasks: SentTasks) -> None:
    with execute_job(reconstructable(job), instance) as result:
        assert result.success
        assert result.output_for_node("count") == 3
    (mail,) = sent_tasks.of(send_mail)
    assert mail.kwargs == {"subject": "3 orders"}


def test_a_job_that_names_a_server_needs_none(instance: DagsterInstance) -> None:
    config = {"execution": {"config": {"broker": "redis://nowhere.invalid:6379/0"}}}
    assert execute_job(reconstructable(report_job), instance, run_config=config).success


def test_assets_are_materialized_here(instance: DagsterInstance) -> None:
    assert defs.get_job_def(assets_job.name).execute_in_process(instance=instance).success
