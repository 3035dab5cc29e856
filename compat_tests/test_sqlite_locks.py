"""Waiting for a lock on a SQLite file that another process has."""

import sqlite3
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from dagster_taskiq.transport.sql.sqlite import busy_wait
from dagster_taskiq.transport.sql.sqlite.busy_wait import PatientConnection

#: Longer than any test, in seconds.
FOR_EVER = 600.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "some.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE numbers (number INTEGER)")
    return path


def connect(path: Path, timeout: float = FOR_EVER) -> PatientConnection:
    return sqlite3.connect(
        path, timeout=timeout, factory=PatientConnection, check_same_thread=False
    )


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the write lock."""
    with closing(sqlite3.connect(path, isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        yield
        holder.execute("COMMIT")


def numbers(path: Path) -> list[int]:
    with closing(sqlite3.connect(path)) as connection:
        return [row[0] for row in connection.execute("SELECT number FROM numbers ORDER BY number")]


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> "list[float]":
    """Note how long each pause is."""
    noted: list[float] = []
    sleep = busy_wait.time.sleep

    def noting(seconds: float) -> None:
        noted.append(seconds)
        sleep(seconds)

    monkeypatch.setattr(busy_wait.time, "sleep", noting)
    return noted


@pytest.mark.parametrize(
    "write",
    [
        lambda each: each.execute("INSERT INTO numbers VALUES (1)"),
        lambda each: each.cursor().execute("INSERT INTO numbers VALUES (1)"),
        lambda each: each.executemany("INSERT INTO numbers VALUES (?)", [(1,)]),
        lambda each: each.executescript("INSERT INTO numbers VALUES (1);"),
    ],
    ids=["connection", "cursor", "many", "script"],
)
def test_a_statement_waits_for_the_lock_in_short_pauses(
    write: "busy_wait.Callable[[PatientConnection], object]", path: Path, pauses: list[float]
) -> None:
    with closing(connect(path)) as connection, ThreadPoolExecutor(1) as pool:
        with locked(path):
            writing = pool.submit(write, connection)
            while len(pauses) < 50:
                assert not writing.done()
        writing.result()
        connection.commit()
    assert numbers(path) == [1]
    assert max(pauses) <= busy_wait.PAUSE_SECONDS[1]


def test_a_commit_waits_for_those_who_still_read(path: Path, pauses: list[float]) -> None:
    with closing(connect(path)) as connection:
        # Without the log of WAL mode, a writer waits for readers as it commits.
        connection.execute("PRAGMA journal_mode=DELETE")
        connection.execute("INSERT INTO numbers VALUES (0)")
        connection.commit()
        with closing(sqlite3.connect(path)) as reader, ThreadPoolExecutor(1) as pool:
            reading = reader.execute("SELECT number FROM numbers UNION ALL SELECT 1")
            reading.fetchone()
            connection.execute("INSERT INTO numbers VALUES (1)")
            committing = pool.submit(connection.commit)
            while len(pauses) < 5:
                assert not committing.done()
            reading.close()
            committing.result()
    assert numbers(path) == [0, 1]


def test_who_waits_in_vain_is_told_by_sqlite_itself(path: Path) -> None:
    with (
        closing(connect(path, timeout=0.05)) as connection,
        locked(path),
        pytest.raises(sqlite3.OperationalError, match="database is locked"),
    ):
        connection.execute("INSERT INTO numbers VALUES (1)")


@pytest.mark.skipif(sys.version_info < (3, 11), reason="the driver does not say which error it is")
def test_a_transaction_that_no_waiting_mends_fails_at_once(path: Path, pauses: list[float]) -> None:
    with closing(connect(path)) as connection, closing(sqlite3.connect(path)) as other:
        connection.execute("BEGIN")
        connection.execute("SELECT * FROM numbers").fetchall()
        other.execute("INSERT INTO numbers VALUES (1)")
        other.commit()
        with pytest.raises(sqlite3.OperationalError):
            connection.execute("INSERT INTO numbers VALUES (2)")
    assert not pauses


def test_a_mistake_is_told_at_once(path: Path, pauses: list[float]) -> None:
    with closing(connect(path)) as connection:
        with pytest.raises(sqlite3.OperationalError, match="no such table"):
            connection.execute("INSERT INTO letters VALUES ('a')")
        with pytest.raises(sqlite3.ProgrammingError):
            connection.execute("INSERT INTO numbers VALUES (?)")
    assert not pauses


def test_many_who_write_at_once_lose_nothing(path: Path) -> None:
    barrier = threading.Barrier(4)

    def write(first: int) -> None:
        with closing(connect(path)) as connection:
            barrier.wait()
            for number in range(first, first + 100):
                connection.execute("INSERT INTO numbers VALUES (?)", (number,))
                connection.commit()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(0, 400, 100)))
    assert numbers(path) == list(range(400))
