"""Launching: where runs go, what their tags and their event log say, and what runs them."""

import asyncio
import contextlib
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from dagster import DagsterEventType, DagsterRunStatus
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import GrpcServerTarget

from compat_tests.brokers import Limit, has_limit
from compat_tests.conftest import StartWorker
from compat_tests.executor.runs import Outcome
from compat_tests.executor.scratch import Scratch
from compat_tests.launcher import included_module
from compat_tests.launcher.conftest import SIDE_QUEUE, SLOTS
from compat_tests.launcher.fleet import Fleet, open_fleet, running_code_server
from compat_tests.other_environments import given, venv
from compat_tests.our_tables import our_tables
from compat_tests.servers import free_port, own_redis
from compat_tests.waiting import eventually
from compat_tests.workers import running_worker
from dagster_taskiq.errors import ConfigError, ServerUnavailableError
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.tags import TASK_ID_TAG
from dagster_taskiq.transport.rabbitmq.connection import RabbitConnection
from dagster_taskiq.transport.rabbitmq.records import records_of, task_shard
from dagster_taskiq.wire.queues import run_queue
from dagster_taskiq.wire.task_names import EXECUTE_JOB
from dagster_taskiq.wire.task_request import TaskRequest


def unserved_queue() -> str:
    """Return the name of a queue that nobody else uses."""
    return f"queue-{uuid.uuid4().hex[:8]}"


def waiting_in(fleet: Fleet, queue: str) -> int:
    """Return how many runs wait in a queue."""
    return sum(row.waiting for row in fleet.client.depths() if row.queue == run_queue(queue))


@contextmanager
def held_slots(fleet: Fleet, directory: Path) -> Iterator[list[Callable[[], None]]]:
    """Fill every slot of the shared worker; yield what frees each."""
    with ExitStack() as stack:
        held: list[tuple[Scratch, Outcome]] = []
        for number in range(SLOTS):
            notes = directory / f"held-{uuid.uuid4().hex[:8]}-{number}"
            notes.mkdir()
            scratch = Scratch(notes)
            held.append((scratch, fleet.launch("whole_that_waits", scratch)))
        for scratch, outcome in held:
            stack.callback(fleet.wait, outcome)
            stack.callback(scratch.note, "release")
            scratch.wait_for("waiting")
        yield [lambda scratch=scratch: scratch.note("release") for scratch, _ in held]


@pytest.mark.each_broker
@pytest.mark.oldest
@pytest.mark.parametrize("job", ["whole", "spread"])
def test_a_launched_run_is_executed_by_the_worker(fleet: Fleet, scratch: Scratch, job: str) -> None:
    outcome = fleet.run(job, scratch)

    assert outcome.status is DagsterRunStatus.SUCCESS
    assert scratch.count("first") == scratch.count("second") == 1
    assert outcome.run.tags[TASK_ID_TAG] == outcome.run_id
    assert outcome.says("Sent the run to queue", fleet.settings.queue)
    assert len(outcome.of(DagsterEventType.RUN_START)) == 1


def test_a_run_is_executed_in_a_child_of_a_worker_of_its_queue(
    fleet: Fleet, scratch: Scratch
) -> None:
    outcome = fleet.run("whole", scratch, tags={"dagster-celery/queue": SIDE_QUEUE})

    assert outcome.status is DagsterRunStatus.SUCCESS
    assert outcome.says(f'Sent the run to queue "{SIDE_QUEUE}"')
    assert not outcome.says("No worker serves")
    worker = fleet.worker
    children = {child.pid for child in psutil.Process(worker.pid).children(recursive=True)}
    assert {int(pid) for pid in scratch.lines("first")} < children
    assert outcome.says(f"Worker {worker.name} on {worker.host} has taken the run")


def test_a_run_of_another_python_environment_fails_with_what_to_start(
    fleet_of_kind: Callable[[str], Fleet], scratch: Scratch, tmp_path: Path
) -> None:
    other = venv(tmp_path / "other")
    fleet = fleet_of_kind("embedded")
    outcome = fleet.run("whole", scratch, origin=lambda found: given(found, other))
    assert outcome.status is DagsterRunStatus.FAILURE
    assert scratch.count("first") == 0
    for words in ("cannot execute the run", f"executable_path: {other}", "One worker serves one"):
        assert words in outcome.run_failure()


