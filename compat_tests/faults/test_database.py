"""The database server of Dagster's storage restarts in the middle of a run."""

from collections.abc import Iterator

import pytest
import yaml

from compat_tests.brokers import POSTGRES_STORAGE
from compat_tests.conftest import make_settings
from compat_tests.executor.conftest import make_instance
from compat_tests.executor.outages import end_steps, run_through
from compat_tests.executor.runs import House, Outcome
from compat_tests.executor.scratch import Scratch
from compat_tests.servers import PostgresServer, own_postgres
from compat_tests.waiting import eventually
from compat_tests.workers import running_worker


@pytest.fixture
def database() -> Iterator[PostgresServer]:
    with own_postgres() as server:
        yield server


def test_a_database_that_restarts_delays_a_run_and_repeats_no_step(
    database: PostgresServer, scratch: Scratch, request: pytest.FixtureRequest
) -> None:
    url = database.url.replace("://", "+psycopg2://", 1)
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
