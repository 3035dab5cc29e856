"""Reading a run's events where rows become visible in another order than that of their ids."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from dagster import DagsterEvent, DagsterEventType, DagsterInstance
from dagster._core.events.log import EventLogEntry
from dagster._core.executor.step_delegating import StepDelegatingExecutor
from dagster._core.storage.event_log import (
    ConsolidatedSqliteEventLogStorage,
    EventLogStorage,
    InMemoryEventLogStorage,
    SqliteEventLogStorage,
)

from dagster_taskiq.dagster_internals.event_rows import EventRows, Row, rows_of
from dagster_taskiq.execution import late_rows
from dagster_taskiq.runs import event_tail
from dagster_taskiq.runs.event_tail import EventTail

RUN, OTHER = "a-run", "another-run"
START, AGAIN = DagsterEventType.STEP_START, DagsterEventType.STEP_RESTARTED


class Log:
    """One table for all runs, to which the test commits rows in any order."""

    def __init__(self, instance: DagsterInstance) -> None:
        self.instance = instance
        storage = instance.event_log_storage
        assert isinstance(storage, InMemoryEventLogStorage)
        self.storage = storage

    def commit(
        self,
        *ids: int,
        run_id: str = RUN,
        step: str = "step",
        kind: DagsterEventType = START,
    ) -> None:
        event = DagsterEvent(kind.value, "job", step_key=step)
        for row_id in ids:
            entry = EventLogEntry(
                None, 20, "", run_id, time.time(), step_key=step, dagster_event=event
            )
            insert = self.storage.prepare_insert_event(entry).values(id=row_id)
            with self.storage.run_connection(run_id) as connection:
                connection.execute(insert)


class ObservedRows(EventRows):
    """Notes which rows are asked for; a test can commit others meanwhile."""

    asked: list[str]
    meanwhile: Callable[[], None] | None

    def find(self, *args: object, **kwargs: object) -> list[Row]:
        self.asked.append("rows")
        if self.meanwhile is not None:
            self.meanwhile()
        return super().find(*args, **kwargs)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def in_memory() -> Iterator[DagsterInstance]:
    with DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def log(in_memory: DagsterInstance) -> Log:
    in_memory.event_log_storage.wipe()
    return Log(in_memory)


@pytest.fixture
def rows(log: Log, monkeypatch: pytest.MonkeyPatch) -> ObservedRows:
    """Have the log's ids looked at, as on a database server."""
    rows = ObservedRows(log.storage)
    rows.asked, rows.meanwhile = [], None
    monkeypatch.setattr(event_tail, "rows_of", lambda _: rows)
    return rows


@pytest.fixture
def tail(log: Log, rows: ObservedRows) -> EventTail:
    return EventTail(log.instance, RUN)


def ids(tail: EventTail, **arguments: object) -> list[int]:
    return [each.id for each in tail.read(**arguments)]  # type: ignore[arg-type]


def test_a_row_that_comes_after_later_ones_is_read_once(log: Log, tail: EventTail) -> None:
    log.commit(1, 2)
    assert ids(tail) == [1, 2]
    log.commit(4, 6)
    assert ids(tail) == [4, 6]
    assert tail.missing == {3, 5}
    log.commit(5)
    assert ids(tail) == [5]
    log.commit(3, 7)
    assert ids(tail) == [3, 7]
    assert (ids(tail), tail.missing) == ([], frozenset())


def test_what_becomes_visible_between_the_two_looks_comes_in_order(
    log: Log, rows: ObservedRows, tail: EventTail
) -> None:
    """An output whose row is committed just before that of its step's success."""
    log.commit(1)
    assert ids(tail) == [1]
    log.commit(3)
    assert (ids(tail), tail.missing) == ([3], {2})
    log.commit(7)

    def commit_more() -> None:
        rows.meanwhile = None
        log.commit(2, 5, 8)

    rows.meanwhile = commit_more
    assert ids(tail) == [2, 5, 7]
    assert ids(tail) == [8]
    assert tail.missing == {4, 6}


def test_rows_of_other_runs_are_looked_at_and_not_returned(log: Log, tail: EventTail) -> None:
    log.commit(1)
    log.commit(2, 4, run_id=OTHER)
    log.commit(6)
    assert (ids(tail), tail.missing) == ([1, 6], {3, 5})
    log.commit(5, run_id=OTHER)
    assert (ids(tail), tail.missing) == ([], {3})


