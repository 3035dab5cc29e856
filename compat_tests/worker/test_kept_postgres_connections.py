"""Connections to Dagster's storage on PostgreSQL: they stay open while steps or a run execute, and
what they were executing is repeated if the server ends them."""

import os
import signal
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import psycopg2
import pytest
import sqlalchemy as sa
import yaml
from dagster import (
    AssetKey,
    AssetMaterialization,
    DagsterInstance,
    DagsterRun,
    execute_job,
    job,
    op,
    reconstructable,
)
from dagster._core.storage.event_log import SqlEventLogStorage
from dagster_postgres.event_log import event_log
from sqlalchemy.exc import OperationalError

from compat_tests.executor.conftest import make_instance
from compat_tests.servers import new_database, with_driver
from compat_tests.waiting import eventually
from dagster_taskiq import taskiq_executor
from dagster_taskiq.dagster_internals import postgres_engines, storage_retries
from dagster_taskiq.dagster_internals.storage_connections import open_connections_kept

#: The name of the tests' own connections.
_OWN = "tests"
_OTHERS = (
    "SELECT pid FROM pg_stat_activity WHERE datname = current_database() "
    f"AND backend_type = 'client backend' AND application_name <> '{_OWN}'"
)


@job
def nothing() -> None:
    """Do nothing: it is not executed here."""


@op
def one() -> int:
    return 1


@op
def another(number: int) -> int:
    return number + 1


@job(executor_def=taskiq_executor)
def two_steps() -> None:
    another(one())


@contextmanager
def limited_user(database: "Database") -> Iterator[str]:
    """Make a user that has one session at most; yield its URL, with a password."""
    name, password = f"limited_{uuid.uuid4().hex[:12]}", "secret"
    with database.administrator.cursor() as cursor:
        cursor.execute(f"CREATE ROLE {name} LOGIN CONNECTION LIMIT 1 PASSWORD '{password}'")
        try:
            server = urlsplit(database.url)
            address = f"{name}:{password}@{server.hostname}:{server.port}"
            yield server._replace(netloc=address).geturl()
        finally:
            cursor.execute(f"DROP ROLE {name}")


def seven(engine: sa.Engine) -> int:
    with event_log.create_pg_connection(engine) as connection:
        return int(connection.execute(sa.text("SELECT 7")).scalar_one())


@dataclass
class Database:
    """An instance on PostgreSQL, a run in it, and what its administrator sees."""

    instance: DagsterInstance
    run: DagsterRun
    administrator: Any
    url: str

    @property
    def storage(self) -> SqlEventLogStorage:
        storage = self.instance.event_log_storage
        assert isinstance(storage, SqlEventLogStorage)
        return storage

    def report(self, text: str) -> None:
        self.instance.report_engine_event(text, self.run)

    @property
    def texts(self) -> list[str]:
        """What was reported of the run, as another process reads it, in the order of the log."""
        rows = self._select(f"SELECT event FROM event_logs WHERE run_id = '{self.run.run_id}'")
        return [each for row in rows for each in ("first", "second", "third") if each in row]

    @property
    def sessions(self) -> list[int]:
        """The processes of the server that serve others than the administrator."""
        return self._select(_OTHERS)

    @contextmanager
    def locked(self, table: str) -> Iterator[None]:
        """Let every statement wait that needs a table, and end the session of the first."""
        with closing(psycopg2.connect(self.administrator.dsn, application_name=_OWN)) as locker:
            locker.cursor().execute(f"LOCK TABLE {table}")
            yield
            (waiting,) = eventually(lambda: self._select(f"{_OTHERS} AND wait_event_type = 'Lock'"))
            self._select(f"SELECT pg_terminate_backend({waiting})")
            eventually(lambda: waiting not in self.sessions)

    def end_sessions(self) -> None:
        self._select(f"SELECT pg_terminate_backend(pid) FROM ({_OTHERS}) AS others")
        eventually(lambda: self.sessions == [])

    def count(self, table: str, condition: str) -> int:
        return int(self._select(f"SELECT count(*) FROM {table} WHERE {condition}")[0])

    def _select(self, query: str) -> list[Any]:
        with self.administrator.cursor() as cursor:
            cursor.execute(query)
            return [row[0] for row in cursor.fetchall()]


