"""A user's own tasks in taskiq's own patterns, on a worker with one slot of each broker."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from taskiq import AsyncTaskiqTask, TaskiqResult
from taskiq.depends.progress_tracker import TaskProgress
from taskiq.kicker import AsyncKicker
from taskiq_pipelines import Pipeline
from taskiq_pipelines.exceptions import AbortPipeline, FilterError, MappingError

from compat_tests.brokers import CONTRACT, MEMORY, Limit, has_limit
from compat_tests.conftest import make_settings
from compat_tests.own_errors import OutOfStockError
from compat_tests.sending import Sender, open_sender
from compat_tests.sqs_servers import pass_time
from compat_tests.waiting import eventually
from compat_tests.workers import WorkerProcess, running_worker
from dagster_taskiq.client import Client, client_for
from dagster_taskiq.errors import (
    ChildDiedError,
    TaskRevokedError,
    UnknownTaskError,
    WorkerLostError,
)
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.wire.labels import ATTEMPT_LABEL
from dagster_taskiq.wire.records import Task, TaskState

TASKS = "compat_tests.own_tasks"
#: How often the tasks of pipelines that wait look for results, in seconds.
LOOK = 0.05


@pytest.fixture(scope="module", params=[each for each in CONTRACT if each != MEMORY])
def broker_kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def shared(
    broker_kind: str, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[tuple[Settings, WorkerProcess]]:
    directory = tmp_path_factory.mktemp("own-tasks")
    settings = make_settings(broker_kind, directory, request).replace(lease=60.0)
    with running_worker(settings, directory, "-i", TASKS, "-c", "1") as worker:
        yield settings, worker


@pytest.fixture
def client(shared: tuple[Settings, WorkerProcess]) -> Client:
    return client_for(shared[0])


@pytest.fixture
def sender(shared: tuple[Settings, WorkerProcess]) -> Iterator[Sender]:
    with open_sender(shared[0]) as sender:
        yield sender


def send(sender: Sender, name: str, *args: object, **labels: object) -> str:
    return sender.send(f"{TASKS}:{name}", *args, **labels)


class Pipe:
    """A pipeline of tasks that are named, and not imported."""

    def __init__(self, sender: Sender, first: str) -> None:
        self._sender = sender
        self.pipeline: Pipeline[Any, Any] = Pipeline(sender.broker, self._task(first))

    def next(self, name: str, **options: Any) -> "Pipe":
        self.pipeline.call_next(self._task(name), **options)
        return self

    def after(self, name: str, retry_on_error: bool = False, **options: Any) -> "Pipe":
        labels = {"retry_on_error": True} if retry_on_error else {}
        self.pipeline.call_after(self._task(name, **labels), **options)
        return self

    def map(self, name: str, **options: Any) -> "Pipe":
        self.pipeline.map(self._task(name), check_interval=LOOK, **options)
        return self

    def filter(self, name: str, **options: Any) -> "Pipe":
        self.pipeline.filter(self._task(name), check_interval=LOOK, **options)
        return self

    def result(self, *args: object) -> TaskiqResult[Any]:
        """Send it, and wait for the result of its last task."""
        task: AsyncTaskiqTask[Any] = self._sender.call(self.pipeline.kiq, *args)
        return self._sender.result(task.task_id)

    def value(self, *args: object) -> Any:
        return self.result(*args).raise_for_error().return_value

    def error(self, *args: object) -> BaseException:
        error = self.result(*args).error
        assert error is not None
        return error

    def _task(self, name: str, **labels: Any) -> "AsyncKicker[Any, Any]":
        return AsyncKicker(f"{TASKS}:{name}", self._sender.broker, labels)


# -- pipelines -------------------------------------------------------------------------------------


def test_a_pipeline_passes_on_what_its_steps_return(sender: Sender) -> None:
    pipe = Pipe(sender, "add").next("double").next("add", param_name="number", more=10)
    assert pipe.value(1) == 14
    assert Pipe(sender, "add").after("seven").next("double").value(1) == 14


def test_a_pipeline_maps_and_filters_on_one_slot(sender: Sender) -> None:
    pipe = Pipe(sender, "numbers_below").filter("is_odd").map("double").map("add", more=1)
    assert pipe.next("total").value(6) == 3 + 7 + 11
    assert Pipe(sender, "numbers_below").map("double").value(0) == []


@pytest.mark.parametrize(
    ("names", "article"),
    [
        (("fail", "double", "add"), "apples"),
        (("fail_in_a_loop", "double"), "pears"),
        (("add", "fail", "double", "add"), "apples"),
        (("add", "fail_in_a_loop", "double"), "pears"),
        (("add", "double", "fail"), "apples"),
    ],
)
def test_who_waits_for_a_pipeline_gets_the_error_of_the_step_that_failed(
    sender: Sender, names: tuple[str, ...], article: str
) -> None:
    pipe = Pipe(sender, names[0])
    for name in names[1:]:
        pipe.next(name)
    error = pipe.error(1)
    assert type(error) is OutOfStockError
    assert (error.article, str(error)) == (article, f"0 of {article} left")


def test_who_waits_for_a_pipeline_learns_of_an_error_inside_of_a_map(sender: Sender) -> None:
    error = Pipe(sender, "numbers_below").map("fail_at", bad=2).next("total").error(4)
    assert isinstance(error, MappingError)
    assert isinstance(error.__cause__, OutOfStockError)
    assert "2 of plums left" in str(error)
    last = Pipe(sender, "numbers_below").map("fail_at", bad=1).error(3)
    assert isinstance(last, MappingError)
    skipping = Pipe(sender, "numbers_below").map("fail_at", bad=2, skip_errors=True)
    assert skipping.value(4) == [0, 1, 3]


def test_who_waits_for_a_pipeline_learns_of_an_error_inside_of_a_filter(sender: Sender) -> None:
    error = Pipe(sender, "numbers_below").filter("fail_at", bad=2).next("total").error(4)
    assert isinstance(error, FilterError)


def test_a_pipeline_that_cannot_go_on_is_aborted(sender: Sender) -> None:
    error = Pipe(sender, "add").map("double").next("total").error(1)
    assert isinstance(error, AbortPipeline)
    assert "Execution aborted" in str(error)


@pytest.mark.parametrize(
    ("name", "kind"), [("be_killed", ChildDiedError), ("no_such_task", UnknownTaskError)]
)
def test_who_waits_for_a_pipeline_learns_of_a_step_that_could_not_end(
    sender: Sender, name: str, kind: type[Exception]
) -> None:
    assert isinstance(Pipe(sender, "add").next(name).next("double").error(1), kind)


def test_a_pipeline_goes_on_after_a_step_that_was_tried_again(
    sender: Sender, client: Client, tmp_path: Path
) -> None:
    tries, runs = str(tmp_path / "tries"), str(tmp_path / "runs")
    pipe = Pipe(sender, "seven").after("good_at", retry_on_error=True, path=tries, tries=3)
    pipe.after("requeue_until", path=runs, times=2).next("double")
    assert pipe.value() == 4
    failing = Pipe(sender, "seven").after("good_at", retry_on_error=True, path=tries, tries=99)
    assert isinstance(failing.next("double").error(), OutOfStockError)
    eventually(lambda: client.depths() == [])


# -- again -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("good_at", "retry_on_error"),
        ("good_in_a_loop_at", "retry_on_error"),
        ("good_in_a_loop_at", "smart_retry"),
    ],
)
def test_a_task_is_tried_again_until_it_is_good(
    sender: Sender, client: Client, tmp_path: Path, name: str, label: str
) -> None:
    path = tmp_path / "tries"
    task_id = send(sender, name, str(path), 3, **{label: True})
    assert sender.value(task_id) == 3
    assert path.read_text() == "tried\n" * 3
    known = client.tasks([task_id])[task_id]
    assert (known.state, known.attempt) == (TaskState.SUCCESS, 2)
    eventually(lambda: client.depths() == [])


def test_a_task_that_is_never_good_fails_with_its_last_error(
    sender: Sender, client: Client, tmp_path: Path
) -> None:
    path = tmp_path / "tries"
    error = sender.error(send(sender, "good_at", str(path), 99, retry_on_error=True))
    assert isinstance(error, OutOfStockError)
    assert str(error) == "3 of plain left"
    assert path.read_text() == "tried\n" * 3
    eventually(lambda: client.depths() == [])


def test_a_task_that_has_no_label_for_it_is_not_tried_again(sender: Sender, tmp_path: Path) -> None:
    path = tmp_path / "tries"
    assert isinstance(sender.error(send(sender, "good_at", str(path), 2)), OutOfStockError)
    assert path.read_text() == "tried\n"


def test_a_task_that_waits_for_its_next_try_keeps_no_slot_and_may_be_cancelled(
    sender: Sender, client: Client, tmp_path: Path
) -> None:
    labels = {"smart_retry": True, "retry_after": 3600}
    task_id = send(sender, "good_at", str(tmp_path / "tries"), 2, **labels)

    def waits_again() -> bool:
        known = client.tasks([task_id]).get(task_id)
        return known is not None and (known.state, known.attempt) == (TaskState.WAITING, 1)

    eventually(waits_again)
    assert sender.value(send(sender, "add", 1)) == 2
    assert sum(row.waiting for row in client.depths()) == 1
    client.revoke([task_id], "not wanted any more")
    assert isinstance(sender.error(task_id), TaskRevokedError)
    eventually(lambda: is_cleared(client))


def is_cleared(client: Client) -> bool:
    """Return whether no message is left: where none can be deleted, the delay of each is over."""
    if has_limit(client.settings, Limit.DISCARD):
        endpoint = str(client.settings.broker_options["endpoint_url"])
        pass_time(endpoint, client.settings.prefix, 900.0)
    return client.depths() == []


def test_a_task_that_goes_to_the_end_of_its_queue_runs_again(
    sender: Sender, client: Client, tmp_path: Path
) -> None:
    path = tmp_path / "runs"
    task_id = send(sender, "requeue_until", str(path), 4)
    assert sender.value(task_id) == 4
    assert path.read_text() == f"{task_id}\n" * 4
    assert client.tasks([task_id])[task_id].attempt == 3


def test_a_task_that_wants_no_result_has_none(
    sender: Sender, client: Client, tmp_path: Path
) -> None:
    path = tmp_path / "runs"
    task_id = send(sender, "have_no_result", str(path))

    def has_run() -> bool:
        known = client.tasks([task_id]).get(task_id)
        return known is not None and known.attempt == 1

    eventually(has_run)
    assert path.read_text() == "ran\n"
    assert client.result(task_id) is None
    assert sender.value(send(sender, "add", 1)) == 2


def test_a_task_whose_worker_died_as_it_put_it_back_is_lost_and_does_not_run(
    sender: Sender, client: Client, tmp_path: Path
) -> None:
    path = tmp_path / "runs"
    lost = Task("put-back-half", worker="no-worker")
    client._call(lambda: client.backend.start(lost))
    kicker: AsyncKicker[Any, Any] = AsyncKicker(f"{TASKS}:good_at", sender.broker, {})
    again = kicker.with_task_id(lost.id).with_labels(**{ATTEMPT_LABEL: 1})
    sender.call(again.kiq, str(path), 1)
    assert isinstance(sender.error(lost.id), WorkerLostError)
    assert sender.value(send(sender, "add", 1)) == 2
    assert not path.exists()
    eventually(lambda: client.depths() == [])


# -- others ----------------------------------------------------------------------------------------


def test_a_task_that_waits_for_many_others_needs_no_second_slot(sender: Sender) -> None:
    tasks = [send(sender, "chord", count) for count in (1, 5, 10)]
    assert [sender.value(task_id) for task_id in tasks] == [0, 20, 90]


def test_the_progress_of_a_task_is_seen_while_it_runs_and_after(
    sender: Sender, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    task_id = send(sender, "report_progress", str(go))

    def progress() -> TaskProgress[Any] | None:
        task: AsyncTaskiqTask[Any] = AsyncTaskiqTask(task_id, sender.broker.result_backend)
        found: TaskProgress[Any] | None = sender.call(task.get_progress)
        return found

    seen = eventually(lambda: found if (found := progress()) and found.state == "halfway" else None)
    assert seen is not None
    assert seen.meta == {"done": 1}
    go.touch()
    assert sender.value(task_id) == "done"
    assert progress() == seen
