"""What a worker promises, tried on real ones: processes started by the command line.

What concerns only a worker and its children is tried on one broker, the rest on each.
"""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil
import pytest
import redis
from taskiq import TaskiqMessage
from taskiq.exceptions import SendTaskError

from compat_tests.brokers import BROKERS, SQS, SQS_POSTGRESQL, Limit, has_limit
from compat_tests.checkout import ROOT
from compat_tests.conftest import StartWorker, forget_on_rabbitmq, make_settings
from compat_tests.sending import USER_TASKS, Sender, open_sender
from compat_tests.servers import RedisServer, new_database, own_redis, redis_binary
from compat_tests.sqs_servers import REGION, own_sqs
from compat_tests.waiting import eventually
from compat_tests.workers import WorkerProcess, freeze, running_worker
from dagster_taskiq.client import Client, client_for
from dagster_taskiq.errors import (
    ChildDiedError,
    ServerUnavailableError,
    TaskRevokedError,
    TimeLimitError,
    UnknownTaskError,
    WorkerLostError,
)
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.wire.commands import Command, command
from dagster_taskiq.wire.notifications import FLEET_CHANNEL, FROM_START, run_channel
from dagster_taskiq.wire.records import Task, TaskState, Worker
from dagster_taskiq.wire.task_counts import EndedTask, Outcome
from dagster_taskiq.wire.task_request import TaskRequest

INCLUDE = ("-i", USER_TASKS)

#: For tests of a worker and its children, which no broker has a part in.
one_broker = pytest.mark.parametrize("broker_kind", ["embedded"], indirect=True)


class Place:
    """Files through which a test and its tasks tell each other things."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def path(self, name: str) -> str:
        return str(self.directory / name)

    def lines(self, name: str) -> list[str]:
        path = self.directory / name
        return path.read_text().splitlines() if path.exists() else []

    def said(self, name: str, count: int = 1) -> list[str]:
        """Wait for so many lines of a file."""
        return eventually(lambda: found if len(found := self.lines(name)) >= count else None) or []

    def pid(self, name: str) -> int:
        """Wait for the process id that a task writes when it has started."""
        return int(self.said(name)[0])

    def write(self, name: str) -> None:
        (self.directory / name).touch()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    directory = tmp_path / "place"
    directory.mkdir()
    return Place(directory)


@pytest.fixture(scope="module")
def shared(
    broker_kind: str, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[tuple[Settings, WorkerProcess]]:
    """A worker with two slots that tests share, so they leave it as it was."""
    directory = tmp_path_factory.mktemp(f"shared-{broker_kind}")
    settings = make_settings(broker_kind, directory, request).replace(lease=60.0)
    with running_worker(settings, directory, *INCLUDE, "-c", "2", "--kill-grace", "1") as worker:
        yield settings, worker


@pytest.fixture
def sender(shared: tuple[Settings, WorkerProcess]) -> Iterator[Sender]:
    with open_sender(shared[0]) as sender:
        yield sender


@pytest.fixture
def client(shared: tuple[Settings, WorkerProcess]) -> Client:
    return client_for(shared[0])


@pytest.fixture
def own_sender(settings: Settings) -> Iterator[Sender]:
    """Sends to the workers that the test itself starts."""
    with open_sender(settings) as sender:
        yield sender


def is_gone(pid: int) -> bool:
    """Whether a process has ended; a zombie has, and waits for its parent only."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def task(client: Client, task_id: str) -> Task | None:
    return client.tasks([task_id]).get(task_id)


def ends_as(client: Client, task_id: str, state: TaskState) -> Task:
    """Wait until a task has ended, and see that it ended so."""

    def ended() -> Task | None:
        known = task(client, task_id)
        return known if known and known.state.is_final else None

    known = eventually(ended)
    assert known is not None
    assert known.state is state, known
    return known


def waiting(client: Client) -> tuple[int, int]:
    """Return how many messages wait, and how many are claimed and have not started.

    RabbitMQ does not tell the second; what is claimed is missing from the first there as well.
    """
    depths = client.depths()
    return sum(each.waiting for each in depths), sum(each.claimed or 0 for each in depths)


# -- a user's own tasks ----------------------------------------------------------------------


def test_a_users_functions_run_sync_async_and_with_dependencies(sender: Sender) -> None:
    assert sender.value(sender.send("add", 1, 2)) == 3
    assert sender.value(sender.send("add_async", 3, 4)) == 7
    task_id = sender.send("multiply", 5)
    assert sender.value(task_id) == [15, task_id]


def test_a_users_function_may_run_an_event_loop_of_its_own(sender: Sender) -> None:
    assert sender.value(sender.send("run_a_loop_of_its_own")) == 3


def test_ten_megabytes_go_to_a_task_and_come_back(sender: Sender) -> None:
    text = "ü" * 5_000_000
    if has_limit(sender.broker.settings, Limit.SIZE):
        with pytest.raises(SendTaskError) as refused:
            sender.send("echo", text)
        assert "bytes, more than the queue" in str(refused.value.__cause__)
        text = "ü" * 100_000
    assert sender.value(sender.send("echo", text)) == text


