"""The day of the upgrade: what is left in Celery's queues is counted, named and rescued."""

import json
import logging
import os
import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from dagster import DagsterEvent, DagsterEventType, DagsterInstance, DagsterRun, DagsterRunStatus
from dagster import reconstructable as of_function
from dagster._core.definitions.reconstruct import ReconstructableJob
from dagster._core.events import EngineEventData
from dagster._core.execution.plan.handle import StepHandle
from dagster._core.execution.plan.objects import StepRetryData
from dagster._core.execution.plan.state import KnownExecutionState
from dagster._grpc.types import ExecuteRunArgs, ExecuteStepArgs
from dagster._serdes import deserialize_value, pack_value
from dagster._utils.error import SerializableErrorInfo

from compat_tests.brokers import OLD_RABBITMQ, OLD_REDIS
from compat_tests.conftest import make_settings
from compat_tests.facade import celerys_messages as celerys
from compat_tests.facade.celerys_messages import OnRabbit, OnRedis
from compat_tests.facade.conftest import Done, OldFleet, end, run_cli
from compat_tests.facade.old_project import old_job
from compat_tests.waiting import eventually
from dagster_celery._upgrade.left_queues import KEPT
from dagster_celery._upgrade.messages import Kind, read_redis
from dagster_celery._upgrade.notices import leftover_notices
from dagster_taskiq.client import client_for
from dagster_taskiq.tags import OLDER_NAMES, TASK_ID_TAG
from dagster_taskiq.wire.records import Task

KINDS = (
    "redis",
    "rabbitmq",
    *(
        pytest.param(old, marks=pytest.mark.test_all("the newer one holds the same on every push"))
        for old in (OLD_REDIS, OLD_RABBITMQ)
    ),
)


@dataclass
class House(OldFleet):
    """A project on the day: its settings, its Dagster instance, and Celery's side of its server."""

    kind: str = ""
    queue: str = field(default_factory=lambda: f"crunch-{uuid.uuid4().hex[:8]}")

    @property
    def is_redis(self) -> bool:
        return self.kind in ("redis", OLD_REDIS)

    @property
    def config(self) -> dict[str, Any]:
        config = super().config
        if self.is_redis:
            config["backend"] = self.settings.broker
        config["config_source"]["task_default_queue"] = self.queue
        return config

    @property
    def celery(self) -> OnRedis | OnRabbit:
        if self.is_redis:
            return OnRedis(self.settings.broker, self.settings.prefix)
        return OnRabbit(self.settings.broker)

    @property
    def instance(self) -> DagsterInstance:
        return DagsterInstance.from_config(str(self.home))

    def drain(self, *arguments: str) -> Done:
        config = str(self.config_file)
        return self.cli("drain", "-y", config, "-q", self.queue, *arguments)

    def write_dagster_yaml(self, default_queue: str = "", **more: Any) -> None:
        launcher = {"module": "dagster_celery.launcher", "class": "CeleryRunLauncher"}
        config = {**self.config, "default_queue": default_queue or self.queue}
        document = {"telemetry": {"enabled": False}, "run_launcher": {**launcher, "config": config}}
        document |= more
        (self.home / "dagster.yaml").write_text(yaml.safe_dump(document))

    def new_run(self, notes: Path, celery_task: str = "") -> DagsterRun:
        """Make a run that dagster-celery's launcher has sent, or that its executor executes."""
        job = job_of_project()
        ops = {name: {"config": {"directory": str(notes)}} for name in ("aside", "then")}
        return self.instance.create_run_for_job(
            job_def=old_job,
            run_config={"execution": {"config": self.config}, "ops": ops},
            status=DagsterRunStatus.STARTING,
            tags={OLDER_NAMES[TASK_ID_TAG]: celery_task} if celery_task else {},
            job_code_origin=job.get_python_origin(),
        )

    def run_message(self, run: DagsterRun, task_id: str) -> dict[str, Any]:
        args = ExecuteRunArgs(
            job_origin=job_of_project().get_python_origin(),
            run_id=run.run_id,
            instance_ref=self.instance.get_ref(),
            set_exit_code_on_failure=True,
        )
        packed = {"execute_job_args_packed": pack_value(args)}
        return celerys.document(
            "execute_job", packed, task_id=task_id, queue=self.queue, priority=0
        )

    def report_step(self, run: DagsterRun, kind: DagsterEventType, step: str = "aside") -> None:
        """Write an event of a step of a run."""
        up_for_retry = DagsterEventType.STEP_UP_FOR_RETRY
        data = StepRetryData(SerializableErrorInfo("no", [], None))
        event = DagsterEvent(
            kind.value,
            job_name=run.job_name,
            step_handle=StepHandle.parse_from_key(step),
            step_key=step,
            event_specific_data=data if kind is up_for_retry else None,
        )
        self.instance.report_dagster_event(event, run.run_id)

    def step_message(
        self, run: DagsterRun, task_id: str, reply_to: str = "", earlier: int = 0
    ) -> dict[str, Any]:
        """Make the message of the first step of a run, and write that the run has started."""
        start = DagsterEvent(DagsterEventType.RUN_START.value, job_name=run.job_name)
        self.instance.report_dagster_event(start, run.run_id)
        args = ExecuteStepArgs(
            job_origin=job_of_project().get_python_origin(),
            run_id=run.run_id,
            step_keys_to_execute=["aside"],
            instance_ref=self.instance.get_ref(),
            known_state=KnownExecutionState(previous_retry_attempts={"aside": earlier}),
        )
        kwargs = {
            "execute_step_args_packed": pack_value(args),
            "executable_dict": dict(job_of_project().to_dict()),
        }
        return celerys.document(
            "execute_plan", kwargs, task_id=task_id, queue=self.queue, reply_to=reply_to
        )

    def status(self, run: DagsterRun) -> DagsterRunStatus:
        now = self.instance.get_run_by_id(run.run_id)
        assert now is not None
        return now.status

    def start_worker(self, stack: ExitStack) -> None:
        worker = self.start("ours", "-q", f"{self.queue},side", "--", "-c", "1")
        stack.callback(end, worker)


