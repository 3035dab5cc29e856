"""Connections to Dagster's SQLite files that stay open while steps or a run are executed."""

import multiprocessing
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest
import sqlalchemy as sa
from dagster import DagsterInstance, DagsterRun, execute_job, job, reconstructable
from dagster._core.storage import sqlite as dagster_sqlite
from dagster._core.storage.event_log import SqliteEventLogStorage
from dagster._core.storage.event_log.sqlite import sqlite_event_log
from dagster._core.storage.runs.sqlite import sqlite_run_storage

from compat_tests.conftest import StartWorker
from compat_tests.waiting import eventually
from compat_tests.worker import printing
from compat_tests.workers import executor_config
from dagster_taskiq.dagster_internals import sqlite_engines
from dagster_taskiq.dagster_internals.event_log_setup import mark_initialized
from dagster_taskiq.dagster_internals.kept_engines import KEPT, MOST_ENGINES
from dagster_taskiq.dagster_internals.storage_connections import open_connections_kept
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.transport.sql.sqlite.busy_wait import PatientConnection

#: What tells of open files.
OPEN_FILES = Path("/proc/self/fd")

needs_proc = pytest.mark.skipif(not OPEN_FILES.exists(), reason="only Linux tells of open files")


@job
def nothing() -> None:
    """Do nothing: it is not executed here."""