@pytest.fixture(scope="module")
def everything(
    postgres_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[DagsterInstance, Any, str]]:
    with new_database(postgres_url) as url:
        named = with_driver(url)
        storage = yaml.safe_dump({"storage": {"postgres": {"postgres_url": named}}})
        administrator = psycopg2.connect(url, application_name=_OWN)
        administrator.autocommit = True
        with make_instance(tmp_path_factory.mktemp("postgres"), storage) as instance:
            yield instance, administrator, url
        administrator.close()


@pytest.fixture
def database(
    everything: tuple[DagsterInstance, Any, str], monkeypatch: pytest.MonkeyPatch
) -> Database:
    """A database whose sessions stay, unless a test says otherwise."""
    monkeypatch.setattr(postgres_engines, "IDLE_SECONDS", 3600.0)
    # A session that was ended has ended: nothing of it is committed later.
    monkeypatch.setattr(storage_retries, "LATE_SECONDS", 0.0)
    instance, administrator, url = everything
    run = instance.create_run_for_job(nothing)
    return Database(instance, run, administrator, url)


@pytest.mark.oldest
def test_all_that_is_written_and_read_goes_through_one_session(database: Database) -> None:
    with open_connections_kept():
        database.report("first")
        kept = database.sessions
        assert len(kept) == 1
        database.report("second")
        database.instance.get_run_by_id(database.run.run_id)
        database.instance.get_ticks("origin", "selector")
        database.instance.all_logs(database.run.run_id)
        assert database.sessions == kept
        assert database.texts == ["first", "second"]
    eventually(lambda: database.sessions == [])
    database.report("third")
    eventually(lambda: database.sessions == [])


def test_transactions_of_a_storage_are_what_they_were(database: Database) -> None:
    with open_connections_kept():
        database.report("first")
        kept = database.sessions
        with pytest.raises(ZeroDivisionError), database.storage.index_transaction() as connection:
            connection.execute(sa.text("DELETE FROM event_logs"))
            raise ZeroDivisionError
        assert database.texts == ["first"]
        with database.storage.index_transaction() as connection:
            connection.execute(sa.text("UPDATE event_logs SET event = replace(event, 'first', '')"))
            assert database.texts == ["first"]
        assert database.texts == []
        database.report("second")  # it is committed, without a word of that
        assert database.texts == ["second"]
        assert database.sessions == kept


@pytest.mark.oldest
def test_a_session_that_was_left_inside_of_a_transaction_is_not_used_again(
    database: Database,
) -> None:
    with open_connections_kept():
        with pytest.raises(KeyboardInterrupt), database.storage.index_connection() as connection:
            connection.execute(sa.text("BEGIN"))
            connection.execute(sa.text("DELETE FROM event_logs"))
            left = database.sessions
            signal.raise_signal(signal.SIGINT)
        database.report("first")
        assert database.texts == ["first"]
        eventually(lambda: not set(database.sessions) & set(left))


@pytest.mark.oldest
def test_a_session_that_the_server_has_ended_is_not_used_again(database: Database) -> None:
    with open_connections_kept():
        for text in ("first", "second", "third"):
            database.report(text)
            database.end_sessions()
        assert database.texts == ["first", "second", "third"]


def test_a_session_that_is_not_used_for_a_while_ends(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_engines, "IDLE_SECONDS", 0.0)
    with open_connections_kept():
        for text in ("first", "second"):
            database.report(text)
            eventually(lambda: database.sessions == [])
        assert database.texts == ["first", "second"]


def test_a_forked_process_leaves_the_sessions_of_the_other_alone(database: Database) -> None:
    with open_connections_kept(), database.storage.index_connection() as used:
        database.report("first")
        pid = os.fork()
        if pid == 0:
            database.report("second")
            del used
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        assert used.execute(sa.text("SELECT count(*) FROM runs")).scalar() > 0
        database.report("third")
        assert database.texts == ["first", "second", "third"]