def job_of_project() -> ReconstructableJob:
    return of_function(old_job)


@pytest.fixture(params=KINDS)
def house(request: pytest.FixtureRequest, tmp_path: Path, home_template: Path) -> Iterator[House]:
    kind = str(request.param)
    home = tmp_path / "home"
    home.mkdir()
    house = House(make_settings(kind, tmp_path, request), home, kind)
    house.write_dagster_yaml()
    yield house
    if isinstance(house.celery, OnRabbit):
        house.celery.delete(house.queue)
        house.celery.delete(f"{house.settings.prefix}:{KEPT}")


def test_a_message_is_read_whatever_it_is() -> None:
    step = celerys.document("execute_plan", {"execute_step_args_packed": {}}, task_id="some-id")
    read = read_redis(json.dumps(step).encode(), "dagster")
    assert (read.id, read.task, read.kind, read.priority) == (
        "some-id",
        "execute_plan",
        Kind.STEP,
        5,
    )
    of_library = {**step, "headers": {**step["headers"], "task": "execute_step_docker"}}
    assert read_redis(json.dumps(of_library).encode(), "dagster").kind is Kind.STEP
    run = celerys.document("resume_job", {"execute_job_args_packed": {"a": 1}}, task_id="other")
    read = read_redis(json.dumps(run).encode(), "dagster")
    assert (read.kind, read.packed) == (Kind.RUN, {"a": 1})

    unreadable = {
        "no JSON": b"\x80\x04K\x01.",
        "no message of kombu's": b"[1, 2]",
        "protocol 2": json.dumps({**step, "headers": {}}).encode(),
        "python-serialize": json.dumps(
            {**step, "content-type": "application/x-python-serialize"}
        ).encode(),
        "compressed": json.dumps(
            {**step, "headers": {**step["headers"], "compression": "application/x-gzip"}}
        ).encode(),
        "no JSON of Celery's": json.dumps({**step, "body": "???"}).encode(),
    }
    for words, payload in unreadable.items():
        read = read_redis(payload, "dagster")
        assert words in read.problem
        assert read.kind is Kind.OTHER
        assert read.packed is None