def test_what_a_task_raises_is_raised_where_its_result_is_read(sender: Sender) -> None:
    error = sender.error(sender.send("fail", "nothing under that name"))
    assert isinstance(error, LookupError)
    assert error.args == ("nothing under that name",)


def test_wrong_arguments_are_an_error_of_the_task(sender: Sender) -> None:
    assert isinstance(sender.error(sender.send("add", 1)), TypeError)


def test_a_value_that_is_not_json_is_an_error_that_says_so(sender: Sender) -> None:
    error = sender.error(sender.send("return_an_object"))
    assert "The task's return value is not JSON" in str(error)


def test_a_task_that_the_worker_does_not_have_is_an_error_that_says_what_to_do(
    sender: Sender,
) -> None:
    error = sender.error(sender.send("elsewhere:gone"))
    assert isinstance(error, UnknownTaskError)
    assert "no task named 'elsewhere:gone'" in str(error)
    assert "--include" in str(error)
    assert f"{USER_TASKS}:add" in str(error)


def test_a_task_may_send_another(sender: Sender) -> None:
    second = sender.value(sender.send("send_another", 20, 22))
    assert sender.value(second) == 42


def test_a_message_that_is_delivered_twice_runs_once(
    sender: Sender, client: Client, place: Place
) -> None:
    notes, name = place.path("notes"), f"{USER_TASKS}:note"
    plain = TaskiqMessage(task_id="twin", task_name=name, labels={}, args=[notes], kwargs={})
    message = sender.broker.formatter.dumps(plain)
    for _ in range(3):  # at once: there are two slots
        sender.put(message)
    sender.value("twin")
    sender.put(message)  # and again, long after it has ended
    eventually(lambda: waiting(client) == (0, 0))
    # Both slots have taken something else since: nothing of it is still on its way.
    for _ in range(4):
        sender.value(sender.send("add", 1, 1))
    assert len(place.lines("notes")) == 1


# -- children --------------------------------------------------------------------------------


@one_broker
@pytest.mark.parametrize(
    ("name", "argument", "said"),
    [
        ("be_killed", int(signal.SIGKILL), "was killed by SIGKILL (signal 9"),
        ("be_killed", int(signal.SIGSEGV), "was killed by SIGSEGV (signal 11)"),
        ("leave", 7, "ended with exit code 7"),
        ("leave", 0, "ended with exit code 0"),
    ],
)
def test_a_child_that_dies_fails_its_task_with_the_cause_and_nothing_else(
    sender: Sender, client: Client, place: Place, name: str, argument: int, said: str
) -> None:
    beside = sender.send("hold", place.path("started"), place.path("go"))
    place.pid("started")
    dying = sender.send(name, argument)
    error = sender.error(dying)
    assert isinstance(error, ChildDiedError)
    assert said in str(error)
    assert said in ends_as(client, dying, TaskState.FAILURE).error
    # The other slot goes on, and the one whose child died takes work again.
    assert sender.value(sender.send("add", 2, 2)) == 4
    place.write("go")
    assert sender.value(beside) == "held"


@one_broker
def test_a_child_that_dies_is_noticed_although_a_process_of_its_own_outlives_it(
    sender: Sender, place: Place
) -> None:
    error = sender.error(sender.send("fork_and_leave", place.path("started"), 9))
    assert "ended with exit code 9" in str(error)
    eventually(lambda: is_gone(place.pid("started")))


def test_a_revoked_task_is_stopped_and_may_clean_up(
    sender: Sender, client: Client, place: Place
) -> None:
    task_id = sender.send("hold", place.path("started"), place.path("never"), place.path("ended"))
    place.pid("started")
    client.revoke([task_id], "nobody wants it")
    error = sender.error(task_id)
    assert isinstance(error, TaskRevokedError)
    assert "nobody wants it" in str(error)
    assert place.lines("ended") == ["ended"]
    ends_as(client, task_id, TaskState.REVOKED)


def test_a_task_is_stopped_with_the_reason_if_its_notification_is_lost(
    sender: Sender, client: Client, place: Place
) -> None:
    task_id = sender.send("hold", place.path("started"), place.path("never"), place.path("ended"))
    place.pid("started")
    client._call(lambda: client.backend.revoke([task_id], "nobody wants it"))
    assert "nobody wants it" in str(sender.error(task_id))


def test_a_watched_worker_reports_at_once_how_tasks_have_ended(
    shared: tuple[Settings, WorkerProcess], sender: Sender, client: Client, place: Place
) -> None:
    def the_worker() -> Worker:
        return next(each for each in client.workers() if each.name == shared[1].name)

    worker = the_worker()
    client.send_command(worker.id, command(Command.WATCH, seconds=60))
    held = sender.send("hold", place.path("started"), place.path("never"))
    sent = {
        sender.send("add", 1, 2): (Outcome.SUCCEEDED, ""),
        sender.send("add_async", 1, 2): (Outcome.SUCCEEDED, ""),
        sender.send("fail", "no\nway"): (Outcome.FAILED, "no"),
        sender.send("leave", 7): (Outcome.LOST, "ended with exit code 7"),
        held: (Outcome.REVOKED, "nobody wants it"),
    }
    place.pid("started")
    client.revoke([held], "nobody wants it")

    def all_ended() -> dict[str, EndedTask]:
        ended = {each.id: each for each in the_worker().ended}
        return ended if sent.keys() <= ended.keys() else {}

    ended = eventually(all_ended)
    for task_id, (outcome, why) in sent.items():
        task = ended[task_id]
        assert (task.outcome, task.queue, task.job) == (outcome, shared[0].queue, ""), task
        assert why in task.error
        assert task.started_at <= task.ended_at
    found = the_worker()
    assert found.memory > 0
    (counts,) = [each for each in found.counts or () if each.name == f"{USER_TASKS}:add"]
    assert counts.queue == shared[0].queue
    assert counts.started == counts.run.count == sum(counts.ended.values())
    assert counts.ended[Outcome.SUCCEEDED] > 0
    assert 0 < counts.wait.count <= counts.started  # a message of another formatter has no time