def test_an_engine_that_has_a_pool_of_its_own_is_left_alone(database: Database) -> None:
    """As that of the web server has."""
    with DagsterInstance.from_ref(database.instance.get_ref()) as another:
        storage = another.event_log_storage
        assert isinstance(storage, SqlEventLogStorage)
        storage.optimize_for_webserver(statement_timeout=12345, pool_recycle=-1, max_overflow=1)
        with open_connections_kept():
            database.report("first")  # by a session that is kept, without that limit
            with storage.index_connection() as connection:
                shown = connection.execute(sa.text("SHOW statement_timeout")).scalar()
    assert shown == "12345ms"


@pytest.mark.oldest
def test_events_are_followed_by_no_notification_that_nobody_hears(database: Database) -> None:
    with closing(psycopg2.connect(database.administrator.dsn, application_name=_OWN)) as listener:
        listener.autocommit = True
        listener.cursor().execute("LISTEN run_events")
        with open_connections_kept():
            database.report("first")
        database.report("second")  # as Dagster does it

        def heard() -> list[Any]:
            listener.poll()
            return list(listener.notifies)

        eventually(heard)
        assert database.texts == ["first", "second"]
        assert len(heard()) == 1


@pytest.mark.oldest
def test_a_run_is_created_executed_and_ended_on_one_session(database: Database) -> None:
    opened = set()

    def note(connection: Any, _record: object) -> None:
        opened.add(connection.info.backend_pid)

    def execute() -> bool:
        config = {"execution": {"config": {"broker": "memory://one-session"}}}
        executed = execute_job(
            reconstructable(two_steps), instance=database.instance, run_config=config
        )
        return executed.success

    assert execute()  # opens an instance for the steps
    sa.event.listen(sa.pool.Pool, "connect", note)
    try:
        assert execute()
    finally:
        sa.event.remove(sa.pool.Pool, "connect", note)
    assert len(opened) == 1


def test_a_server_that_has_no_session_left_is_waited_for(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    with limited_user(database) as url, closing(psycopg2.connect(url)) as only:
        opener = sa.create_engine(with_driver(url), poolclass=sa.pool.NullPool)
        with ThreadPoolExecutor(1) as threads, open_connections_kept():
            waits = threads.submit(seven, opener)
            eventually(lambda: "Trying again" in caplog.text)
            only.close()
            assert waits.result() == 7


@pytest.mark.oldest
def test_an_event_whose_write_is_cut_off_is_written_once(database: Database) -> None:
    with open_connections_kept(), ThreadPoolExecutor(1) as threads:
        with database.locked("event_logs"):
            written = threads.submit(database.report, "first")
        written.result()
    assert database.texts == ["first"]


@pytest.mark.oldest
def test_what_belongs_to_an_event_is_written_if_the_event_itself_was(database: Database) -> None:
    with open_connections_kept(), ThreadPoolExecutor(1) as threads:
        with database.locked("asset_keys"):
            made = AssetMaterialization("made")
            written = threads.submit(database.instance.report_runless_asset_event, made)
        written.result()
    assert database.count("event_logs", "asset_key = '[\"made\"]'") == 1
    assert database.count("asset_keys", "last_materialization IS NOT NULL") == 1
    assert database.instance.get_latest_materialization_event(AssetKey("made")) is not None


def test_a_read_that_is_cut_off_is_made_again(database: Database) -> None:
    database.report("first")
    with open_connections_kept(), ThreadPoolExecutor(1) as threads:
        with database.locked("event_logs"):
            read = threads.submit(database.instance.all_logs, database.run.run_id)
        assert [each.message for each in read.result()] == ["first"]


def test_outside_of_a_block_nothing_is_repeated(database: Database) -> None:
    with ThreadPoolExecutor(1) as threads:
        with database.locked("event_logs"):
            written = threads.submit(database.report, "first")
        assert isinstance(written.exception(), OperationalError)
    assert database.texts == []
