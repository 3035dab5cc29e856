"""The page of a run shows what happens while it happens, also with Dagster's SQLite storage."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from dagster import DagsterRunStatus

from compat_tests.executor import jobs
from compat_tests.executor.run_page import opened_page, running_webserver
from compat_tests.executor.runs import House
from compat_tests.executor.scratch import Scratch

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("fleet", ["embedded", "redis"], indirect=True),
]


@pytest.fixture
def webserver(fleet: House, tmp_path: Path) -> Iterator[str]:
    with running_webserver(fleet.instance, tmp_path) as url:
        yield url


async def test_the_page_of_a_run_shows_each_event_while_its_step_still_runs(
    fleet: House, webserver: str, scratch: Scratch
) -> None:
    with fleet.started(jobs.talking_job, scratch) as run:
        async with opened_page(webserver, run.outcome.run_id) as page:
            for number in range(jobs.TALKING_LINES):
                await page.wait_for(f"line {number}")
                scratch.note(f"read: {number}")
            # With this the page offers to terminate the run, and not only to force that.
            assert "RunStartEvent" in page.types

            # What another process says while the step and the run's loop have nothing to say.
            run.outcome.instance.report_engine_event("from elsewhere", run.outcome.run)
            await page.wait_for("from elsewhere")
            scratch.note("read: all")
            assert run.wait().status is DagsterRunStatus.SUCCESS
