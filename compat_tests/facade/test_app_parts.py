"""The parts of an app, each without the app: signatures, requests, results and control."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from taskiq import TaskiqResult

from dagster_celery._celery_app.control import Control
from dagster_celery._celery_app.request import Request, current_request, running
from dagster_celery._celery_app.results import AsyncResult, EagerResult
from dagster_celery._celery_app.signature import Signature
from dagster_celery._celery_app.task import Task as DagsterTask
from dagster_celery._cli.app_argument import worker_arguments
from dagster_celery._make_app import make_app
from dagster_taskiq.errors import ConfigError
from dagster_taskiq.wire.commands import Command
from dagster_taskiq.wire.records import Running, Task, TaskState, Worker

BUSY = Worker(
    *("id-1", "busy", "host", 11, ("a", "b"), 2, "", 30.0),
    running=(Running("task", "name", "run", "step", 12, 5.0),),
)
IDLE = Worker("id-2", "idle", "host", 21, ("c",), 1, "", 30.0)
LOST = replace(IDLE, id="id-3", name="lost", age=60.0)


@dataclass
class Client:
    """What the parts use of a client."""

    known: dict[str, TaskState] = field(default_factory=dict)
    ended: TaskiqResult[Any] | None = None
    revoked: list[str] = field(default_factory=list)
    commands: list[tuple[str, Any]] = field(default_factory=list)

    def workers(self) -> list[Worker]:
        return [BUSY, IDLE, LOST]

    def worker(self, worker_id: str) -> Worker | None:
        return {each.id: each for each in self.workers()}.get(worker_id)

    def tasks(self, task_ids: Sequence[str]) -> dict[str, Task]:
        return {
            each: Task(each, state=self.known[each], worker=BUSY.id)
            for each in task_ids
            if each in self.known
        }

    def result(self, task_id: str) -> TaskiqResult[Any] | None:
        return self.ended

    def progress(self, task_id: str) -> None:
        return None

    def revoke(self, task_ids: Sequence[str], reason: str) -> None:
        self.revoked += task_ids

    def send_command(self, worker_id: str, body: dict[str, Any]) -> None:
        self.commands.append((worker_id, body))


@pytest.fixture
def client() -> Client:
    return Client()


@pytest.fixture
def app(client: Client) -> Any:
    return SimpleNamespace(client=client, tasks={"mine": object()})


@pytest.fixture
def control(app: Any) -> Control:
    return Control(app)


def test_control_reports_the_workers_that_are_not_lost(control: Control) -> None:
    pong = {"ok": "pong"}
    assert control.ping() == [{"busy": pong}, {"idle": pong}]
    assert control.ping(["idle", "lost"]) == [{"idle": pong}]
    inspect = control.inspect()
    assert inspect.ping() == {"busy": pong, "idle": pong}
    assert control.inspect(["lost"]).ping() is None
    assert inspect.ping(["idle"]) == {"idle": pong}


def test_inspection_has_the_form_of_celerys(control: Control) -> None:
    inspect = control.inspect(["busy"])

    (task,) = (inspect.active() or {})["busy"]
    assert (task["id"], task["name"], task["worker_pid"]) == ("task", "name", 12)
    assert task["kwargs"] == {"run_id": "run", "step_key": "step"}
    assert [each["name"] for each in (inspect.active_queues() or {})["busy"]] == ["a", "b"]
    assert (inspect.stats() or {})["busy"]["pool"]["processes"] == [12]
    assert "mine" in (inspect.registered() or {})["busy"]
    assert inspect.reserved() == inspect.scheduled() == {"busy": []}


def test_shutdown_is_a_command_to_each_worker(control: Control, client: Client) -> None:
    replies = control.broadcast("shutdown", destination=["idle"], reply=True)

    assert replies == [{"idle": {"ok": "shutdown"}}]
    control.shutdown()
    assert [each for each, _ in client.commands] == [IDLE.id, BUSY.id, IDLE.id]
    assert {body["command"] for _, body in client.commands} == {Command.DRAIN.value}
    with pytest.raises(ConfigError, match="do not know the command 'pool_grow'"):
        control.broadcast("pool_grow")


def test_a_task_that_runs_is_revoked_only_to_be_terminated(
    control: Control, client: Client
) -> None:
    client.known = {"waits": TaskState.WAITING, "runs": TaskState.STARTED}

    control.revoke(["waits", "runs", "unknown"])
    assert client.revoked == ["waits", "unknown"]
    control.terminate("runs")
    assert client.revoked == ["waits", "unknown", "runs"]


@pytest.mark.parametrize(
    ("state", "celerys"),
    [
        (None, "PENDING"),
        (TaskState.WAITING, "PENDING"),
        (TaskState.STARTED, "STARTED"),
        (TaskState.SUCCESS, "SUCCESS"),
        (TaskState.FAILURE, "FAILURE"),
        (TaskState.REVOKED, "REVOKED"),
        (TaskState.LOST, "FAILURE"),
    ],
)
def test_a_result_has_the_states_of_celery(
    state: TaskState | None, celerys: str, app: Any, client: Client
) -> None:
    client.known = {"id": state} if state else {}
    result = AsyncResult("id", app)

    assert (result.state, result.status) == (celerys, celerys)
    assert result.ready() == bool(state and state.is_final)
    assert (result.successful(), result.failed()) == (celerys == "SUCCESS", celerys == "FAILURE")
    assert result.worker == ("busy" if state else None)


def test_a_result_is_the_value_or_the_exception(app: Any, client: Client) -> None:
    result = AsyncResult("id", app)
    assert result.result is None and result.traceback is None
    with pytest.raises(TimeoutError, match="Task id has not ended within 0 s"):
        result.get(timeout=0)

    client.ended = TaskiqResult(is_err=False, return_value=0, execution_time=0.0)
    assert (result.get(), result.info, result.maybe_throw()) == (0, 0, 0)

    error = ValueError("not today")
    client.ended = TaskiqResult(is_err=True, return_value=None, execution_time=0.0, error=error)
    assert result.get(propagate=False) is error and result.traceback == "not today"
    with pytest.raises(ValueError, match="not today"):
        result.get()
    with pytest.raises(ValueError, match="not today"):
        result.maybe_throw()


def test_a_result_revokes_its_task(app: Any, client: Client) -> None:
    client.known = {"id": TaskState.STARTED}
    AsyncResult("id", app).revoke()
    assert client.revoked == []
    AsyncResult("id", app).revoke(terminate=True, signal="SIGKILL")
    assert client.revoked == ["id"]


class Recorder(DagsterTask):
    """A task that records how it is called."""

    name = "recorder"
    calls: ClassVar[list[tuple[Any, ...]]] = []

    def __call__(self, *args: Any, **kwargs: Any) -> str:
        self.calls.append(("call", args, kwargs))
        return "called"

    def apply(self, args: Any = None, kwargs: Any = None, **options: Any) -> EagerResult:
        self.calls.append(("apply", args, kwargs))
        return EagerResult("id", None, "SUCCESS")

    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> EagerResult:
        self.calls.append(("send", args, kwargs, options))
        return EagerResult("id", None, "SUCCESS")


def test_a_signature_adds_later_arguments_and_options_unless_it_is_immutable() -> None:
    app = make_app({})
    task = app.register_task(Recorder)
    signature = Signature(task, (1,), {"a": 1}, {"queue": "q"})

    assert signature(2, b=2) == "called"
    signature.apply((2,), {"a": 3})
    signature.set(priority=1).apply_async((2,), queue="other")
    Signature(task, (1,), {"a": 1}, immutable=True).delay(2, b=2)

    assert Recorder.calls == [
        ("call", (2, 1), {"a": 1, "b": 2}),
        ("apply", (2, 1), {"a": 3}),
        ("send", (2, 1), {"a": 1}, {"queue": "other", "priority": 1}),
        ("send", (1,), {"a": 1}, {}),
    ]


def test_an_eager_request_is_the_current_one_for_its_call() -> None:
    outer, inner = Request("outer"), Request("inner")
    with running(outer):
        with running(inner):
            assert current_request() is inner
        assert current_request() is outer
    assert current_request() == Request() and current_request().called_directly


def test_the_options_of_a_worker_come_from_its_app() -> None:
    settings = {"worker_concurrency": 3, "task_queues": ["a", "b"], "task_time_limit": 9}
    app = make_app({"broker": "memory://", "config_source": settings})

    arguments = worker_arguments(app, has_queues=False)
    assert arguments[arguments.index("--concurrency") + 1] == "3"
    assert [arguments[n + 1] for n, each in enumerate(arguments) if each == "--queue"] == ["a", "b"]
    assert "--queue" not in worker_arguments(app, has_queues=True)
    assert worker_arguments(app.taskiq_broker, has_queues=False) == []
