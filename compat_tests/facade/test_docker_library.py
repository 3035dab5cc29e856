"""dagster-celery-docker, a library with an executor and tasks of its own, runs unchanged.

Its package is the published one. What stands in for Docker runs the container's command in a
process of this machine.
"""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from dagster import DagsterInstance, DagsterRunStatus

from compat_tests.checkout import ROOT
from compat_tests.facade.conftest import OldFleet, end
from compat_tests.preloaded import Program, start_program
from compat_tests.waiting import eventually
from legacy_tests.sdists import DOCKER, unpack

CLIENT = """
import os
from compat_tests.preloaded import run_program
from docker.errors import ContainerError

class Containers:
    def run(self, image, command, environment, network=None, **options):
        with open(os.environ["STARTED"], "a") as file:
            file.write(f"{image} {environment.get('GREETING')} {sorted(options)}\\n")
        module, *arguments = command
        done = run_program(module, arguments, os.environ, timeout=300)
        output = done.stdout + done.stderr
        if done.returncode:
            raise ContainerError(None, done.returncode, command, image, output)
        return output.encode()

class Client:
    containers = Containers()

def from_env():
    return Client()
"""

ERRORS = """
class ContainerError(Exception):
    def __init__(self, container, exit_status, command, image, stderr):
        super().__init__(f"The container of {image} has ended with {exit_status}.")
        self.stderr = stderr
"""

#: Each step is a process that imports Dagster, which takes long on a busy machine.
pytestmark = pytest.mark.timeout(400)

JOBS = """
import os, time
from pathlib import Path
from compat_tests.facade.shapes import fan
from dagster import Definitions, job, op
from dagster_celery_docker import celery_docker_executor

@op(tags={"dagster-celery/priority": "3"})
def one():
    return 1

@op
def two(number):
    assert number == 1
    return number + 1

@op
def wrong(number):
    raise ValueError("it does not work")

def beside(name):
    return Path(os.environ["STARTED"]).with_name(name)

@op
def long_one():
    beside("begun").touch()
    deadline = time.monotonic() + 120
    while not beside("release").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    beside("ended").touch()

@job(executor_def=celery_docker_executor)
def long_job():
    two(long_one())

@job(executor_def=celery_docker_executor)
def fan_job():
    fan()

@job(executor_def=celery_docker_executor)
def docker_job():
    two(one())

@job(executor_def=celery_docker_executor)
def failing_job():
    two(wrong(one()))

defs = Definitions(jobs=[docker_job, failing_job, fan_job, long_job])
"""


@dataclass
class Project:
    fleet: OldFleet
    directory: Path

    @property
    def started(self) -> list[str]:
        """A line for each container that was started."""
        path = self.directory / "started"
        return path.read_text().splitlines() if path.exists() else []

    def start(self, job: str) -> "subprocess.Popen[bytes] | Program":
        """Start a run; what it logs is in a file beside the project."""
        where = ("-f", str(self.directory / "jobs.py"), "-c", "run.yaml")
        return start_program(
            "dagster",
            ["job", "execute", *where, "-j", job],
            self.directory / f"{job}.log",
            {
                **os.environ,
                "PYTHONPATH": python_path(self.directory),
                "DAGSTER_HOME": str(self.fleet.home),
            },
            directory=self.directory,
        )

    def execute(self, job: str) -> tuple[int, str]:
        """Run a job; return the exit code, and what was logged."""
        code = self.start(job).wait(300)
        return code, (self.directory / f"{job}.log").read_text()


def python_path(directory: Path) -> str:
    return os.pathsep.join((str(directory), str(ROOT)))


@pytest.fixture(scope="module")
def project(
    old_fleet_of_kind: Callable[[str], OldFleet],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Project]:
    fleet = old_fleet_of_kind("embedded")
    directory = tmp_path_factory.mktemp("docker-project")
    unpack(DOCKER, "dagster_celery_docker", directory)
    (directory / "docker").mkdir()
    for name, text in (("__init__", ""), ("client", CLIENT), ("errors", ERRORS)):
        (directory / "docker" / f"{name}.py").write_text(text)
    (directory / "jobs.py").write_text(JOBS)
    source = {**fleet.config["config_source"], "task_default_queue": "docker"}
    docker = {"image": "shop/steps:1", "env_vars": ["GREETING"]}
    config = {**fleet.config, "config_source": source, "docker": docker}
    (directory / "run.yaml").write_text(yaml.safe_dump({"execution": {"config": config}}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STARTED", str(directory / "started"))
        patch.setenv("GREETING", "hello")
        process = fleet.start(
            *("docker", "-q", "docker", "--", "-c", "2"),
            app="dagster_celery_docker.app",
            path=python_path(directory),
        )
        try:
            yield Project(fleet, directory)
        finally:
            end(process)


def test_each_step_is_a_container(project: Project) -> None:
    code, output = project.execute("docker_job")

    assert code == 0, output
    assert project.started == ["shop/steps:1 hello ['auto_remove', 'detach']"] * 2
    with DagsterInstance.from_config(str(project.fleet.home)) as instance:
        (run,) = instance.get_runs(limit=1)
        said = [entry.message for entry in instance.all_logs(run.run_id)]
    assert any("Executing steps one in Docker container shop/steps:1" in each for each in said)


@pytest.mark.test_all("that of test_loop.py, for any library that submits steps itself")
def test_a_step_that_fails_ends_the_run(project: Project) -> None:
    before = len(project.started)

    code, output = project.execute("failing_job")

    assert code != 0
    assert "it does not work" in output
    assert len(project.started) == before + 2  # one, and wrong; two never


def test_several_steps_are_ready_at_once(project: Project) -> None:
    before = len(project.started)

    code, output = project.execute("fan_job")

    assert code == 0, output
    # numbers, twice more, total, and flaky twice.
    assert len(project.started) == before + 6


def test_a_run_that_is_terminated_waits_for_a_container_that_ends(project: Project) -> None:
    begun, release, ended = (project.directory / each for each in ("begun", "release", "ended"))
    process = project.start("long_job")
    with DagsterInstance.from_config(str(project.fleet.home)) as instance:
        eventually(begun.exists, "the container has begun")
        (run,) = instance.get_runs(limit=1)
        # What Dagster's launchers do when somebody clicks on "Terminate".
        instance.report_run_canceling(run)
        process.send_signal(signal.SIGINT)
        wait_until_said(instance, run.run_id, "cancelling the steps that wait")
        wait_until_cancelled(project.fleet, f"{run.run_id}:long_one:0")
        release.touch()
        process.wait(120)
        assert ended.exists()
        found = instance.get_run_by_id(run.run_id)
        assert found is not None and found.status is DagsterRunStatus.CANCELED
        said = [str(entry.message) for entry in instance.all_logs(run.run_id)]
    assert not any("Still not stopped" in each for each in said)


def wait_until_said(instance: DagsterInstance, run_id: str, words: str) -> None:
    def is_said() -> bool:
        return any(words in str(entry.message) for entry in instance.all_logs(run_id))

    eventually(is_said, f"the run's log has: {words}")


def wait_until_cancelled(fleet: OldFleet, task_id: str) -> None:
    """Wait until the worker has the command."""
    client = fleet.app().client

    def cancelled() -> bool:
        return client.tasks([task_id])[task_id].revoke_requested

    eventually(cancelled, "the task is cancelled")
    log = fleet.home / "docker.log"
    eventually(
        lambda: f"Task {task_id} was cancelled and has" in log.read_text(),
        "the worker has the command",
    )