@pytest.mark.parametrize(
    ("tags", "queue"),
    [
        ({"dagster-taskiq/queue": "{new}"}, "{new}"),
        ({"dagster-celery/queue": "{old}"}, "{old}"),
        ({"dagster-celery/queue": "{old}", "dagster-taskiq/queue": "{new}"}, "{new}"),
    ],
)
def test_the_queue_of_a_run_is_in_its_tags(
    fleet: Fleet, scratch: Scratch, tags: Mapping[str, str], queue: str
) -> None:
    names = {"new": unserved_queue(), "old": unserved_queue()}

    outcome = fleet.launch(
        "whole", scratch, tags={tag: value.format(**names) for tag, value in tags.items()}
    )

    chosen = queue.format(**names)
    assert waiting_in(fleet, chosen) == 1
    assert outcome.says(f'Sent the run to queue "{chosen}"')
    assert outcome.says(f'No worker serves queue "{chosen}"', f"worker start -q {chosen}")
    assert outcome.status is DagsterRunStatus.STARTING
    assert fleet.terminate(outcome)


@pytest.mark.parametrize(
    ("tags", "priority"),
    [
        ({}, "0"),
        ({"dagster-taskiq/run_priority": "7"}, "7"),
        ({"dagster-celery/run_priority": "-3"}, "-3"),
        ({"dagster-celery/run_priority": "3", "dagster-taskiq/run_priority": "8"}, "8"),
        ({"dagster/priority": "4"}, "4"),
        ({"dagster/priority": "4", "dagster-celery/run_priority": "2"}, "2"),
        ({"dagster/priority": "soon"}, "0"),
    ],
)
def test_the_priority_of_a_run_is_in_its_tags(
    fleet: Fleet, scratch: Scratch, tags: Mapping[str, str], priority: str
) -> None:
    queue = unserved_queue()

    outcome = fleet.launch("whole", scratch, tags={"dagster-taskiq/queue": queue, **tags})

    (sent,) = [
        event.engine_event_data.metadata
        for event in outcome.of(DagsterEventType.ENGINE_EVENT)
        if "Sent the run" in str(event.message)
    ]
    assert sent["priority"].value == priority
    assert sent["queue"].value == queue
    assert sent["task_id"].value == outcome.run_id
    assert fleet.terminate(outcome)


def test_a_run_of_higher_priority_is_executed_first(
    fleet: Fleet, scratch: Scratch, tmp_path: Path
) -> None:
    asked = [
        ("none", {}),
        ("low", {"dagster-taskiq/run_priority": "-1"}),
        ("high", {"dagster-celery/run_priority": "10"}),
        ("higher", {"dagster-taskiq/run_priority": "11", "dagster-celery/run_priority": "-5"}),
        ("middle", {"dagster/priority": "5"}),
        ("none, later", {}),
    ]
    with held_slots(fleet, tmp_path) as free:
        runs = [
            fleet.launch("whole_in_turn", scratch, tags={"turn": turn, **tags})
            for turn, tags in asked
        ]
        assert waiting_in(fleet, fleet.settings.queue) == len(asked)
        free[0]()  # one slot: they run one after the other
        for outcome in runs:
            fleet.wait(outcome)

    first = ["higher", "high"]
    if has_limit(fleet.settings, Limit.TEN_LEVELS):  # to which 11 is no more than 10
        first.reverse()
    assert scratch.lines("turns") == [*first, "middle", "none", "none, later", "low"]


def test_a_priority_that_is_no_number_fails_the_launch(fleet: Fleet, scratch: Scratch) -> None:
    queue = unserved_queue()
    tags = {"dagster-taskiq/queue": queue, "dagster-taskiq/run_priority": "urgent"}
    outcome = fleet.create("whole", scratch, tags=tags)

    with pytest.raises(ConfigError, match=r"dagster-taskiq/run_priority.*'urgent'"):
        fleet.instance.launch_run(outcome.run_id, fleet.workspace.create_request_context())

    assert outcome.status is DagsterRunStatus.FAILURE
    assert any("must be an integer" in _all_text(event) for event in outcome.events)
    assert waiting_in(fleet, queue) == 0


