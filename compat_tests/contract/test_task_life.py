"""All that taskiq does with a task is done where the task is executed: in a child of the worker."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from compat_tests.checkout import ROOT
from compat_tests.conftest import StartWorker, make_settings
from compat_tests.life_errors import LOG_ENV, OutOfStockError
from compat_tests.sending import Sender, open_sender
from compat_tests.waiting import eventually
from compat_tests.workers import WorkerProcess, running_worker
from dagster_taskiq.client import Client, client_for
from dagster_taskiq.errors import ChildDiedError, MiddlewareError, TaskRevokedError, TimeLimitError
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.wire.records import TaskState

TASKS = "compat_tests.life_tasks"
ONCE = ["pre_execute", "post_execute", "post_save"]

pytestmark = pytest.mark.parametrize("broker_kind", ["embedded"], indirect=True)


class Log:
    """What middlewares, events and tasks have written."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def lines(self) -> list[list[str]]:
        text = self.path.read_text() if self.path.exists() else ""
        return [line.split() for line in text.splitlines()]

    def of(self, task_id: str) -> list[str]:
        """Return the hooks that were called for a task."""
        return [line[0] for line in self.lines() if line[1] == task_id]

    def words(self, first: str, count: int = 1) -> list[list[str]]:
        """Wait for so many lines that begin with a word."""
        eventually(lambda: self.number(first) >= count)
        return [line for line in self.lines() if line[0] == first]

    def number(self, first: str) -> int:
        """Return how many lines begin with a word now."""
        return sum(line[0] == first for line in self.lines())