@one_broker
def test_the_last_record_of_a_worker_that_ends_is_left_for_monitors(
    start_worker: StartWorker, settings: Settings, own_sender: Sender
) -> None:
    worker = start_worker(*INCLUDE, "-c", "1")
    assert own_sender.value(own_sender.send("add", 1, 2)) == 3
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    (left,) = client_for(settings).wait(FLEET_CHANNEL, FROM_START, 0, lambda: False)
    last = Worker.loads(left.body["ended"], 0.0)
    assert last.name == worker.name
    assert [each.ended for each in last.counts or ()] == [{Outcome.SUCCEEDED: 1}]
    assert list(last.ended) == []  # nobody watched


@one_broker
def test_a_worker_that_a_script_started_in_the_background_stops_tasks_gently(
    start_worker: StartWorker, settings: Settings, own_sender: Sender, place: Place
) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as `worker start &` in a script
    try:
        start_worker(*INCLUDE, "-c", "1")
    finally:
        signal.signal(signal.SIGINT, before)
    never, ended = place.path("never"), place.path("ended")
    task_id = own_sender.send("hold", place.path("started"), never, ended)
    place.pid("started")
    client_for(settings).revoke([task_id], "nobody wants it")
    assert isinstance(own_sender.error(task_id), TaskRevokedError)
    assert place.lines("ended") == ["ended"]


@one_broker
def test_a_revoked_task_that_does_not_listen_is_killed_after_the_grace_period(
    sender: Sender, client: Client, place: Place
) -> None:
    never, ended = place.path("never"), place.path("ended")
    task_id = sender.send("hold", place.path("started"), never, ended, True)
    pid = place.pid("started")
    client.revoke([task_id], "nobody wants it")
    ends_as(client, task_id, TaskState.REVOKED)
    assert is_gone(pid)
    assert place.lines("ended") == []


@one_broker
def test_what_a_task_started_dies_with_it(sender: Sender, client: Client, place: Place) -> None:
    task_id = sender.send("start_a_process", place.path("started"), place.path("never"))
    pid = place.pid("started")
    assert not is_gone(pid)
    client.revoke([task_id], "enough")
    ends_as(client, task_id, TaskState.REVOKED)
    eventually(lambda: is_gone(pid))


def test_a_revoked_task_that_waits_never_runs(sender: Sender, client: Client, place: Place) -> None:
    go = place.path("go")
    holds = [sender.send("hold", place.path("started"), go) for _ in range(2)]
    place.said("started", 2)
    waits = sender.send("note", place.path("notes"))
    client.revoke([waits], "no longer wanted")
    ends_as(client, waits, TaskState.REVOKED)
    if not has_limit(client.settings, Limit.DISCARD):
        # A task may run before the message that it came with is deleted.
        eventually(lambda: waiting(client) == (0, 0), "no message is left")
    place.write("go")
    assert [sender.value(each) for each in holds] == ["held", "held"]
    assert isinstance(sender.error(waits), TaskRevokedError)
    sender.value(sender.send("note", place.path("after")))
    eventually(lambda: waiting(client) == (0, 0), "no message is left")
    assert place.lines("notes") == []


@one_broker
def test_a_task_over_its_timeout_is_stopped(sender: Sender, place: Place) -> None:
    # taskiq's own label, which without a process around the task "does not work well" there.
    never = place.path("never")
    task_id = sender.send("hold", place.path("started"), never, "", True, timeout=0.5)
    assert isinstance(sender.error(task_id), TimeoutError)
    eventually(lambda: is_gone(place.pid("started")))


@one_broker
@pytest.mark.parametrize("timeout", [-1, 0, 0.001, 0.05])
def test_a_timeout_that_no_task_can_keep_costs_no_slot(sender: Sender, timeout: float) -> None:
    sent = [sender.send(name, 1, 2, timeout=timeout) for name in ("add", "add_async") * 3]
    for each in sent:
        result = sender.result(each)
        assert result.error is None or isinstance(result.error, TimeoutError)
    assert [sender.value(sender.send("add", each, 1)) for each in range(3)] == [1, 2, 3]


@one_broker
def test_a_timeout_that_is_no_number_fails_the_task(sender: Sender) -> None:
    error = sender.error(sender.send("add", 1, 2, timeout="soon"))
    assert "must be a number of seconds" in str(error)