def _all_text(event: object) -> str:
    return f"{event!r} {getattr(event, 'message', '')}"


@pytest.mark.parametrize(
    ("monitoring", "said"),
    [
        ({"enabled": True, "start_timeout_seconds": 77}, True),
        ({"enabled": True, "start_timeout_seconds": 0}, False),
        ({"enabled": False}, False),
    ],
)
def test_the_start_timeout_is_said_where_run_monitoring_has_one(
    fleet: Fleet,
    code_server: GrpcServerTarget,
    scratch: Scratch,
    tmp_path: Path,
    monitoring: Mapping[str, object],
    said: bool,
) -> None:
    home = tmp_path / "monitored"
    home.mkdir()
    with open_fleet(home, fleet.settings, code_server, run_monitoring=monitoring) as monitored:
        outcome = monitored.launch(
            "whole", scratch, tags={"dagster-taskiq/queue": unserved_queue()}
        )

        assert outcome.says("Sent the run")
        assert outcome.says("start_timeout_seconds") is said
        assert outcome.says("within 77 s") is said
        assert outcome.says("run monitoring is off") is not monitoring["enabled"]
        assert monitored.terminate(outcome)


def test_no_event_of_a_run_shows_the_password_of_the_broker(
    code_server: GrpcServerTarget, scratch: Scratch, dagster_home: Path
) -> None:
    with own_redis("--requirepass", "hunter2") as server, ExitStack() as stack:
        mine = Settings(broker=f"redis://default:hunter2@127.0.0.1:{server.port}/0")
        fleet = stack.enter_context(open_fleet(dagster_home, mine, code_server))
        sent = fleet.launch("whole", scratch)
        server.stop()
        away = fleet.create("whole", scratch)
        with pytest.raises(ServerUnavailableError) as raised:
            fleet.instance.launch_run(away.run_id, fleet.workspace.create_request_context())
        assert not fleet.terminate(sent)

    assert f"127.0.0.1:{server.port}" in str(raised.value)
    assert away.status is DagsterRunStatus.FAILURE
    texts = [_all_text(event) for outcome in (sent, away) for event in outcome.events]
    assert sum("***" in text for text in texts) >= 3, "sent, not sent, not stopped"
    assert not [text for text in (*texts, str(raised.value)) if "hunter2" in text]


def failure_of(outcome: Outcome) -> str:
    """Return what a run's last event says, with the error in it where there is one."""
    (event,) = outcome.of(DagsterEventType.RUN_FAILURE)
    return _all_text(event)


# The code of a run.

#: A code location: what its module reads as it is loaded, and what its op imports as it runs.
SHOP = f'''
import os

from dagster import Definitions, OpExecutionContext, in_process_executor, job, op

from compat_tests.executor.scratch import Scratch

INCLUDED = os.environ.get("{included_module.MARK}", "not yet")


@op
def sell(context: OpExecutionContext) -> None:
    import helpers_module

    scratch = Scratch.of(context)
    scratch.note("sold", helpers_module.NAME)
    scratch.note("included", INCLUDED)


@job(executor_def=in_process_executor)
def shop() -> None:
    sell()


defs = Definitions(jobs=[shop])
'''


@contextmanager
def code_location(directory: Path, helper: str) -> Iterator[GrpcServerTarget]:
    """Serve the shop from a directory, whose ``helpers_module`` has a name of its own."""
    (directory / "shop.py").write_text(SHOP)
    (directory / "helpers_module.py").write_text(f"NAME = {helper!r}\n")
    arguments = ("--python-file", str(directory / "shop.py"))
    with running_code_server(
        directory, *arguments, "--working-directory", str(directory)
    ) as target:
        yield target


