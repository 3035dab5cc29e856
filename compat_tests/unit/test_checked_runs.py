"""What is read of launched runs and their workers to check one after the other."""

from collections.abc import Sequence

import pytest

from dagster_taskiq.runs.checked_runs import AHEAD_SECONDS, TURN_SECONDS, CheckedRuns
from dagster_taskiq.wire.records import Task, TaskState, Worker

LEASE = 30.0


class FakeRecords:
    """Records of tasks and one worker, and the questions that were asked."""

    def __init__(self) -> None:
        self.known = {name: Task(name, state=TaskState.STARTED, worker="w") for name in "abc"}
        self.age = 0.0
        self.asked: list[list[str]] = []
        self.looks = 0

    def tasks(self, task_ids: Sequence[str]) -> dict[str, Task]:
        self.asked.append(list(task_ids))
        return {each: self.known[each] for each in task_ids if each in self.known}

    def workers(self) -> list[Worker]:
        self.looks += 1
        return [Worker("w", "w", "host", 1, ("q",), 1, "", LEASE, age=self.age)]


class Daemon:
    """Checks runs in passes."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.records = FakeRecords()
        self.runs = CheckedRuns(lambda: self.now)

    def check(self, *task_ids: str) -> list[Task | None]:
        return [self.runs.task(self.records, each) for each in task_ids]

    def asked(self) -> list[list[str]]:
        asked, self.records.asked = self.records.asked, []
        return asked


@pytest.fixture
def daemon() -> Daemon:
    daemon = Daemon()
    daemon.check("a", "b", "c")
    assert daemon.asked() == [["a"], ["b"], ["c"]]
    daemon.now += 2 * TURN_SECONDS
    return daemon


def test_the_first_check_of_a_pass_asks_for_all_runs(daemon: Daemon) -> None:
    assert daemon.check("a", "b", "c") == [daemon.records.known[each] for each in "abc"]
    assert daemon.asked() == [["a", "b", "c"]]


def test_a_run_that_is_checked_twice_is_read_twice(daemon: Daemon) -> None:
    daemon.check("a", "b", "b", "a")
    assert daemon.asked() == [["a", "b", "c"], ["b"], ["a"]]


def test_a_record_that_was_read_ahead_is_used_for_a_moment_only(daemon: Daemon) -> None:
    daemon.check("a")
    daemon.now += 2 * AHEAD_SECONDS
    daemon.check("b")
    assert daemon.asked() == [["a", "b", "c"], ["b"]]


def test_an_end_or_a_missing_record_is_never_read_ahead(daemon: Daemon) -> None:
    daemon.records.known["b"] = Task("b", state=TaskState.FAILURE)
    del daemon.records.known["c"]
    assert daemon.check("a", "b", "c")[1:] == [daemon.records.known["b"], None]
    assert daemon.asked() == [["a", "b", "c"], ["b", "c"], ["c"]]


def test_a_run_that_is_not_checked_any_more_is_not_read_any_more(daemon: Daemon) -> None:
    for _ in range(3):
        daemon.check("a", "b")
        daemon.now += 2 * TURN_SECONDS
    assert daemon.asked() == [["a", "b", "c"], ["a", "b"], ["a", "b"]]


def test_a_run_that_has_ended_is_not_read_ahead(daemon: Daemon) -> None:
    daemon.records.known["b"] = Task("b", state=TaskState.SUCCESS)
    daemon.check("b", "a", "c")
    daemon.now += 2 * TURN_SECONDS
    daemon.check("a", "c")
    assert daemon.asked() == [["b", "a", "c"], ["a", "c"]]


def test_a_worker_is_alive_until_the_lease_of_its_heartbeat_ends(daemon: Daemon) -> None:
    daemon.records.age = 10.0
    assert not daemon.runs.is_alive("w")
    assert daemon.runs.worker(daemon.records, "w") is not None
    daemon.now += LEASE - daemon.records.age
    assert daemon.runs.is_alive("w")
    daemon.now += 0.1
    assert not daemon.runs.is_alive("w")
    assert daemon.records.looks == 1


def test_a_worker_that_is_lost_or_gone_is_not_alive(daemon: Daemon) -> None:
    daemon.records.age = LEASE + 1
    lost = daemon.runs.worker(daemon.records, "w")
    assert lost is not None and lost.is_lost
    assert not daemon.runs.is_alive("w")
    assert daemon.runs.worker(daemon.records, "gone") is None
    assert not daemon.runs.is_alive("gone")