@one_broker
def test_text_that_is_no_unicode_arrives_and_comes_back(sender: Sender) -> None:
    name = os.fsdecode(b"caf\xe9")
    assert sender.value(sender.send("echo", name, weird=name)) == name
    assert name in str(sender.error(sender.send("fail", name)))


@one_broker
def test_a_child_is_replaced_after_so_many_tasks(
    start_worker: StartWorker, own_sender: Sender, place: Place
) -> None:
    start_worker(*INCLUDE, "-c", "1", "--max-tasks-per-child", "2")
    notes = place.path("notes")
    pids = [own_sender.value(own_sender.send("note", notes)) for _ in range(5)]
    assert pids[0] == pids[1] != pids[2] == pids[3] != pids[4]
    eventually(lambda: is_gone(pids[0]))


@one_broker
def test_a_child_that_has_grown_too_large_is_replaced(
    start_worker: StartWorker, own_sender: Sender, place: Place
) -> None:
    start_worker(*INCLUDE, "-c", "1", "--max-memory-per-child", str(500 * 1024))
    pids = [own_sender.value(own_sender.send("note", place.path("notes"))) for _ in range(2)]
    assert pids[0] == pids[1]
    assert own_sender.value(own_sender.send("grow", 450)) == pids[0]
    assert own_sender.value(own_sender.send("note", place.path("notes"))) != pids[0]
    eventually(lambda: is_gone(pids[0]))


@one_broker
def test_a_child_may_take_longer_than_the_lease_to_import_the_users_code(
    start_worker: StartWorker, own_sender: Sender, place: Place
) -> None:
    slow = ("-i", "compat_tests.slow_module", "-c", "1", "--max-tasks-per-child", "1")
    start_worker(*INCLUDE, *slow, lease=2.0, heartbeat_interval=0.25)
    pids = {own_sender.value(own_sender.send("note", place.path("notes"))) for _ in range(2)}
    assert len(pids) == 2


# -- time limits -----------------------------------------------------------------------------

on_file_and_server = pytest.mark.parametrize("broker_kind", ["embedded", "redis"], indirect=True)


@on_file_and_server
def test_a_task_over_its_time_limit_is_killed_and_fails_and_no_other_notices(
    sender: Sender, client: Client, place: Place
) -> None:
    beside = sender.send("hold", place.path("beside"), place.path("go"))
    beside_pid = place.pid("beside")
    never, ended = place.path("never"), place.path("ended")
    task_id = sender.send("hold", place.path("started"), never, ended, time_limit=0.5)
    error = sender.error(task_id)
    assert isinstance(error, TimeLimitError)
    assert str(error) == "It exceeded its time limit of 0.5 s."
    assert ends_as(client, task_id, TaskState.FAILURE).error == str(error)
    eventually(lambda: is_gone(place.pid("started")))
    assert place.lines("ended") == []
    # The other slot goes on, and this one takes work again.
    assert sender.value(sender.send("add", 2, 2)) == 4
    assert not is_gone(beside_pid)
    place.write("go")
    assert sender.value(beside) == "held"


@on_file_and_server
def test_a_task_over_its_soft_time_limit_may_clean_up_and_fails(
    sender: Sender, client: Client, place: Place
) -> None:
    never, ended = place.path("never"), place.path("ended")
    task_id = sender.send("hold", place.path("started"), never, ended, soft_time_limit=0.5)
    error = sender.error(task_id)
    assert isinstance(error, TimeLimitError)
    assert str(error) == "It exceeded its soft time limit of 0.5 s."
    assert ends_as(client, task_id, TaskState.FAILURE).error == str(error)
    assert place.lines("ended") == ["ended"]


@one_broker
@pytest.mark.parametrize("limits", [{}, {"time_limit": 0.6}], ids=["grace", "time limit"])
def test_a_task_that_does_not_listen_at_its_soft_limit_is_killed_after_it(
    sender: Sender, place: Place, limits: dict[str, float]
) -> None:
    deaf = ("hold", place.path("started"), place.path("never"), "", True)
    error = sender.error(sender.send(*deaf, soft_time_limit=0.3, **limits))
    name = "time limit of 0.6 s" if limits else "soft time limit of 0.3 s"
    assert str(error) == f"It exceeded its {name}."
    eventually(lambda: is_gone(place.pid("started")))


@one_broker
def test_the_worker_has_limits_for_tasks_that_say_nothing_of_their_own(
    start_worker: StartWorker, own_sender: Sender, place: Place
) -> None:
    start_worker(*INCLUDE, "-c", "2", "--time-limit", "0.5", "--soft-time-limit", "60")
    held = own_sender.send("hold", place.path("held"), place.path("go"), time_limit=600)
    error = own_sender.error(own_sender.send("hold", place.path("started"), place.path("never")))
    assert str(error) == "It exceeded its time limit of 0.5 s."
    # A child that is warm has all its time again for the next task.
    assert [own_sender.value(own_sender.send("add", 1, 1)) for _ in range(3)] == [2, 2, 2]
    place.write("go")
    assert own_sender.value(held) == "held"