@pytest.mark.each_broker
def test_what_waits_is_counted_in_all_of_celerys_lists(house: House, tmp_path: Path) -> None:
    assert house.drain().returncode == 0
    run = house.new_run(tmp_path, celery_task="a-celery-task")
    for priority in (0, 4, 9):
        message = celerys.document("own", {}, task_id=uuid.uuid4().hex, priority=priority)
        house.celery.put(house.queue, message)
    taken = "0"
    if isinstance(house.celery, OnRedis):
        house.celery.take(house.queue, celerys.document("own", {}, task_id="x", queue=house.queue))
        taken = "1"

    done = house.drain()

    assert done.returncode == 1, done.stderr
    assert f"{house.queue}\t3\t{taken}" in done.stdout
    assert f"{run.run_id}\tSTARTING\tas Celery's task a-celery-task" in done.stdout
    assert house.drain("--wait", "0.1").returncode == 1
    assert house.celery.waiting(house.queue) == 3


@pytest.mark.each_broker
def test_a_worker_says_what_is_left_beside_it(house: House) -> None:
    assert leftover_notices(house.app(), [house.queue]) == []
    house.celery.put(house.queue, celerys.document("own", {}, task_id="some-id"))

    (level, text), *others = leftover_notices(house.app(), [house.queue])

    assert level == logging.WARNING
    assert f'1 in queue "{house.queue}"' in text
    assert "`dagster-celery drain`" in text
    config = str(house.config_file)
    status = house.cli("status", "-A", "dagster_celery.app", "-y", config, "--fleet")
    assert f"Warning: {text}" in status.stderr
    assert [("LOWER priorities first" in each) for _, each in others] == [True] * (house.is_redis)


@pytest.mark.each_broker
def test_what_is_left_is_rescued(house: House, tmp_path: Path) -> None:
    celery = house.celery
    launched = house.new_run(tmp_path, celery_task="a-celery-task")
    ended = house.new_run(tmp_path, celery_task="another")
    house.instance.report_run_failed(ended)
    looping = house.new_run(tmp_path)
    orphan = house.new_run(tmp_path)
    expected = uuid.uuid4().hex
    # Of an earlier rescue that was killed between the record of the step's task and its message.
    client = client_for(house.app().configuration.settings.resolved())
    record = Task(expected, name="execute_plan", queue=house.queue)
    client._call(lambda: client.backend.submitted([record]))
    celery.put(house.queue, house.run_message(launched, "a-celery-task"))
    celery.put(house.queue, house.run_message(ended, "another"))
    celery.put(house.queue, house.step_message(looping, expected, celery.expect(expected)))
    celery.put(house.queue, house.step_message(orphan, uuid.uuid4().hex, "nobody-reads-this"))
    pickled = "application/x-python-serialize"
    celery.put(house.queue, celerys.document("own", {}, task_id="pickled", content_type=pickled))
    with ExitStack() as stack:
        house.start_worker(stack)
        log = house.home / "ours.log"
        eventually(lambda: "left in Celery's queues (5 in queue" in log.read_text())
        assert "LOWER" not in log.read_text() or house.is_redis

        def all_handled() -> bool:
            assert house.drain("--rescue", "--wait", "1").returncode == 1
            return celery.waiting(house.queue) == 1

        # It gives up soon, as if it were killed while the steps are executed.
        eventually(all_handled)
        results: list[Done] = []
        rescue = threading.Thread(target=lambda: results.append(house.drain("--rescue")))
        rescue.start()
        answer = celery.result()
        # The run loop goes on, and the run ends.
        end_event = DagsterEvent(DagsterEventType.RUN_SUCCESS.value, job_name=looping.job_name)
        house.instance.report_dagster_event(end_event, looping.run_id)
        rescue.join(120)

        assert answer["status"] == "SUCCESS"
        events = [deserialize_value(each, DagsterEvent) for each in answer["result"]]
        kinds = [event.event_type for event in events]
        assert kinds.count(DagsterEventType.STEP_SUCCESS) == 1
        assert {event.step_key for event in events} == {"aside"}
        (done,) = results
        assert done.returncode == 1, "the message in pickle is still there"
        assert "pickled" in done.stdout
        assert pickled in done.stdout
        assert celery.waiting(house.queue) == 1
        assert house.status(orphan) is DagsterRunStatus.FAILURE
        eventually(lambda: house.status(launched) is DagsterRunStatus.SUCCESS)
    notes = (tmp_path / "notes").read_text().splitlines()
    assert sum(line.startswith("aside") for line in notes) == 3, "one of each run, once"