@pytest.fixture(scope="module")
def shops(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[GrpcServerTarget]]:
    """Two code locations in two directories, with modules of the same names."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(code_location(tmp_path_factory.mktemp(name), name))
            for name in ("baker", "butcher")
        ]


@contextmanager
def serving(fleet: Fleet, target: GrpcServerTarget) -> Iterator[Fleet]:
    """Launch from another code location."""
    with WorkspaceProcessContext(fleet.instance, target) as workspace:
        yield replace(fleet, workspace=workspace)


def test_runs_of_two_code_locations_see_their_own_modules_of_the_same_name(
    settings: Settings,
    dagster_home: Path,
    shops: list[GrpcServerTarget],
    scratch: Scratch,
    start_worker: StartWorker,
) -> None:
    """On one slot, in turn; what ``include`` names is imported before either location."""
    mine = settings.replace(include=(included_module.__name__,))
    with ExitStack() as stack:
        fleet = stack.enter_context(open_fleet(dagster_home, mine, shops[0]))
        other = stack.enter_context(serving(fleet, shops[1]))
        start_worker("-c", "1")
        for each in (fleet, other, other, fleet):
            outcome = each.run("shop", scratch)
            assert outcome.status is DagsterRunStatus.SUCCESS

    assert [name[:6] for name in scratch.lines("sold")] == ["baker", "butche", "butche", "baker"]
    assert scratch.lines("included") == ["included"] * 4


@pytest.fixture(scope="module")
def doomed_shop(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[GrpcServerTarget, Path]]:
    """A code location whose file the tests spoil, after its server has loaded it."""
    directory = tmp_path_factory.mktemp("doomed")
    with code_location(directory, "doomed") as target:
        yield target, directory / "shop.py"


SPOILT = pytest.mark.parametrize(
    ("text", "problem"),
    [(None, "shop.py"), ("raise LookupError('no such shelf')", "LookupError: no such shelf")],
    ids=["gone", "raises"],
)


def run_spoilt(
    fleet: Fleet, shop: tuple[GrpcServerTarget, Path], scratch: Scratch, text: str | None
) -> Outcome:
    """Run a job whose file is gone, or holds another text, since its server has loaded it."""
    target, path = shop
    path.unlink(missing_ok=True)
    if text is not None:
        path.write_text(text)
    with serving(fleet, target) as doomed:
        return doomed.run("shop", scratch)


@SPOILT
def test_a_job_that_the_worker_cannot_load_fails_its_run(
    fleet: Fleet,
    doomed_shop: tuple[GrpcServerTarget, Path],
    scratch: Scratch,
    text: str | None,
    problem: str,
) -> None:
    outcome = run_spoilt(fleet, doomed_shop, scratch, text)

    assert outcome.status is DagsterRunStatus.FAILURE
    assert len(outcome.of(DagsterEventType.RUN_FAILURE)) == 1
    worker = fleet.worker
    assert outcome.says(f"Worker {worker.name} on {worker.host} has taken the run")
    assert any(problem in _all_text(event) for event in outcome.events)
    assert not scratch.lines("sold")


@SPOILT
def test_the_failure_of_a_run_that_cannot_be_loaded_names_worker_and_problem(
    fleet: Fleet,
    doomed_shop: tuple[GrpcServerTarget, Path],
    scratch: Scratch,
    text: str | None,
    problem: str,
) -> None:
    """In the one event that alerts show, not somewhere before it."""
    outcome = run_spoilt(fleet, doomed_shop, scratch, text)

    worker = fleet.worker
    assert worker.name in failure_of(outcome)
    assert problem in failure_of(outcome)


def test_an_include_that_cannot_be_imported_fails_the_run(
    fleet: Fleet, code_server: GrpcServerTarget, scratch: Scratch, tmp_path: Path
) -> None:
    home = tmp_path / "including"
    home.mkdir()
    mine = fleet.settings.replace(include=("compat_tests.broken_module",))
    with open_fleet(home, mine, code_server) as including:
        outcome = including.run("whole", scratch)

        assert outcome.status is DagsterRunStatus.FAILURE
        worker = fleet.worker
        assert worker.name in failure_of(outcome)
        assert "Cannot import compat_tests.broken_module" in failure_of(outcome)
        assert "include" in failure_of(outcome)
    assert scratch.count("first") == 0


# Messages that come more than once.


def order_of(fleet: Fleet, outcome: Outcome) -> TaskRequest:
    """Return the order with which a run is sent, to send it once more."""
    from dagster._grpc.types import ExecuteRunArgs
    from dagster._serdes import pack_value

    origin = outcome.run.job_code_origin
    assert origin is not None
    args = ExecuteRunArgs(origin, outcome.run_id, fleet.instance.get_ref(), True)
    return TaskRequest(
        id=outcome.run_id,
        name=EXECUTE_JOB,
        kwargs={"execute_job_args_packed": pack_value(args), "include": []},
        queue=run_queue(fleet.settings.queue),
        run_id=outcome.run_id,
    )


def worker_log(fleet: Fleet) -> str:
    (log,) = Path(fleet.instance.root_directory).glob("shared-*.log")
    return log.read_text(errors="replace")


def forget_task(fleet: Fleet, task_id: str) -> None:
    """Delete what the backend knows of a task, as a server does that has lost its data."""
    settings = fleet.settings
    url = settings.backend_url
    if url.startswith("sqlite"):
        import sqlite3

        path = url.removeprefix("sqlite:///")
        with contextlib.closing(sqlite3.connect(path, timeout=30)) as file, file:
            deleted = file.execute("DELETE FROM dagster_taskiq_tasks WHERE id = ?", (task_id,))
            assert deleted.rowcount == 1
    elif url.startswith("postgresql"):
        with our_tables(url) as cursor:
            cursor.execute("DELETE FROM dagster_taskiq_tasks WHERE id = %s", (task_id,))
            assert cursor.rowcount == 1
    elif url.startswith("amqp"):
        asyncio.run(forget_task_on_rabbitmq(settings, task_id))
    else:
        import redis

        with redis.Redis.from_url(url) as server:
            assert server.delete(f"{settings.prefix}:task:{task_id}") == 1


async def forget_task_on_rabbitmq(settings: Settings, task_id: str) -> None:

    connection = RabbitConnection(settings.broker, {}, settings.connect_timeout)
    await connection.open()
    records = records_of(connection, settings.prefix)
    known = await records.change(task_shard(task_id), lambda record: record.pop(task_id, None))
    await connection.close()
    assert known is not None


def assert_ran_once(outcome: Outcome, scratch: Scratch) -> None:
    assert outcome.status is DagsterRunStatus.SUCCESS
    assert scratch.count("waiting") == scratch.count("released") == 1
    assert len(outcome.of(DagsterEventType.RUN_START)) == 1
    outcome.assert_sound()


def test_a_run_that_is_sent_again_before_it_starts_is_executed_once(
    fleet: Fleet, scratch: Scratch, tmp_path: Path
) -> None:
    with held_slots(fleet, tmp_path):
        outcome = fleet.launch("whole_that_waits", scratch)
        fleet.client.submit(order_of(fleet, outcome))
        fleet.client.submit(order_of(fleet, outcome))
        assert waiting_in(fleet, fleet.settings.queue) == 3
    scratch.wait_for("waiting")
    eventually(lambda: worker_log(fleet).count(f"Dropped task {outcome.run_id}") == 2, "dropped")
    scratch.note("release")

    assert_ran_once(fleet.wait(outcome), scratch)
    assert waiting_in(fleet, fleet.settings.queue) == 0


def test_a_run_that_is_sent_again_as_it_runs_and_after_its_end_is_executed_once(
    fleet: Fleet, scratch: Scratch
) -> None:
    outcome = fleet.launch("whole_that_waits", scratch)
    scratch.wait_for("waiting")
    fleet.client.submit(order_of(fleet, outcome))
    dropped = f"Dropped task {outcome.run_id}"
    eventually(lambda: f"{dropped}: it is STARTED" in worker_log(fleet), "the second is dropped")
    scratch.note("release")
    fleet.wait(outcome)
    eventually(lambda: _state(fleet, outcome) == "SUCCESS", "the task has ended")
    fleet.client.submit(order_of(fleet, outcome))
    eventually(lambda: f"{dropped}: it is SUCCESS" in worker_log(fleet), "the third is dropped")

    assert_ran_once(outcome, scratch)


def test_a_run_that_is_sent_again_when_its_task_is_forgotten_is_executed_once(
    fleet: Fleet, scratch: Scratch
) -> None:
    """The run's own status is the last to decide."""
    outcome = fleet.launch("whole_that_waits", scratch)
    scratch.note("release")
    fleet.wait(outcome)
    eventually(lambda: _state(fleet, outcome) == "SUCCESS", "the task has ended")
    forget_task(fleet, outcome.run_id)
    fleet.client.submit(order_of(fleet, outcome))
    eventually(lambda: outcome.says("Dropped the run's task", "SUCCESS already"), "it is said")
    eventually(lambda: _state(fleet, outcome) == "REVOKED", "the second has ended")

    assert_ran_once(outcome, scratch)