@one_broker
def test_a_limit_that_is_no_number_and_came_past_that_fails_its_task(sender: Sender) -> None:
    name, labels = f"{USER_TASKS}:add", {"time_limit": "soon"}
    plain = TaskiqMessage(task_id="odd", task_name=name, labels=labels, args=[1, 1], kwargs={})
    message = sender.broker.formatter.dumps(plain)
    sender.call(sender.broker.put, "odd", "dagster", 0, message.message)
    assert "must be a number of seconds" in str(sender.error("odd"))
    assert sender.value(sender.send("add", 1, 1)) == 2


# -- expiry ----------------------------------------------------------------------------------


def test_a_task_that_has_expired_is_not_started_and_ends_as_revoked(
    sender: Sender, client: Client, place: Place
) -> None:
    holds = [sender.send("hold", place.path("started"), place.path("go")) for _ in range(2)]
    place.said("started", 2)
    expires_at = time.time() + 0.2
    by_label = sender.send("note", place.path("notes"), expires_at=expires_at)
    notes = {"path": place.path("notes")}
    name, id_ = f"{USER_TASKS}:note", "ordered"
    of_a_step = {"run_id": "run", "step_key": "step"}
    client.submit(TaskRequest(id_, name, notes, "dagster", expires_at=expires_at, **of_a_step))
    in_time = sender.send("note", place.path("in-time"), expires_at=time.time() + 3600)
    eventually(lambda: time.time() > expires_at)
    place.write("go")
    assert [sender.value(each) for each in holds] == ["held", "held"]
    for task_id in (by_label, id_):
        ended = ends_as(client, task_id, TaskState.REVOKED)
        assert ended.error == "It expired before it started."
        assert isinstance(sender.error(task_id), TaskRevokedError)
    assert sender.value(in_time) == int(place.lines("in-time")[0])
    assert place.lines("notes") == []
    eventually(lambda: waiting(client) == (0, 0), "no message is left")
    # The loop of a run is told.
    (notification,) = client.wait(run_channel("run"), FROM_START, 60, interrupted=lambda: False)
    assert notification.body == {"task": id_, "state": "REVOKED"}


def test_a_task_that_has_expired_is_not_started_in_the_process_that_sends_it() -> None:
    client = client_for(Settings(broker="memory://expiry"))
    client.submit(TaskRequest("late", "t", {}, "dagster", expires_at=time.time() - 1))
    client.submit(TaskRequest("in-time", "t", {}, "dagster", expires_at=time.time() + 3600))
    assert client.in_process is not None
    claimed = client.in_process.claim()
    assert claimed is not None
    assert claimed[1].id == "in-time"
    assert client.in_process.claim() is None
    ended = ends_as(client, "late", TaskState.REVOKED)
    assert ended.error == "It expired before it started."


# -- slots and signals -----------------------------------------------------------------------


def test_workers_take_no_more_than_their_slots_and_nothing_when_drained(
    start_worker: StartWorker, settings: Settings, own_sender: Sender, place: Place
) -> None:
    client = client_for(settings)
    first = start_worker(*INCLUDE, "-c", "1")
    running = own_sender.send("hold", place.path("started-1"), place.path("go-1"))
    place.pid("started-1")
    behind = own_sender.send("hold", place.path("started-2"), place.path("go-2"))
    last = own_sender.send("note", place.path("notes"))
    # One works, and nothing is held back for later: another worker would find both.
    eventually(lambda: waiting(client) == (2, 0))
    first.signal(signal.SIGTERM)
    eventually(lambda: "Draining: 1 tasks to finish" in first.output())
    second = start_worker(*INCLUDE, "-c", "1")
    place.pid("started-2")
    eventually(lambda: waiting(client) == (1, 0))
    place.write("go-1")
    assert own_sender.value(running) == "held"
    assert first.wait() == 0
    place.write("go-2")
    assert own_sender.value(behind) == "held"
    own_sender.value(last)
    assert [each.name for each in client.workers()] == [second.name]
    # And an idle one leaves.
    second.signal(signal.SIGINT)
    assert second.wait() == 0
    assert client.workers() == []


@one_broker
def test_the_second_signal_stops_what_runs(
    start_worker: StartWorker, settings: Settings, own_sender: Sender, place: Place
) -> None:
    worker = start_worker(*INCLUDE, "-c", "2", "--kill-grace", "1")
    ended, never = place.path("ended"), place.path("never")
    polite = own_sender.send("hold", place.path("started"), never, ended)
    deaf = own_sender.send("hold", place.path("started"), never, ended, True)
    place.said("started", 2)
    worker.signal(signal.SIGTERM)
    eventually(lambda: "Draining: 2 tasks" in worker.output())
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 1
    assert place.lines("ended") == ["ended"]
    for task_id in (polite, deaf):
        error = own_sender.error(task_id)
        assert isinstance(error, TaskRevokedError)
        assert f"worker {worker.name}" in str(error)
        assert "received a second signal to end" in str(error)
    assert client_for(settings).workers() == []


@one_broker
def test_what_does_not_finish_within_the_drain_timeout_is_stopped(
    start_worker: StartWorker, own_sender: Sender, place: Place
) -> None:
    worker = start_worker(*INCLUDE, "-c", "1", "--drain-timeout", "0.5")
    task_id = own_sender.send("hold", place.path("started"), place.path("never"))
    place.pid("started")
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 1
    assert isinstance(own_sender.error(task_id), TaskRevokedError)