@pytest.mark.parametrize("earlier", [0, 1])
def test_a_step_that_has_begun_is_not_executed_a_second_time(
    house: House, tmp_path: Path, earlier: int
) -> None:
    celery, run, task_id = house.celery, house.new_run(tmp_path), uuid.uuid4().hex
    message = house.step_message(run, task_id, celery.expect(task_id), earlier)
    celery.put(house.queue, message)
    house.report_step(run, DagsterEventType.STEP_START)
    for _ in range(earlier):
        house.report_step(run, DagsterEventType.STEP_UP_FOR_RETRY)
        house.report_step(run, DagsterEventType.STEP_RESTARTED)
    foreign = celerys.document("own", {}, task_id="foreign")
    celery.put(house.queue, foreign)
    results: list[Done] = []
    rescue = threading.Thread(target=lambda: results.append(house.drain("--rescue")))
    rescue.start()

    answer = celery.result()

    # What comes as the message goes away that was left in the queue is seen.
    eventually(lambda: celery.waiting(house.queue) == 1)
    celery.purge(house.queue)
    ended = house.new_run(tmp_path, celery_task="another")
    house.instance.report_run_failed(ended)
    celery.put(house.queue, house.run_message(ended, "another"))
    eventually(lambda: celery.waiting(house.queue) == 0)
    house.instance.report_run_failed(run)
    rescue.join(60)
    assert answer["status"] == "FAILURE"
    assert "had begun on one of Celery's workers" in answer["result"]["exc_message"][0]
    assert results[0].returncode == 0, results[0].stderr
    assert not (tmp_path / "notes").exists()


def test_a_run_is_ended_only_when_nothing_of_it_goes_on(house: House, tmp_path: Path) -> None:
    monitoring = {"enabled": True, "max_resume_run_attempts": 1}
    house.write_dagster_yaml(run_monitoring=monitoring)
    # A launcher's run is monitored; the process of another is this one; and the last one waits for
    # one more step, which a worker of Celery's has taken without acknowledging it late.
    orphan, launched, living, hanging, taken = runs = [
        house.new_run(tmp_path, celery_task=task) for task in ("", "a-task", "", "", "")
    ]
    for run in (orphan, launched, living, hanging):
        message = house.step_message(run, uuid.uuid4().hex, "nobody-reads-this")
        if run is living:
            message["headers"]["origin"] = f"gen{os.getpid()}@{socket.gethostname()}"
        house.celery.put(house.queue, message)
    for run in (hanging, taken):
        text = f'Submitting celery task for step "then" to queue "{house.queue}".'
        house.instance.report_engine_event(text, run, step_key="then")
        house.report_step(run, DagsterEventType.STEP_START, "then")
    for run in (orphan, launched, living, hanging):
        house.report_step(run, DagsterEventType.STEP_START)
    start = DagsterEvent(DagsterEventType.RUN_START.value, job_name=taken.job_name)
    house.instance.report_dagster_event(start, taken.run_id)

    done = house.drain("--rescue", "--wait", "300")

    assert done.returncode == 1, done.stderr
    assert house.status(orphan) is DagsterRunStatus.FAILURE
    for run in (launched, living, hanging):
        assert house.status(run) is DagsterRunStatus.STARTED
    assert f"{launched.run_id}: left to Dagster's run monitoring" in done.stdout
    assert f"{living.run_id}: its process (gen{os.getpid()}@" in done.stdout
    for run in (hanging, taken):
        assert f'{run.run_id}: waits for its step(s) "then", which' in done.stdout
    gone = "The process of the run has gone"
    ends = [
        sum(gone in (entry.dagster_event.message or "") for entry in log if entry.dagster_event)
        for log in (house.instance.all_logs(run.run_id) for run in runs)
    ]
    assert ends == [1, 1, 0, 0, 0]
    assert house.celery.waiting(house.queue) == 0


