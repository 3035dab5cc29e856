"""The same with the original: what dagster-celery and Celery themselves have left is rescued."""

import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus

from compat_tests.checkout import ROOT
from compat_tests.facade.conftest import Done, end, run_cli
from compat_tests.preloaded import start_program
from compat_tests.servers import own_redis
from compat_tests.waiting import eventually

pytestmark = pytest.mark.test_all(
    "It fetches Celery. test_upgrade.py holds the same with messages and a run loop made by hand."
)

#: Where make puts the original, which the benchmarks use as well.
ORIGINAL = ROOT / ".venv-original"

#: The queue of one step of the project.
SIDE = "side-of-the-day"

#: What each run of the project notes: each attempt at each step, once.
NOTES = {
    "many, attempt 0": 1,
    "flaky 0, attempt 0": 1,
    "flaky 1, attempt 0": 1,
    "flaky 1, attempt 1": 1,
    "flaky 2, attempt 0": 1,
    "total, attempt 0": 1,
}


@pytest.fixture(scope="session")
def original() -> Path:
    """The directory with the commands of dagster-celery and Celery."""
    with (Path(tempfile.gettempdir()) / f"dagster-celery-{os.getuid()}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        subprocess.run(["make", "-C", str(ROOT), ".venv-original/.installed"], check=True)
    return ORIGINAL / "bin"


@dataclass
class Project:
    """A project on dagster-celery, in a directory of its own, on a server of its own."""

    directory: Path
    original: Path
    broker: str
    backend: str
    stack: ExitStack
    queue: str
    #: Of the executor's ``config_source``.
    options: Mapping[str, Any]

    def write(self) -> None:
        shutil.copy(ROOT / "compat_tests/facade/original_project.py", self.directory / "project.py")
        config = {
            "broker": self.broker,
            "backend": self.backend,
            "config_source": {"task_default_queue": self.queue, **self.options},
        }
        launcher = {"module": "dagster_celery.launcher", "class": "CeleryRunLauncher"}
        coordinator = {
            "module": "dagster._core.run_coordinator",
            "class": "DefaultRunCoordinator",
        }
        self._yaml(
            "dagster.yaml",
            {
                "telemetry": {"enabled": False},
                "run_launcher": {**launcher, "config": {**config, "default_queue": self.queue}},
                "run_coordinator": coordinator,
            },
        )
        self._yaml("celery.yaml", {"execution": {"config": config}})
        DagsterInstance.from_config(str(self.directory)).dispose()

    @property
    def instance(self) -> DagsterInstance:
        return DagsterInstance.from_config(str(self.directory))

    @property
    def environment(self) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        return {
            **kept,
            "PATH": f"{self.original}{os.pathsep}{os.environ['PATH']}",
            "DAGSTER_HOME": str(self.directory),
            "NOTES": str(self.directory / "notes"),
        }

    @property
    def _job(self) -> tuple[str, ...]:
        file, config = self.directory / "project.py", self.directory / "celery.yaml"
        return ("-f", str(file), "-j", "fan_out", "-c", str(config))

    def start_original(self, *command: str) -> "subprocess.Popen[bytes]":
        """Start a command of the original's environment; it is ended with the test."""
        with (self.directory / "original.log").open("ab") as log:
            process = subprocess.Popen(
                [str(self.original / command[0]), *command[1:]],
                cwd=self.directory,
                env=self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.stack.callback(self.kill, process)
        return process

    def kill(self, process: "subprocess.Popen[bytes]") -> None:
        """Kill a process with all that it has started."""
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(30)

    def execute(self) -> "subprocess.Popen[bytes]":
        """Have a process of the original execute a run: its loop sends steps to Celery."""
        return self.start_original("dagster", "job", "execute", *self._job)

    def launch(self) -> None:
        """Launch a run by the run launcher of the original."""
        assert self.start_original("dagster", "job", "launch", *self._job).wait(60) == 0

    def start_celery(self, *options: str) -> "subprocess.Popen[bytes]":
        """Start a worker of Celery's."""
        config = ("-A", "dagster_celery.app", "-y", str(self.directory / "celery.yaml"))
        command = (
            "worker",
            "start",
            *config,
            "-q",
            f"{self.queue},{SIDE}",
            "--",
            "-c",
            "1",
            *options,
        )
        return self.start_original("dagster-celery", *command)

    def start_ours(self) -> None:
        """Start a worker of this package, in place of Celery's."""
        config = ("-A", "dagster_celery.app", "-y", str(self.directory / "celery.yaml"))
        command = ["worker", "start", *config, "-q", f"{self.queue},{SIDE}", "--", "-c", "2"]
        environment = {**self.environment, "PYTHONPATH": str(ROOT)}
        log = self.directory / "ours.log"
        worker = start_program("dagster_celery", command, log, environment)
        self.stack.callback(end, worker)

    def drain(self, *arguments: str) -> Done:
        config = ("-y", str(self.directory / "celery.yaml"))
        return run_cli("drain", *config, *arguments, DAGSTER_HOME=str(self.directory))

    def runs(self) -> list[DagsterRun]:
        return list(self.instance.get_runs())

    def all_sent(self, messages: int) -> bool:
        """Whether so many messages wait, or are taken."""
        return f"Left: {messages} message(s)" in self.drain().stdout

    def notes(self) -> Counter[str]:
        """Return what the runs have noted, without their ids."""
        lines = (self.directory / "notes").read_text().splitlines()
        return Counter(f"{each.partition(' of ')[0]},{each.partition(',')[2]}" for each in lines)

    def _yaml(self, name: str, document: Any) -> None:
        (self.directory / name).write_text(yaml.safe_dump(document))


#: Names of Celery's keys on a Redis that are not those by default.
RENAMED = {
    "broker_transport_options": {
        "global_keyprefix": "project:",
        "priority_steps": [0, 2, 5, 8],
        "sep": ":",
    },
    "result_backend_transport_options": {"global_keyprefix": "results"},
    "result_expires": 600,
}


@pytest.fixture(params=["redis", "rabbitmq", "rpc-on-redis", "renamed"])
def project(request: pytest.FixtureRequest, tmp_path: Path, original: Path) -> Iterator[Project]:
    with ExitStack() as stack:
        if request.param == "rabbitmq":
            broker = str(request.getfixturevalue("rabbitmq_url")).replace("amqp://", "pyamqp://")
        else:
            broker = stack.enter_context(own_redis()).url
        backend = broker if request.param in ("redis", "renamed") else "rpc://"
        options = RENAMED if request.param == "renamed" else {}
        queue = f"day-{uuid.uuid4().hex[:8]}"
        project = Project(tmp_path, original, broker, backend, stack, queue, options)
        project.write()
        yield project


def test_what_the_original_has_sent_is_executed_once_and_answered(project: Project) -> None:
    loop = project.execute()
    project.launch()
    eventually(lambda: project.all_sent(2))
    if project.options:
        # As a restart or a proxy does: the run loop lives on without its subscription.
        redis.Redis.from_url(project.broker).client_kill_filter(_type="pubsub")
    project.start_ours()

    done = project.drain("--rescue", "--wait", "100")

    assert done.returncode == 0, done.stdout + done.stderr
    assert loop.wait(60) == 0, (project.directory / "original.log").read_text()
    eventually(lambda: {run.status for run in project.runs()} == {DagsterRunStatus.SUCCESS})
    assert project.notes() == {text: 2 * times for text, times in NOTES.items()}
    again = project.drain("--rescue")
    assert again.returncode == 0
    assert "Nothing is left." in again.stdout


def test_what_killed_workers_had_taken_is_rescued(project: Project) -> None:
    celery = project.start_celery()
    # The first run is executed by the worker, and its loop waits for a step that the worker has no
    # slot for; the second one waits.
    project.launch()
    eventually(lambda: any(run.status is DagsterRunStatus.STARTED for run in project.runs()))
    project.launch()
    eventually(lambda: not project.all_sent(0))
    refused = project.drain("--rescue")
    assert refused.returncode == 2
    assert "Celery's workers consume there (1 of " in refused.stderr
    project.kill(celery)
    eventually(lambda: project.all_sent(2))
    project.start_ours()

    def rescued() -> bool:
        # The server may still count the consumer that was killed.
        return project.drain("--rescue", "--wait", "100").returncode == 0

    eventually(rescued)

    eventually(lambda: {run.status for run in project.runs()} == {DagsterRunStatus.SUCCESS})
    assert project.notes() == {text: 2 * times for text, times in NOTES.items()}


def test_a_run_whose_process_is_gone_fails_with_the_reason(project: Project) -> None:
    # Run monitoring does not resume it: no run launcher has sent it.
    with (project.directory / "dagster.yaml").open("a") as file:
        yaml.safe_dump({"run_monitoring": {"enabled": True, "max_resume_run_attempts": 1}}, file)
    loop = project.execute()
    eventually(lambda: project.all_sent(1))
    project.kill(loop)
    project.start_ours()

    def rescued() -> bool:
        return project.drain("--rescue").returncode == 0

    eventually(rescued)

    (run,) = project.runs()
    assert run.status is DagsterRunStatus.FAILURE
    events = project.instance.all_logs(run.run_id)
    assert any("nobody went on with it for" in str(each.message) for each in events)
    assert project.notes() == {"many, attempt 0": 1}