@one_broker
def test_a_signal_to_all_of_a_worker_lets_its_tasks_and_exit_hooks_finish(
    start_worker: StartWorker, own_sender: Sender, place: Place
) -> None:
    worker = start_worker(*INCLUDE, "-c", "1")
    hooked = own_sender.value(own_sender.send("say_at_exit", place.path("at-exit")))
    held = own_sender.send("hold", place.path("started"), place.path("go"))
    assert place.pid("started") == hooked
    parent = psutil.Process(worker.pid)
    # As service managers do that stop a unit; the one whose decision it is hears of it last.
    for process in [*parent.children(recursive=True), parent]:
        process.terminate()
    eventually(lambda: f"Child {hooked} received a signal as well" in worker.output())
    place.write("go")
    assert own_sender.value(held) == "held"
    assert worker.wait() == 0
    assert place.lines("at-exit") == [str(hooked)]


# -- the death of a worker -------------------------------------------------------------------


@one_broker
def test_of_a_killed_worker_nothing_is_left(
    start_worker: StartWorker, settings: Settings, own_sender: Sender, place: Place
) -> None:
    worker = start_worker(*INCLUDE, "-c", "2")
    own_sender.send("start_processes", place.path("left"), place.path("never"))
    deaf = own_sender.send("hold", place.path("started"), place.path("never"), "", True)
    place.said("started")
    place.said("left.all")
    tree = psutil.Process(worker.pid).children(recursive=True)
    # The fork server with its guard, two children, and what one of them started.
    assert len(tree) == 7
    assert {each.pid for each in tree} >= {int(each) for each in place.said("left", 3)}
    worker.signal(signal.SIGKILL)
    eventually(lambda: all(is_gone(each.pid) for each in tree))
    # Who waits for it learns that without being told.
    assert isinstance(own_sender.error(deaf), WorkerLostError)
    assert all(each.is_lost for each in client_for(settings).workers())


@one_broker
def test_a_worker_that_was_frozen_for_longer_than_its_lease_does_not_run_on(
    start_worker: StartWorker, settings: Settings, own_sender: Sender, place: Place
) -> None:
    client = client_for(settings)
    worker = start_worker(*INCLUDE, "-c", "1")
    task_id = own_sender.send("hold", place.path("started"), place.path("go"), "", True)
    pid = place.pid("started")
    # The fork server and its guard as well: nobody but the kernel is there to end the child.
    frozen = [psutil.Process(worker.pid), *psutil.Process(pid).parents()[:2]]
    freeze(frozen, settings)
    eventually(lambda: client.workers()[0].is_lost)
    # From here on another worker may run it.
    eventually(lambda: is_gone(pid))
    known = task(client, task_id)
    assert known is not None
    assert client.mark_lost(known, "silent")
    place.write("go")
    for process in frozen:
        with suppress(psutil.NoSuchProcess):
            process.resume()
    eventually(lambda: f"Dropped the result of task {task_id}" in worker.output())
    ends_as(client, task_id, TaskState.LOST)
    assert isinstance(own_sender.error(task_id), WorkerLostError)
    # It lives on, and works.
    assert own_sender.value(own_sender.send("add", 1, 2)) == 3
    assert not client.workers()[0].is_lost


#: Commands by which the next one becomes the first process of a container, to which orphans come;
#: the last is for machines where nothing of the kind is allowed, and has it just start.
AS_FIRST = (
    ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc"),
    ("unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc"),
    ("env",),
)


@one_broker
def test_a_worker_that_is_the_first_process_of_a_container_leaves_no_zombies(
    settings: Settings, tmp_path: Path, dagster_home: Path, own_sender: Sender, place: Place
) -> None:
    del dagster_home
    way = next(
        each for each in AS_FIRST if subprocess.run([*each, "true"], check=False).returncode == 0
    )
    # It has a child that it does not know of.
    prefix = (*way, "sh", "-c", 'sleep 0 & exec "$@"', "sh")
    worker = WorkerProcess(settings, tmp_path, "w1", *INCLUDE, "-c", "4", prefix=prefix)
    try:
        worker.wait_until_ready()
        outermost = psutil.Process(worker.pid)
        parent = outermost.children()[0] if way[0] == "unshare" else outermost
        never = place.path("never")
        tasks = [own_sender.send("start_processes", place.path(f"{n}"), never) for n in range(4)]
        for number in range(4):
            place.said(f"{number}.all")
        client_for(settings).revoke(tasks, "enough")
        for each in tasks:
            assert isinstance(own_sender.error(each), TaskRevokedError)

        def only_living() -> bool:
            below = parent.children(recursive=True)
            # The fork server with its guard, and a child for each slot.
            return len(below) == 6 and not any(is_gone(each.pid) for each in below)

        eventually(only_living)
        parent.terminate()
        assert worker.wait() == 0
    finally:
        worker.end()


# -- bad beginnings --------------------------------------------------------------------------


@one_broker
@pytest.mark.parametrize("module", ["no_such_module_anywhere", "compat_tests.broken_module"])
def test_a_module_that_cannot_be_imported_ends_the_worker_with_a_sentence(
    settings: Settings, tmp_path: Path, module: str
) -> None:
    worker = WorkerProcess(settings, tmp_path, "w1", "-i", module)
    assert worker.wait() == 2
    said = worker.output()
    assert f"Error: Cannot import {module}, which --include names: " in said
    assert "asyncio" not in said
    assert client_for(settings).workers() == []