def test_the_queues_of_runs_are_known_from_the_launcher_and_the_log(
    house: House, tmp_path: Path
) -> None:
    runs, logged = f"{house.queue}-runs", f"{house.queue}-logged"
    house.write_dagster_yaml(default_queue=runs)
    run = house.new_run(tmp_path, celery_task="a-task")
    data = EngineEventData({"Celery Queue": logged})
    house.instance.report_engine_event("It was forwarded.", run, data)

    found = house.cli("drain", "-y", str(house.config_file)).stdout.split()

    assert {house.queue, runs, logged} <= set(found)


@pytest.mark.test_all("steps are rescued on every push, and the tasks of libraries tested")
def test_the_step_of_a_library_is_answered_with_its_result(house: House, tmp_path: Path) -> None:
    celery, run, task_id = house.celery, house.new_run(tmp_path), uuid.uuid4().hex
    message = house.step_message(run, task_id, celery.expect(task_id))
    message["headers"]["task"] = "execute_step_of_library"
    celery.put(house.queue, message)
    results: list[Done] = []
    with ExitStack() as stack:
        house.start_worker(stack)
        rescue = threading.Thread(target=lambda: results.append(house.drain("--rescue")))
        rescue.start()
        answer = celery.result()
        house.instance.report_run_failed(run)
        rescue.join(60)
    assert (answer["status"], answer["result"]) == ("SUCCESS", ["the events of ['aside']"])
    assert results[0].returncode == 0, results[0].stderr


@pytest.mark.each_broker
def test_a_rescue_is_refused_while_celerys_workers_consume(house: House) -> None:
    house.celery.put(house.queue, celerys.document("own", {}, task_id="some-id"))
    if isinstance(house.celery, OnRedis):
        client = house.celery.client
        waits = threading.Thread(target=client.brpop, args=(["some-other-list"], 60))
        waits.start()
        eventually(lambda: any(each["cmd"] == "brpop" for each in client.client_list()))
        done = house.drain("--rescue")
        client.lpush("some-other-list", "end")
        waits.join()
    else:
        consumed: list[Done] = []

        async def consume(channel: Any) -> None:
            await channel.basic_qos(prefetch_count=1)
            await channel.basic_consume(house.queue, ignore)
            consumed.append(house.drain("--rescue"))

        async def ignore(_: Any) -> None:
            pass

        house.celery.on_channel(consume)
        (done,) = consumed

    assert done.returncode == 2
    assert "Celery's workers consume there (1 of " in done.stderr
    assert "--force" in done.stderr


def test_a_backend_that_cannot_be_answered_refuses_a_rescue(house: House) -> None:
    done = run_cli(
        *("drain", "-y", str(house.config_file), "--rescue"),
        DAGSTER_HOME=str(house.home),
        CELERY_RESULT_BACKEND="db+postgresql://user:secret@host/results",
    )
    assert done.returncode == 2
    assert 'The result backend "db://" cannot be answered' in done.stderr
    assert "secret" not in done.stdout + done.stderr


def test_before_the_way_back_what_was_sent_here_is_listed(house: House, tmp_path: Path) -> None:
    assert house.drain("--back").returncode == 0
    run = house.new_run(tmp_path)
    house.instance.add_run_tags(run.run_id, {TASK_ID_TAG: run.run_id})

    done = house.drain("--back")

    assert done.returncode == 1
    assert f"{run.run_id}\tSTARTING\tas task {run.run_id}" in done.stdout
    assert house.drain("--back", "--rescue").returncode == 2


def test_without_options_the_launchers_broker_is_looked_at(house: House) -> None:
    done = house.cli("drain")
    assert house.queue in done.stdout, done.stderr
    # The app of -A has the settings of the environment.
    url = house.settings.broker
    done = house.cli("drain", "-A", "dagster_celery.app", CELERY_BROKER_URL=url)
    assert url.rpartition("@")[2].rpartition(":")[2] in done.stdout, done.stderr
