"""The client of a run loop whose steps a function sends, without a broker."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import celery.exceptions  # type: ignore[import-untyped]
import pytest

from dagster_celery._celery_app.sending import STEP_REQUEST
from dagster_celery._submitting_client import StepResult, SubmittingClient
from dagster_taskiq.errors import ServerUnavailableError, TaskRevokedError
from dagster_taskiq.runs.step_client import StepClient
from dagster_taskiq.transport.eviction import Eviction
from dagster_taskiq.wire.notifications import Notification
from dagster_taskiq.wire.records import Task, TaskState, Worker
from dagster_taskiq.wire.task_request import TaskRequest

HERE = Worker("id-of-worker", "worker", "host", 1, ("q",), 1, "", lease=30.0)
PUSHED = Notification("1", {"event": "pushed"})


@dataclass
class BrokerClient:
    """A client of a broker with one worker that starts each task it is asked about."""

    in_process: None = None
    revoked: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    asked_for: list[str] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)
    notifications: list[Notification] = field(default_factory=list)

    def submit(self, *requests: TaskRequest) -> list[str]:
        raise AssertionError("a function sends the tasks")

    def revoke(self, task_ids: Sequence[str], reason: str) -> None:
        self.revoked += task_ids

    def tasks(self, task_ids: Sequence[str]) -> dict[str, Task]:
        self.asked_for += task_ids
        return {each: Task(each, state=TaskState.STARTED, worker=HERE.id) for each in task_ids}

    def mark_lost(self, task: Task, error: str) -> bool:
        self.lost.append(task.id)
        return True

    def workers(self) -> list[Worker]:
        return [HERE]

    def is_empty(self, queue: str) -> bool:
        return queue == "empty"

    def evictions(self) -> dict[str, Eviction]:
        return {}

    def wait(
        self, channel: str, after: str, timeout: float, interrupted: Callable[[], bool]
    ) -> list[Notification]:
        return self.notifications

    def close_channel(self, channel: str) -> None:
        self.closed.append(channel)


@dataclass
class Result:
    """The result of a step elsewhere."""

    is_ready: bool = False
    error: Exception | None = None
    revoked: int = 0

    def ready(self) -> bool:
        return self.is_ready

    def get(self) -> None:
        if self.error is not None:
            raise self.error

    def revoke(self) -> None:
        self.revoked += 1


REQUESTS = [TaskRequest(each, "x", {}, "q", step_key=each) for each in ("a", "b")]


@pytest.fixture
def broker() -> BrokerClient:
    return BrokerClient()


@pytest.fixture
def results() -> dict[str, Result]:
    return {each.id: Result() for each in REQUESTS}


@pytest.fixture
def client(broker: BrokerClient, results: dict[str, Result]) -> SubmittingClient:
    """A client that has sent both steps elsewhere."""
    made = SubmittingClient(broker, lambda request: results[request.id])
    assert made.submit(*REQUESTS) == ["a", "b"]
    return made


def test_it_is_a_client_of_the_run_loop(client: SubmittingClient) -> None:
    # mypy holds the types; this holds that no method is missing.
    names = {name for name in vars(StepClient) if not name.startswith("_")}
    assert names and all(hasattr(client, name) for name in names)
    assert client.in_process is None


def test_the_function_sees_the_request_that_it_sends(broker: BrokerClient) -> None:
    seen = []

    def send(request: TaskRequest) -> StepResult:
        seen.append((request, STEP_REQUEST.get()))
        return Result()

    SubmittingClient(broker, send).submit(*REQUESTS)

    assert seen == [(each, each) for each in REQUESTS]
    assert STEP_REQUEST.get() is None


def test_a_step_elsewhere_is_started_until_its_result_is_ready(
    client: SubmittingClient, results: dict[str, Result]
) -> None:
    assert {each.state for each in client.tasks(["a", "b"]).values()} == {TaskState.STARTED}

    results["a"].is_ready = True

    known = client.tasks(["a", "b"])
    assert (known["a"].state, known["b"].state) == (TaskState.SUCCESS, TaskState.STARTED)


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (ValueError("not today"), TaskState.FAILURE),
        (TaskRevokedError("not today"), TaskState.REVOKED),
        (celery.exceptions.TaskRevokedError("not today"), TaskState.REVOKED),
    ],
)
def test_how_a_step_elsewhere_has_ended_is_its_error(
    error: Exception, state: TaskState, client: SubmittingClient, results: dict[str, Result]
) -> None:
    results["a"] = replace(results["a"], is_ready=True, error=error)
    made = SubmittingClient(BrokerClient(), lambda request: results[request.id])
    made.submit(REQUESTS[0])

    task = made.tasks(["a"])["a"]

    assert task.state is state and "not today" in task.error


def test_a_step_elsewhere_has_a_worker_that_is_never_lost(
    broker: BrokerClient, client: SubmittingClient
) -> None:
    here, elsewhere = client.workers()
    assert here == HERE and not elsewhere.is_lost
    assert client.tasks(["a"])["a"].worker == elsewhere.id
    assert SubmittingClient(broker, lambda request: Result()).workers() == [HERE]


def test_the_end_of_a_step_elsewhere_is_a_notification(
    client: SubmittingClient, results: dict[str, Result]
) -> None:
    results["b"].is_ready = True

    (found,) = client.wait("channel", "before", 60.0, lambda: False)

    assert found.cursor == "before" and found.body["task"] == "b"
    # It is reported once; the other one is waited for.
    assert client.wait("channel", "before", 60.0, lambda: True) == []


def test_a_notification_of_the_broker_is_handed_on(
    broker: BrokerClient, client: SubmittingClient, results: dict[str, Result]
) -> None:
    broker.notifications = [PUSHED]
    assert client.wait("channel", "", 60.0, lambda: False) == [PUSHED]
    for each in results.values():
        each.is_ready = True
    assert len(client.wait("channel", "", 60.0, lambda: False)) == 2
    assert client.wait("channel", "", 60.0, lambda: False) == [PUSHED]


def test_what_is_elsewhere_is_asked_and_stopped_there(
    broker: BrokerClient, client: SubmittingClient, results: dict[str, Result]
) -> None:
    client.revoke(["a", "on-broker"], "why")
    assert (results["a"].revoked, results["b"].revoked) == (1, 0)
    assert broker.revoked == ["on-broker"]

    assert set(client.tasks(["a", "on-broker"])) == {"a", "on-broker"}
    assert broker.asked_for == ["on-broker"]
    client.revoke(["b"], "why")
    client.tasks(["b"])
    assert (broker.revoked, broker.asked_for) == (["on-broker"], ["on-broker"])


def test_all_else_goes_to_the_broker(broker: BrokerClient, client: SubmittingClient) -> None:
    assert client.is_empty("empty") and not client.is_empty("full")
    assert client.mark_lost(Task("on-broker"), "why") and broker.lost == ["on-broker"]
    client.close_channel("channel")
    assert broker.closed == ["channel"] and client.evictions() == {}


def test_what_was_sent_before_a_failure_is_not_sent_again(broker: BrokerClient) -> None:
    sent = []

    def send(request: TaskRequest) -> StepResult:
        sent.append(request.id)
        if sent == ["a", "b"]:
            raise ServerUnavailableError("away")
        return Result()

    client = SubmittingClient(broker, send)
    with pytest.raises(ServerUnavailableError):
        client.submit(*REQUESTS)
    assert client.submit(*REQUESTS) == ["a", "b"]

    assert sent == ["a", "b", "b"]