@pytest.fixture
def secret_redis() -> Iterator[RedisServer]:
    with own_redis("--requirepass", "s3cr3t-w0rd") as server:
        yield server


def settings_of(server: RedisServer, password: str = "") -> Settings:
    url = server.url.replace("://", f"://:{password}@") if password else server.url
    return Settings(broker=url, heartbeat_interval=0.5, lease=10.0)


@pytest.mark.parametrize("password", ["", "wr0ng-w0rd"])
def test_a_refused_password_ends_the_worker_with_one_sentence(
    secret_redis: RedisServer, tmp_path: Path, password: str
) -> None:
    worker = WorkerProcess(settings_of(secret_redis, password), tmp_path, "w1")
    assert worker.wait() == 2
    *banner, sentence = worker.output().splitlines()
    assert banner[-1].startswith("    Ctrl-C")
    assert sentence.startswith("Error: redis://")
    assert "does not let us in" in sentence
    assert ".. " not in sentence
    assert "wr0ng-w0rd" not in worker.output()


def test_a_worker_never_says_the_password_and_takes_it_from_no_command_line(
    secret_redis: RedisServer, tmp_path: Path, place: Place
) -> None:
    settings = settings_of(secret_redis, "s3cr3t-w0rd")
    with (
        running_worker(settings, tmp_path, *INCLUDE, "-c", "1", "-l", "debug") as worker,
        open_sender(settings) as sender,
    ):
        assert sender.value(sender.send("add", 1, 2)) == 3
        sender.error(sender.send("elsewhere:gone"))
        sender.error(sender.send("leave", 3))
        process = psutil.Process(worker.pid)
        family = [process, *process.children(recursive=True)]
        commands = [word for each in family for word in each.cmdline()]
        secret_redis.stop()
        eventually(lambda: "Cannot send a heartbeat" in worker.output())
    assert not any("s3cr3t-w0rd" in word for word in commands)
    assert "s3cr3t-w0rd" not in worker.output()


def test_a_worker_that_comes_before_its_redis_waits_for_it_and_says_so(tmp_path: Path) -> None:
    binary = redis_binary()
    assert binary is not None
    (tmp_path / "data").mkdir()
    server = RedisServer(binary, tmp_path / "data")
    settings = settings_of(server)
    worker = WorkerProcess(settings, tmp_path, "w1", *INCLUDE, "-c", "1")
    try:
        eventually(lambda: f"Cannot reach the broker {server.url}" in worker.output())
        server.start()
        with open_sender(settings) as sender:
            assert sender.value(sender.send("add", 1, 2)) == 3
    finally:
        worker.end()
        server.stop()
    assert "Traceback" not in worker.output()


def test_a_worker_that_waits_for_its_redis_leaves_when_it_is_told_to(tmp_path: Path) -> None:
    binary = redis_binary()
    assert binary is not None
    settings = settings_of(RedisServer(binary, tmp_path))
    worker = WorkerProcess(settings, tmp_path, "w1")
    eventually(lambda: "Cannot reach the broker" in worker.output())
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    assert "Traceback" not in worker.output()
    assert "never retrieved" not in worker.output()


# -- the server comes and goes ---------------------------------------------------------------


@pytest.mark.parametrize("loses_data", [False, True])
def test_a_worker_outlives_a_restart_of_redis_with_what_it_runs(
    tmp_path: Path, place: Place, loses_data: bool
) -> None:
    with own_redis() as server:
        settings = settings_of(server)
        with (
            running_worker(settings, tmp_path, *INCLUDE, "-c", "1") as worker,
            open_sender(settings) as sender,
        ):
            held = sender.send("hold", place.path("started"), place.path("go"))
            pid = place.pid("started")
            if loses_data:
                redis.Redis.from_url(server.url).flushall()
                eventually(lambda: task(client_for(settings), held))
            server.stop()
            eventually(lambda: "Cannot send a heartbeat" in worker.output())
            place.write("go")
            server.start()
            assert sender.value(held) == "held"
            notes = place.path("notes")
            assert sender.value(sender.send("note", notes)) == pid
        assert "Traceback" not in worker.output()