def test_a_late_row_is_left_where_its_type_is_not_wanted(log: Log, tail: EventTail) -> None:
    log.commit(1)
    log.commit(3, kind=AGAIN)
    assert ids(tail, types={AGAIN}) == [3]
    log.commit(2)
    assert ids(tail, types={AGAIN}) == []


def test_nothing_is_asked_for_where_nothing_is_new_and_nothing_is_missing(
    log: Log, rows: ObservedRows, tail: EventTail
) -> None:
    log.commit(1, 2)
    assert ids(tail) == [1, 2]
    assert rows.asked == ["rows"]
    log.commit(3, 5, run_id=OTHER)
    assert ids(tail) == []
    assert rows.asked == ["rows"]


def test_what_is_missing_is_given_up_and_found_when_its_step_is_asked_for(
    log: Log, tail: EventTail, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(late_rows, "GAP_SECONDS", 0.0)
    log.commit(1, 4, step="other")
    assert (ids(tail), tail.missing) == ([1, 4], frozenset())
    log.commit(2, step="late")
    log.commit(3, step="other")
    log.commit(5, kind=AGAIN, step="late")
    assert ids(tail, steps=["late"]) == [2, 5]
    assert ids(tail, steps=["late"]) == []


def test_a_step_that_is_asked_for_shows_what_is_missing_above_its_last_row(
    log: Log, tail: EventTail
) -> None:
    log.commit(1)
    log.commit(3, run_id=OTHER)
    assert (ids(tail), tail.missing) == ([1], frozenset())
    assert (ids(tail, steps=["step"]), tail.missing) == ([], {2})
    log.commit(2)
    assert ids(tail) == [2]


def test_ids_that_were_skipped_by_the_million_cost_nothing(log: Log, tail: EventTail) -> None:
    log.commit(1, 10**12)
    assert ids(tail) == [1, 10**12]
    assert len(tail.missing) == late_rows.MOST_GAPS
    log.commit(10**12 - 1)
    assert ids(tail) == [10**12 - 1]


def test_only_so_many_rows_of_others_are_looked_at(
    log: Log, tail: EventTail, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(late_rows, "ROWS_LOOKED_AT", 3)
    log.commit(1)
    assert ids(tail) == [1]
    log.commit(3, 5, 7, 9, run_id=OTHER)
    log.commit(11)
    assert (ids(tail), tail.missing) == ([11], {6, 8, 10})


def test_many_late_rows_are_read(
    log: Log, tail: EventTail, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_tail, "EVENTS_AT_ONCE", 3)
    log.commit(1, 20)
    assert ids(tail) == [1, 20]
    late = [2, 3, 5, 8, 9, 10, 11, 15, 19]
    log.commit(*late)
    log.commit(4, 6, run_id=OTHER)
    assert ids(tail) == late
    assert tail.missing == {7, 12, 13, 14, 16, 17, 18}


def test_on_sqlite_ids_are_in_the_order_of_commits_and_nothing_more_is_asked(
    log: Log, tmp_path: Path
) -> None:
    assert rows_of(log.storage) is None
    assert rows_of(SqliteEventLogStorage(str(tmp_path))) is None
    assert rows_of(ConsolidatedSqliteEventLogStorage(str(tmp_path))) is None


def test_of_a_storage_that_is_none_of_dagsters_own_the_overlap_is_what_there_is(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Elsewhere(EventLogStorage):
        """Stands for one that has no table here."""

    Elsewhere.__abstractmethods__ = frozenset()
    assert rows_of(Elsewhere()) is None  # type: ignore[abstract]
    assert "(Elsewhere) is none of Dagster's own kind" in caplog.text


@pytest.mark.parametrize("offset", [None, "0", "3"])
def test_the_overlap_is_the_one_that_dagsters_own_executor_has(
    log: Log, monkeypatch: pytest.MonkeyPatch, offset: str | None
) -> None:
    if offset is not None:
        monkeypatch.setenv("DAGSTER_EXECUTOR_POP_EVENTS_OFFSET", offset)
    theirs = object.__new__(StepDelegatingExecutor)._get_pop_events_offset(log.instance)
    assert event_tail.overlap_of(log.storage) == theirs == int(offset or 0)


def test_an_overlap_finds_what_is_late_as_far_back_as_it_goes(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_EXECUTOR_POP_EVENTS_OFFSET", "3")
    tail = EventTail(log.instance, RUN)
    log.commit(1, 6)
    assert ids(tail) == [1, 6]
    log.commit(2, 4)
    assert ids(tail) == [4]
    assert ids(tail) == []