def test_a_run_whose_task_is_forgotten_is_executed_once_and_can_be_stopped(
    fleet: Fleet, scratch: Scratch
) -> None:
    outcome = fleet.launch("whole_that_waits", scratch)
    scratch.wait_for("waiting")
    forget_task(fleet, outcome.run_id)
    fleet.client.submit(order_of(fleet, outcome))
    eventually(
        lambda: (
            f"Dropped task {outcome.run_id}" in worker_log(fleet)
            or outcome.says("Dropped the run's task")
        ),
        "the second is dropped",
    )
    eventually(lambda: waiting_in(fleet, fleet.settings.queue) == 0, "nothing waits")

    assert fleet.health(outcome).status.value == "RUNNING"
    assert fleet.terminate(outcome)
    fleet.wait(outcome)
    assert outcome.status is DagsterRunStatus.CANCELED
    (pid,) = map(int, scratch.lines("waiting"))
    eventually(lambda: not psutil.pid_exists(pid), "its process is gone")
    assert scratch.count("released") == 0
    outcome.assert_sound()


def test_a_run_whose_task_is_forgotten_before_a_heartbeat_can_be_stopped(
    settings: Settings,
    code_server: GrpcServerTarget,
    scratch: Scratch,
    dagster_home: Path,
    tmp_path: Path,
) -> None:
    """No heartbeat tells of the run, and no record: only Dagster knows that somebody has begun."""
    rare = settings.replace(heartbeat_interval=10.0, lease=30.0)
    with open_fleet(dagster_home, rare, code_server) as fleet, running_worker(rare, tmp_path):
        eventually(lambda: fleet.client.workers()[0].age < 0.5, "it has just beaten")
        (before,) = fleet.client.workers()
        outcome = fleet.launch("whole_that_waits", scratch)
        scratch.wait_for("waiting")
        forget_task(fleet, outcome.run_id)
        fleet.client.submit(order_of(fleet, outcome))
        eventually(lambda: waiting_in(fleet, rare.queue) == 0, "the second is dropped")
        (now,) = fleet.client.workers()
        assert now.uptime == before.uptime, "it has not beaten since"

        assert fleet.terminate(outcome)
        fleet.wait(outcome)

        assert outcome.status is DagsterRunStatus.CANCELED
        (pid,) = map(int, scratch.lines("waiting"))
        eventually(lambda: not psutil.pid_exists(pid), "its process is gone")
        (event,) = outcome.of(DagsterEventType.RUN_CANCELED)
        assert "had not been started" not in str(event.message)
        outcome.assert_sound()