@pytest.mark.parametrize(
    ("refuse", "accept"),
    [
        (("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0")),
        (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE")),
    ],
    ids=["out of memory", "read only"],
)
def test_a_worker_outlives_a_redis_that_takes_no_writes_for_a_while(
    tmp_path: Path, place: Place, refuse: tuple[str, ...], accept: tuple[str, ...]
) -> None:
    with own_redis() as server:
        settings = settings_of(server)
        admin = redis.Redis.from_url(server.url)
        with (
            running_worker(settings, tmp_path, *INCLUDE, "-c", "2") as worker,
            open_sender(settings) as sender,
        ):
            held = sender.send("hold", place.path("started"), place.path("go"))
            place.pid("started")
            admin.execute_command(*refuse)
            eventually(lambda: "Cannot send a heartbeat" in worker.output())
            with pytest.raises(ServerUnavailableError):
                client_for(settings).submit(TaskRequest("refused", "t", {}, "dagster"))
            place.write("go")
            eventually(lambda: f"Cannot store the end of task {held}" in worker.output())
            admin.execute_command(*accept)
            assert sender.value(held) == "held"
            assert sender.value(sender.send("add", 1, 2)) == 3
            beating = client_for(settings).workers()
            assert [each.is_lost for each in beating] == [False]
        assert "Traceback" not in worker.output()


def test_heartbeat_and_control_outlive_whatever_the_server_answers(
    tmp_path: Path,
) -> None:
    with own_redis() as server:
        settings = settings_of(server)
        admin = redis.Redis.from_url(server.url)
        with running_worker(settings, tmp_path, *INCLUDE, "-c", "1") as worker:
            client = client_for(settings)
            (me,) = client.workers()
            names = [
                f"dagster-taskiq:{name}" for name in ("workers", f"notifications:worker:{me.id}")
            ]
            for name in names:  # someone's mistake: these are not lists
                # In one transaction: a heartbeat in between would make the key anew.
                admin.pipeline().delete(name).rpush(name, "not what it should be").execute()
            eventually(lambda: "Cannot send a heartbeat" in worker.output())
            eventually(lambda: "Cannot read commands" in worker.output())
            admin.delete(*names)
            eventually(client.workers)
            client.send_command(me.id, {"command": "drain"})
            assert worker.wait() == 0


# -- taskiq's own worker command -------------------------------------------------------------


def _taskiq_worker(settings: Settings, log: Path, home: Path) -> "subprocess.Popen[bytes]":
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "DAGSTER_HOME": str(home),
        "DAGSTER_TASKIQ_BROKER": settings.broker,
        "DAGSTER_TASKIQ_QUEUES": "dagster, special",
        "DAGSTER_TASKIQ_CONCURRENCY": "1",
    }
    if settings.backend is not None:
        environment["DAGSTER_TASKIQ_BACKEND"] = settings.backend
    if "endpoint_url" in settings.broker_options:
        environment["DAGSTER_TASKIQ_SQS_ENDPOINT_URL"] = settings.broker_options["endpoint_url"]
    command = [sys.executable, "-m", "taskiq", "worker", "--workers", "1"]
    command += ["dagster_taskiq.app:broker", USER_TASKS]
    with log.open("ab") as output:
        return subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, cwd=ROOT, env=environment
        )


@pytest.fixture(params=BROKERS)
def standard_settings(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Settings]:
    """Settings that differ from the standard ones by the servers only, all that taskiq's worker
    is told."""
    if request.param in SQS:
        with own_sqs() as sqs, own_redis() as redis_server, ExitStack() as stack:
            backend = redis_server.url
            if request.param == SQS_POSTGRESQL:
                server = request.getfixturevalue("postgres_url")
                backend = stack.enter_context(new_database(server))
            options = {"endpoint_url": sqs.url}
            yield Settings(broker=f"sqs://{REGION}", backend=backend, broker_options=options)
    elif request.param == "embedded":
        yield Settings(broker=f"sqlite:///{tmp_path / 'queue.db'}")
    elif request.param == "redis":
        with own_redis() as server:
            yield Settings(broker=server.url)
    elif request.param == "postgresql":
        with new_database(request.getfixturevalue("postgres_url")) as url:
            yield Settings(broker=url)
    else:  # no other test has the standard prefix there
        assert request.param == "rabbitmq", "Yield settings for a server of this test's own."
        settings = Settings(broker=request.getfixturevalue("rabbitmq_url"))
        yield settings
        asyncio.run(forget_on_rabbitmq(settings.broker, settings.prefix))


def test_taskiqs_own_worker_command_serves_the_same_queues(
    standard_settings: Settings, tmp_path: Path, dagster_home: Path, place: Place
) -> None:
    log = tmp_path / "taskiq.log"
    process = _taskiq_worker(standard_settings, log, dagster_home)
    try:
        with open_sender(standard_settings) as sender:
            client = client_for(standard_settings)
            assert sender.value(sender.send("add", 1, 2)) == 3
            (worker,) = client.workers()
            assert worker.queues == ("dagster", "special")
            assert sender.value(sender.send("add_async", 3, 4, queue_name="special")) == 7
            assert isinstance(sender.error(sender.send("leave", 3)), ChildDiedError)
            held = sender.send("hold", place.path("started"), place.path("never"))
            pid = place.pid("started")
            assert pid not in (process.pid, worker.pid)
            client.revoke([held], "enough")
            ends_as(client, held, TaskState.REVOKED)
            last = sender.send("hold", place.path("last"), place.path("go"))
            place.pid("last")
            tree = psutil.Process(process.pid).children(recursive=True)
            # As service managers do; here too the worker's process decides what is done about it.
            for each in tree:
                each.terminate()
            process.terminate()
            eventually(lambda: "received a signal as well and goes on" in log.read_text())
            place.write("go")
            assert sender.value(last) == "held"
            process.wait(60)
            eventually(lambda: all(is_gone(each.pid) for each in tree))
            assert client.workers() == []
    except BaseException:
        print(log.read_text())  # what a failure is about
        raise
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(30)