@pytest.fixture
def home(tmp_path: Path) -> Iterator[DagsterInstance]:
    with DagsterInstance.local_temp(str(tmp_path)) as instance:
        yield instance


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is closed because it is not used for a moment."""
    monkeypatch.setattr(sqlite_engines, "IDLE_SECONDS", 3600.0)


def begin(instance: DagsterInstance) -> tuple[DagsterRun, Path]:
    """Make a run, and return it with the file of its events, which has one."""
    run = instance.create_run_for_job(nothing)
    instance.report_engine_event("the first", run)
    storage = instance.event_log_storage
    assert isinstance(storage, SqliteEventLogStorage)
    return run, Path(storage.path_for_shard(run.run_id))


def opened(path: Path) -> int:
    """Return how often this process has a file open."""
    there = path.stat()
    count = 0
    for entry in OPEN_FILES.iterdir():
        try:
            found = entry.stat()
        except FileNotFoundError:
            continue
        count += (found.st_dev, found.st_ino) == (there.st_dev, there.st_ino)
    return count


def events_in(path: Path) -> int:
    with closing(sqlite3.connect(path)) as reader:
        return int(reader.execute("SELECT count(*) FROM event_logs").fetchone()[0])


@pytest.mark.oldest
@pytest.mark.parametrize("storage", [sqlite_event_log, sqlite_run_storage])
def test_engines_are_kept_inside_of_a_block_alone(storage: Any, tmp_path: Path) -> None:
    def make() -> sa.Engine:
        engine: sa.Engine = storage.create_engine(
            f"sqlite:///{tmp_path}/file.db", poolclass=sa.pool.NullPool
        )
        return engine

    with open_connections_kept(), open_connections_kept():
        kept = make()
        assert make() is kept
        kept.dispose()
        assert make() is kept
    assert isinstance(make().pool, sa.pool.NullPool)


@pytest.mark.oldest
@needs_proc
@pytest.mark.usefixtures("unhurried")
def test_a_file_stays_open_until_the_last_block_ends(home: DagsterInstance) -> None:
    run, path = begin(home)
    with open_connections_kept():
        with open_connections_kept():
            home.report_engine_event("the second", run)
            assert opened(path) == 1
        home.report_engine_event("the third", run)
        assert opened(path) == 1
        assert events_in(path) == len(home.all_logs(run.run_id)) == 3
    assert opened(path) == 0


@needs_proc
@pytest.mark.usefixtures("unhurried")
def test_only_so_many_files_stay_open(home: DagsterInstance) -> None:
    paths = []
    with open_connections_kept():
        for _ in range(MOST_ENGINES + 2):
            paths.append(begin(home)[1])
        still = [path for path in paths if opened(path)]
        # That of the runs is one of them.
        assert len(still) == MOST_ENGINES - 1
        assert still[-1] == paths[-1]


@needs_proc
def test_a_file_that_is_not_used_for_a_moment_is_closed_each_time(home: DagsterInstance) -> None:
    run, path = begin(home)
    with open_connections_kept():
        for _ in range(2):
            home.report_engine_event("another", run)
            eventually(lambda: opened(path) == 0)
    assert events_in(path) == 3


@needs_proc
def test_a_file_that_is_opened_again_after_a_fork_is_closed_as_well(home: DagsterInstance) -> None:
    run, path = begin(home)
    with open_connections_kept():
        home.report_engine_event("before", run)
        process = multiprocessing.get_context("fork").Process(target=os._exit, args=(0,))
        process.start()
        process.join()
        home.report_engine_event("after", run)
        eventually(lambda: opened(path) == 0)


@pytest.mark.oldest
@pytest.mark.usefixtures("unhurried")
def test_who_watches_a_run_sees_each_event_while_the_file_stays_open(
    home: DagsterInstance,
) -> None:
    run, path = begin(home)
    seen: list[str] = []
    home.watch_event_logs(run.run_id, None, lambda event, _: seen.append(event.message))
    with open_connections_kept():
        for number in range(3):
            home.report_engine_event(f"event {number}", run)
            eventually(lambda number=number: f"event {number}" in seen)
            # It is not there yet for a process that reads the file alone.
            assert path.with_name(f"{path.name}-wal").stat().st_size > 0
    home.event_log_storage.dispose()


@pytest.mark.oldest
def test_a_run_whose_file_another_process_is_setting_up_is_set_up_here_too(
    home: DagsterInstance,
) -> None:
    """As the process that launches a run does, if its first event is written after it was sent."""
    run = home.create_run_for_job(nothing)
    storage = home.event_log_storage
    assert isinstance(storage, SqliteEventLogStorage)
    path = Path(storage.path_for_shard(run.run_id))
    mark_initialized(home, run.run_id)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA user_version = 1")  # now it is there, and has no table
        mark_initialized(home, run.run_id)
        assert run.run_id not in storage._initialized_dbs

    home.report_engine_event("the first", run)
    assert events_in(path) == 1


@pytest.mark.oldest
def test_a_run_that_has_an_event_is_not_set_up_again(home: DagsterInstance) -> None:
    run, _ = begin(home)
    with DagsterInstance.from_ref(home.get_ref()) as another:
        storage = another.event_log_storage
        assert isinstance(storage, SqliteEventLogStorage)
        assert run.run_id not in storage._initialized_dbs
        mark_initialized(another, run.run_id)
        assert run.run_id in storage._initialized_dbs


def test_what_is_written_goes_to_the_file_that_is_there(home: DagsterInstance) -> None:
    run, path = begin(home)
    with open_connections_kept():
        home.report_engine_event("the second", run)
        home.event_log_storage.get_logs_for_run(run.run_id)
        with closing(sqlite3.connect(path)) as old:
            old.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        restored = path.with_suffix(".restored")
        shutil.copy(path, restored)
        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        restored.replace(path)
        home.report_engine_event("the third", run)
        assert events_in(path) == 3


def test_who_waits_for_a_lock_does_so_for_as_long_as_dagster_says(home: DagsterInstance) -> None:
    run, path = begin(home)
    with sqlite3.connect(path) as plain:
        (seconds,) = plain.execute("PRAGMA busy_timeout").fetchone()
    wanted = getattr(dagster_sqlite, "SQLITE_BUSY_TIMEOUT_SECONDS", seconds / 1000)
    with open_connections_kept():
        home.report_engine_event("the second", run)
        engines = [each.engine for each in KEPT._engines.values() if run.run_id in str(each.engine)]
        (connection,) = [each.raw_connection().driver_connection for each in engines]
        assert isinstance(connection, PatientConnection)
        assert connection.seconds == wanted


@needs_proc
@pytest.mark.usefixtures("unhurried")
def test_nothing_is_taken_along_into_a_forked_process(home: DagsterInstance) -> None:
    run, path = begin(home)
    reports = multiprocessing.get_context("fork").SimpleQueue()

    def forked() -> None:
        reports.put(opened(path))
        home.report_engine_event("of the forked process", run)
        reports.put(opened(path))
        os._exit(0)

    with open_connections_kept():
        home.report_engine_event("the second", run)
        assert opened(path) == 1
        process = multiprocessing.get_context("fork").Process(target=forked)
        process.start()
        assert reports.get() == 0
        assert reports.get() == 0, "nothing is kept if nothing closes it"
        process.join()
        home.report_engine_event("the last", run)
        assert len(home.all_logs(run.run_id)) == 4


@needs_proc
@pytest.mark.parametrize("broker_kind", ["embedded"], indirect=True)
def test_an_idle_child_keeps_no_file_of_a_run_open(
    settings: Settings, instance: DagsterInstance, start_worker: StartWorker
) -> None:
    worker = start_worker("-c", "1")
    config = {"execution": {"config": executor_config(settings)}}
    run = execute_job(reconstructable(printing.printing), instance, run_config=config).dagster_run
    storage = instance.event_log_storage
    assert isinstance(storage, SqliteEventLogStorage)
    path = storage.path_for_shard(run.run_id)

    def is_open() -> bool:
        children = psutil.Process(worker.pid).children(recursive=True)
        return any(path == file.path for each in children for file in each.open_files())

    eventually(lambda: not is_open())