def test_a_launcher_that_is_called_twice_for_a_run_executes_it_once(
    fleet: Fleet, scratch: Scratch
) -> None:
    from dagster._core.launcher import LaunchRunContext

    outcome = fleet.launch("whole_that_waits", scratch)
    context = LaunchRunContext(outcome.run, fleet.workspace.create_request_context())
    fleet.instance.run_launcher.launch_run(context)
    eventually(lambda: f"Dropped task {outcome.run_id}" in worker_log(fleet), "one is dropped")
    scratch.note("release")

    assert_ran_once(fleet.wait(outcome), scratch)


def test_a_launch_fails_at_once_where_no_broker_answers(
    code_server: GrpcServerTarget, scratch: Scratch, dagster_home: Path
) -> None:
    nowhere = Settings(broker=f"redis://127.0.0.1:{free_port()}/0", connect_timeout=2.0)
    with open_fleet(dagster_home, nowhere, code_server) as fleet:
        outcome = fleet.create("whole", scratch)
        with pytest.raises(ServerUnavailableError, match="does not answer"):
            fleet.instance.launch_run(outcome.run_id, fleet.workspace.create_request_context())

        assert outcome.status is DagsterRunStatus.FAILURE


def _state(fleet: Fleet, outcome: Outcome) -> str:
    task = fleet.client.tasks([outcome.run_id]).get(outcome.run_id)
    return task.state.value if task else ""