@pytest.fixture(scope="module")
def shared(
    broker_kind: str, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[tuple[Settings, WorkerProcess, Log]]:
    """A worker with one slot."""
    directory = tmp_path_factory.mktemp("life")
    log = Log(directory / "life")
    settings = make_settings(broker_kind, directory, request).replace(lease=60.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(LOG_ENV, str(log.path))
        with running_worker(settings, directory, "-i", TASKS, "-c", "1") as worker:
            yield settings, worker, log


@pytest.fixture
def log(shared: tuple[Settings, WorkerProcess, Log]) -> Log:
    return shared[2]


@pytest.fixture
def client(shared: tuple[Settings, WorkerProcess, Log]) -> Client:
    return client_for(shared[0])


@pytest.fixture
def sender(shared: tuple[Settings, WorkerProcess, Log]) -> Iterator[Sender]:
    with open_sender(shared[0]) as sender:
        yield sender


def send(sender: Sender, name: str, *args: object, **labels: object) -> str:
    return sender.send(f"{TASKS}:{name}", *args, **labels)


def saved(log: Log, task_id: str) -> list[str]:
    """Wait for the last hook of a task, and return all that were called."""
    eventually(lambda: "post_save" in log.of(task_id))
    return log.of(task_id)


@pytest.mark.parametrize("name", ["plain", "in_a_loop"])
def test_each_hook_is_called_once_in_the_process_of_the_task(
    shared: tuple[Settings, WorkerProcess, Log], sender: Sender, log: Log, name: str
) -> None:
    task_id = send(sender, name, 1)
    assert sender.value(task_id) == 2
    assert saved(log, task_id) == ONCE
    lines = [line for line in log.lines() if line[1] == task_id]
    (pid,) = {line[-1] for line in lines}
    assert int(pid) != shared[1].pid
    assert "SUCCESS" in lines[-1], "the end is on record before the last hook"


def test_arguments_that_a_hook_has_changed_arrive(sender: Sender) -> None:
    assert sender.value(send(sender, "plain", 10, doubled=1)) == 21


def test_a_label_that_a_hook_keeps_for_itself_harms_nothing(sender: Sender) -> None:
    result = sender.result(send(sender, "plain", 1, timed=1))
    assert result.return_value == 2
    assert "timer" not in result.labels


def test_an_error_is_told_once_and_arrives_as_the_class_that_it_is(
    sender: Sender, log: Log
) -> None:
    task_id = send(sender, "fail_in_a_loop")
    error = sender.error(task_id)
    assert type(error) is OutOfStockError
    assert error.args == ("no", "apples")
    assert saved(log, task_id) == ["pre_execute", "on_error", "post_execute", "post_save"]


def test_a_hook_that_raises_before_a_task_fails_it(sender: Sender, log: Log) -> None:
    task_id = send(sender, "plain", 1, refused=1)
    error = sender.error(task_id)
    assert isinstance(error, MiddlewareError)
    assert "OutOfStockError: not this one" in str(error)


def test_start_up_handlers_have_run_where_a_task_finds_their_state(
    sender: Sender, log: Log
) -> None:
    assert sender.value(send(sender, "with_state", "apples")) == 3
    per_process = [line[-1] for line in log.words("filled")]
    assert len(set(per_process)) == len(per_process), "once in each process"


def test_the_hooks_learn_of_a_process_that_died_and_decide_nothing(
    sender: Sender, client: Client, log: Log
) -> None:
    task_id = send(sender, "be_killed", retry_on_error=True)
    assert isinstance(sender.error(task_id), ChildDiedError)
    assert saved(log, task_id) == ["pre_execute", "on_error", "post_execute", "post_save"]
    assert client.tasks([task_id])[task_id].state is TaskState.FAILURE
    assert client.depths() == []


@pytest.mark.parametrize("name", ["wait_in_a_loop", "wait_with_a_session"])
def test_a_cancelled_task_cleans_up_with_what_it_depends_on(
    sender: Sender, client: Client, log: Log, name: str
) -> None:
    before = {word: log.number(word) for word in ("waits", "finally", "closed")}
    task_id = send(sender, name, retry_on_error=True)
    log.words("waits", before["waits"] + 1)
    client.revoke([task_id], "not wanted any more")
    assert isinstance(sender.error(task_id), TaskRevokedError)
    log.words("finally", before["finally"] + 1)
    log.words("closed", before["closed"] + 1)
    assert client.depths() == []


def test_a_task_over_its_soft_limit_cleans_up_in_its_event_loop(sender: Sender, log: Log) -> None:
    begun, cleaned_up = log.number("waits"), log.number("finally")
    limit = 0.2
    while log.number("waits") == begun:  # on a busy machine, it is over before the task begins
        limit *= 2
        task_id = send(sender, "wait_in_a_loop", soft_time_limit=limit)
        assert isinstance(sender.error(task_id), TimeLimitError)
    log.words("finally", cleaned_up + 1)


def test_a_task_is_tried_again_until_it_is_good(sender: Sender, log: Log) -> None:
    task_id = send(sender, "good_at_the_third_try", retry_on_error=True)
    assert sender.value(task_id) == 2
    assert saved(log, task_id).count("pre_execute") == 3
    assert log.of(task_id).count("post_save") == 1


def test_a_task_that_is_never_good_fails_after_the_last_try(sender: Sender, log: Log) -> None:
    task_id = send(sender, "never_good", retry_on_error=True)
    assert isinstance(sender.error(task_id), OutOfStockError)
    assert saved(log, task_id).count("on_error") == 3


def test_a_task_that_requeues_itself_runs_again(sender: Sender, client: Client) -> None:
    task_id = send(sender, "come_again")
    assert sender.value(task_id) == "1"
    assert client.tasks([task_id])[task_id].attempt == 1


def test_a_task_that_has_no_result_waits_to_be_sent_again(
    sender: Sender, client: Client, log: Log
) -> None:
    task_id = send(sender, "say_nothing")
    eventually(lambda: "post_execute" in log.of(task_id))
    eventually(lambda: client.tasks([task_id])[task_id].attempt == 1)
    assert client.tasks([task_id])[task_id].state is TaskState.WAITING


@pytest.mark.parametrize("how", ["cancel all", "exit", "stop"])
def test_a_task_that_stops_its_event_loop_harms_no_later_one(
    sender: Sender, log: Log, how: str
) -> None:
    task_id = send(sender, "stop_the_loop", how)
    assert sender.value(task_id)
    assert saved(log, task_id) == ONCE
    assert [sender.value(send(sender, "in_a_loop", each)) for each in (1, 2)] == [2, 3]


def test_tasks_that_wait_for_each_other_need_no_second_slot(sender: Sender) -> None:
    assert sender.value(send(sender, "ask_another", 4)) == 4
    assert sender.value(send(sender, "ask_some", 5)) == [1, 2, 3, 4, 5]


def test_what_was_started_up_is_shut_down_with_its_process(
    settings: Settings, tmp_path: Path, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Log(tmp_path / "life")
    monkeypatch.setenv(LOG_ENV, str(log.path))
    worker = start_worker("-A", TASKS, "-c", "1")
    with open_sender(settings) as sender:
        task_id = send(sender, "with_state", "apples")
        assert sender.value(task_id) == 3
        assert saved(log, task_id) == ONCE
    worker.signal(15)
    assert worker.wait() == 0
    filled = log.words("filled")
    assert [line[-1] for line in log.words("emptied")] == [line[-1] for line in filled]
    assert len(log.words("shutdown")) == len(log.words("startup"))


def test_taskiqs_own_worker_command_does_the_same(
    settings: Settings, tmp_path: Path, dagster_home: Path
) -> None:
    log = Log(tmp_path / "life")
    settings = Settings(broker=settings.broker)
    with taskiq_worker(f"{TASKS}:broker", settings, dagster_home, log) as pid:
        with open_sender(settings) as sender:
            assert sender.value(send(sender, "with_state", "apples")) == 3
            task_id = send(sender, "good_at_the_third_try", retry_on_error=True)
            assert sender.value(task_id) == 2
            assert saved(log, task_id).count("pre_execute") == 3
        assert str(pid) not in {line[-1] for line in log.lines()}
    filled = {line[-1] for line in log.words("filled")}
    assert {line[-1] for line in log.words("emptied")} == filled


def test_a_broker_that_a_project_has_made_itself_has_its_tasks(
    settings: Settings, tmp_path: Path, dagster_home: Path
) -> None:
    log = Log(tmp_path / "life")
    settings = Settings(broker=settings.broker)
    made = "compat_tests.made_tasks"
    with taskiq_worker(f"{made}:broker", settings, dagster_home, log), open_sender(settings) as to:
        assert to.value(to.send(f"{made}:count", 4)) == 7


@contextmanager
def taskiq_worker(broker: str, settings: Settings, home: Path, log: Log) -> Iterator[int]:
    """Start ``taskiq worker`` with one slot, and end it; yield its process id."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "DAGSTER_HOME": str(home),
        "DAGSTER_TASKIQ_BROKER": settings.broker,
        "DAGSTER_TASKIQ_CONCURRENCY": "1",
        LOG_ENV: str(log.path),
    }
    command = [sys.executable, "-m", "taskiq", "worker", "--workers", "1", broker]
    process = subprocess.Popen(command, cwd=ROOT, env=environment)
    try:
        yield process.pid
    finally:
        tree = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        process.wait(60)
        psutil.wait_procs(tree, 60)
