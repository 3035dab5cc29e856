"""The database server of Dagster's storage restarts in the middle of a run, or is full."""

from collections.abc import Iterator

import pytest
import yaml
from dagster import DagsterEventType, DagsterRunStatus

from compat_tests.brokers import POSTGRES_STORAGE
from compat_tests.conftest import make_settings
from compat_tests.executor import storage_jobs
from compat_tests.executor.conftest import make_instance
from compat_tests.executor.outages import end_steps, run_through
from compat_tests.executor.runs import House, Outcome
from compat_tests.executor.scratch import Scratch
from compat_tests.servers import PostgresServer, own_postgres, with_driver
from compat_tests.waiting import eventually
from compat_tests.workers import running_worker
from dagster_taskiq.settings.settings import Settings


@pytest.fixture
def database() -> Iterator[PostgresServer]:
    with own_postgres() as server:
        yield server


def test_a_database_that_restarts_delays_a_run_and_repeats_no_step(
    database: PostgresServer, scratch: Scratch, request: pytest.FixtureRequest
) -> None:
    url = with_driver(database.url)
    storage = yaml.safe_dump({"storage": {"postgres": {"postgres_url": url}}})
    settings = make_settings(POSTGRES_STORAGE, scratch.directory, request)
    with (
        make_instance(scratch.directory, storage) as instance,
        running_worker(settings, scratch.directory, "-c", "2") as worker,
    ):

        def restart(_outcome: Outcome) -> None:
            database.stop()
            end_steps(scratch)
            # Both steps have something to write.
            eventually(lambda: worker.output().count("does not answer") >= 2)
            database.start()

        run_through(House(settings, instance), scratch, restart)
        assert worker.output().count("answers again") >= 2


@pytest.mark.test_all("a run on few connections takes a minute, and what waits for one is shorter")
def test_many_steps_and_slots_share_a_server_that_accepts_few_connections(
    scratch: Scratch,
) -> None:
    with own_postgres(max_connections=20) as database:
        storage = yaml.safe_dump(
            {"storage": {"postgres": {"postgres_url": with_driver(database.url)}}}
        )
        settings = Settings(broker=database.url, heartbeat_interval=0.5)
        with (
            make_instance(scratch.directory, storage) as instance,
            running_worker(settings, scratch.directory, "-c", "16") as worker,
        ):
            outcome = House(settings, instance).run(storage_jobs.fan_of_500, scratch)
            assert outcome.status is DagsterRunStatus.SUCCESS, worker.output()
            assert len(outcome.steps(DagsterEventType.STEP_SUCCESS)) == 500
