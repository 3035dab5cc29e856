"""dagster-celery-docker, a library with an executor and tasks of its own, runs unchanged.

Its package is the published one, and so is Docker's client. What stands in for the engine runs the
command of a container in a process of this machine (compat_tests/facade/docker_engine.py).
"""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from dagster import DagsterInstance, DagsterRun, DagsterRunStatus

from compat_tests.checkout import ROOT
from compat_tests.facade.conftest import OldFleet, end
from compat_tests.facade.docker_engine import Engine, running_engine
from compat_tests.preloaded import Program, start_program
from compat_tests.waiting import eventually
from legacy_tests.sdists import library_here, unpack

#: Each step is a process that imports Dagster, which takes long on a busy machine.
pytestmark = pytest.mark.timeout(400)

JOBS = """
import os, time
from pathlib import Path
from compat_tests.facade.shapes import fan
from dagster import Definitions, RetryPolicy, job, op
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
    return Path(os.environ["NOTES"], name)

@op
def long_one():
    with beside("begun").open("a") as begun:
        begun.write(f"{os.getpid()}\\n")
    deadline = time.monotonic() + 120
    while not beside("release").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    beside("ended").touch()
    return 1

@op
def dies():
    beside("begun").touch()
    while not beside("release").exists():
        time.sleep(0.05)
    os._exit(7)

@op(retry_policy=RetryPolicy(max_retries=1))
def flaky(context):
    assert context.retry_number == 1
    return 1

@job(executor_def=celery_docker_executor)
def flaky_job():
    flaky()

@job(executor_def=celery_docker_executor)
def dying_job():
    two(dies())

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

defs = Definitions(jobs=[docker_job, dying_job, failing_job, fan_job, flaky_job, long_job])
"""


@dataclass
class Project:
    fleet: OldFleet
    directory: Path
    engine: Engine
    #: Starts another worker, by its name and queue.
    start_worker: Callable[[str, str], "subprocess.Popen[bytes] | Program"]

    def start(self, job: str, queue: str = "docker") -> "subprocess.Popen[bytes] | Program":
        """Start a run with the config of a queue; what it logs is in a file beside the project."""
        for name in ("begun", "release", "ended"):
            self.note(name).unlink(missing_ok=True)
        where = ("-f", str(self.directory / "jobs.py"), "-c", f"{queue}.yaml")
        return start_program(
            "dagster",
            ["job", "execute", *where, "-j", job],
            self.directory / f"{job}.log",
            {**os.environ, **environment_of(self.directory, self.fleet.home)},
            directory=self.directory,
        )

    def execute(self, job: str, queue: str = "docker") -> tuple[int, str]:
        """Run a job; return the exit code, and what was logged."""
        code = self.start(job, queue).wait(300)
        return code, (self.directory / f"{job}.log").read_text()

    def note(self, name: str) -> Path:
        return self.directory / name

    @contextmanager
    def last_run(self) -> Iterator[tuple[DagsterInstance, DagsterRun]]:
        with DagsterInstance.from_config(str(self.fleet.home)) as instance:
            (run,) = instance.get_runs(limit=1)
            yield instance, run

    def said(self) -> list[str]:
        """The messages in the log of the last run."""
        with self.last_run() as (instance, run):
            return [str(entry.message) for entry in instance.all_logs(run.run_id)]

    def write_config(self, queue: str, file: str = "", **container: object) -> None:
        """Write the config of a run whose steps go to a queue.

        Args:
            queue: the queue.
            file: the name of the config, if not that of the queue.
            container: the user's own arguments of each container.
        """
        source = {**self.fleet.config["config_source"], "task_default_queue": queue}
        docker = {"image": "shop/steps:1", "env_vars": ["GREETING"], "container_kwargs": container}
        config = {**self.fleet.config, "config_source": source, "docker": docker}
        text = yaml.safe_dump({"execution": {"config": config}})
        (self.directory / f"{file or queue}.yaml").write_text(text)


def environment_of(directory: Path, home: Path) -> dict[str, str]:
    path = os.pathsep.join((str(directory), str(ROOT)))
    return {"PYTHONPATH": path, "DAGSTER_HOME": str(home), "NOTES": str(directory)}


@pytest.fixture(scope="module")
def project(
    old_fleet_of_kind: Callable[[str], OldFleet],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Project]:
    fleet = old_fleet_of_kind("embedded")
    directory = tmp_path_factory.mktemp("docker-project")
    unpack(library_here("dagster-celery-docker"), "dagster_celery_docker", directory)
    (directory / "jobs.py").write_text(JOBS)
    environment = {**os.environ, **environment_of(directory, fleet.home)}
    with (
        running_engine(directory, environment) as (engine, address),
        pytest.MonkeyPatch.context() as patch,
        ExitStack() as workers,
    ):
        patch.setenv("DOCKER_HOST", address)
        patch.setenv("GREETING", "hello")

        def start_worker(name: str, queue: str) -> "subprocess.Popen[bytes] | Program":
            process = fleet.start(
                *(name, "-q", queue, "--", "-c", "2"),
                app="dagster_celery_docker.app",
                path=environment["PYTHONPATH"],
            )
            workers.callback(end, process)
            return process

        project = Project(fleet, directory, engine, start_worker)
        for queue in (
            "docker",
            "dying",
            "draining",
            "unwatched",
            "has_image",
            "answers_creation",
            "ended",
        ):
            project.write_config(queue)
        start_worker("docker", "docker")
        yield project


@pytest.mark.oldest
def test_each_step_is_a_container_with_a_name(project: Project) -> None:
    code, output = project.execute("docker_job")

    assert code == 0, output
    one, two = project.engine.started
    assert one.body["Image"] == "shop/steps:1"
    assert one.environment == {"GREETING": "hello"}
    assert one.name.startswith("dagster-step-one-")
    assert two.labels["dagster/op"] == "two"
    assert project.engine.containers == {}
    said = project.said()
    assert any("Executing steps one in Docker container shop/steps:1" in each for each in said)
    assert f'Step "one" runs in container {one.name}.' in said


@pytest.mark.test_all("that of test_loop.py, for any library that submits steps itself")
def test_a_step_that_fails_ends_the_run(project: Project) -> None:
    before = len(project.engine.started)

    code, output = project.execute("failing_job")

    assert code != 0
    assert "it does not work" in output
    assert len(project.engine.started) == before + 2  # one, and wrong; two never


def test_several_steps_are_ready_at_once(project: Project) -> None:
    before = len(project.engine.started)

    code, output = project.execute("fan_job")

    assert code == 0, output
    # numbers, twice more, total, and flaky twice.
    names = [each.name for each in project.engine.started[before:]]
    assert len(set(names)) == 6


def test_terminating_a_run_ends_and_removes_the_container(project: Project) -> None:
    process = project.start("long_job")
    eventually(project.note("begun").exists, "the container has begun")
    with project.last_run() as (instance, run):
        # What Dagster's launchers do when somebody clicks on "Terminate".
        instance.report_run_canceling(run)
        process.send_signal(signal.SIGINT)
        process.wait(120)
        found = instance.get_run_by_id(run.run_id)
    assert found is not None and found.status is DagsterRunStatus.CANCELED
    # The step was told to end, and has; nothing of it is left.
    assert project.engine.started[-1].ended.is_set()
    assert project.engine.containers == {}
    assert not project.note("ended").exists()
    assert not any("Still not stopped" in each for each in project.said())


def test_terminating_a_run_as_docker_creates_leaves_nothing(project: Project) -> None:
    project.write_config("docker", "kept", auto_remove=False)
    before = len(project.engine.started)
    project.engine.answers_creation.clear()
    process = project.start("long_job", "kept")
    eventually(lambda: project.engine.containers, "the container is created")
    with project.last_run() as (instance, run):
        instance.report_run_canceling(run)
        process.send_signal(signal.SIGINT)
        process.wait(120)
    project.engine.answers_creation.set()
    assert project.engine.containers == {}
    assert len(project.engine.started) == before


@pytest.mark.parametrize(
    "phase",
    [
        "has_image",
        pytest.param(
            "answers_creation",
            marks=pytest.mark.test_all("the other one creates the container late, too"),
        ),
    ],
)
@pytest.mark.test_all("a worker that drains hands its watching over")
def test_a_worker_drains_before_the_container_has_started(phase: str, project: Project) -> None:
    before = len(project.engine.started)
    asked = project.engine.asked
    leaving = project.start_worker(f"leaving-{phase}", phase)
    gate = getattr(project.engine, phase)
    gate.clear()
    run = project.start("long_job", queue=phase)
    what = f"the container is asked for, and {phase} keeps Docker from answering"
    eventually(lambda: project.engine.asked > asked, what)
    if phase == "answers_creation":
        eventually(lambda: project.engine.containers, "it is there")
    project.start_worker(f"staying-{phase}", phase)

    leaving.send_signal(signal.SIGTERM)

    assert leaving.wait(60) == 0
    if phase == "has_image":
        eventually(lambda: project.engine.asked > asked + 1, "it is asked for again")
    gate.set()
    eventually(project.note("begun").exists, "the step has begun")
    if phase == "answers_creation":
        assert any("starts it and waits" in each for each in project.said())
    finish(project, run, before)


def test_a_name_of_the_users_own_serves_every_attempt(project: Project) -> None:
    project.write_config("docker", "own-name", name="own", labels=["theirs"])
    before = len(project.engine.started)

    code, output = project.execute("flaky_job", "own-name")

    assert code == 0, output
    first, second = project.engine.started[before:]
    assert first.name == second.name == "own"
    assert first.labels["theirs"] == ""
    attempts = [each.labels["dagster/task-id"].rpartition(":")[2] for each in (first, second)]
    assert attempts == ["0", "1"]


def test_a_container_of_another_step_is_never_waited_for(project: Project) -> None:
    project.write_config("docker", "kept-name", name="kept", auto_remove=False)
    before = len(project.engine.started)

    code, output = project.execute("docker_job", "kept-name")

    # As with dagster-celery: the second step has no container, as the name is taken.
    assert code != 0
    assert "The container name /kept is already in use" in output
    (first,) = project.engine.started[before:]
    assert list(project.engine.containers.values()) == [first]
    project.engine.remove(first)


def test_a_container_whose_worker_dies_is_watched_by_another(project: Project) -> None:
    before = len(project.engine.started)
    leaving = project.start_worker("dying", "dying")
    run = project.start("long_job", queue="dying")
    eventually(project.note("begun").exists, "the container has begun")

    leaving.send_signal(signal.SIGKILL)
    leaving.wait(30)
    project.start_worker("next", "dying")

    eventually(lambda: any("waits for it now" in each for each in project.said()), "it is adopted")
    finish(project, run, before)


def test_a_worker_that_drains_hands_its_watching_over(project: Project) -> None:
    before = len(project.engine.started)
    leaving = project.start_worker("leaving", "draining")
    run = project.start("long_job", queue="draining")
    eventually(project.note("begun").exists, "the container has begun")
    project.start_worker("staying", "draining")

    leaving.send_signal(signal.SIGTERM)

    assert leaving.wait(60) == 0
    assert not project.engine.started[-1].ended.is_set()
    eventually(lambda: any("waits for it now" in each for each in project.said()), "it is adopted")
    finish(project, run, before)


@pytest.mark.parametrize(
    "dies",
    [
        False,
        pytest.param(True, marks=pytest.mark.test_all("it waits until a worker counts as lost")),
    ],
)
def test_a_container_nobody_watches_ends_with_its_run(
    dies: bool, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_TASKIQ_DRAIN_TIMEOUT", "1")
    leaving = project.start_worker(f"leaving-ended-{dies}", "ended")
    process = project.start("long_job", queue="ended")
    eventually(project.note("begun").exists, "the container has begun")
    leaving.send_signal(signal.SIGKILL if dies else signal.SIGTERM)
    leaving.wait(60)
    if not dies:
        says = "goes on without its task"
        eventually(lambda: any(says in each for each in project.said()), "its task waits again")
    with project.last_run() as (instance, run):
        instance.report_run_canceling(run)
        process.send_signal(signal.SIGINT)
        process.wait(120)
        found = instance.get_run_by_id(run.run_id)
    assert found is not None and found.status is DagsterRunStatus.CANCELED
    assert not project.engine.started[-1].ended.is_set()
    assert any('worker of queue "ended" will end it' in each for each in project.said())

    worker = project.start_worker(f"next-ended-{dies}", "ended")

    eventually(project.engine.started[-1].ended.is_set, "the container is ended")
    eventually(lambda: not project.engine.containers, "it is removed")
    eventually(lambda: any("was ended: its run is over" in each for each in project.said()))
    end(worker)


def finish(project: Project, run: "subprocess.Popen[bytes] | Program", before: int) -> None:
    """Let the step end, and check that it ran in one container."""
    project.note("release").touch()
    assert run.wait(120) == 0, (project.directory / "long_job.log").read_text()
    started = [each.name for each in project.engine.started[before:]]
    assert len(started) == 2, started  # long_one, and two
    assert len(project.note("begun").read_text().split()) == 1


@pytest.mark.test_all("it waits for a lease, as the test of a worker that dies")
def test_a_container_that_has_died_unwatched_is_not_started_again(project: Project) -> None:
    before = len(project.engine.started)
    leaving = project.start_worker("dying-too", "unwatched")
    run = project.start("dying_job", queue="unwatched")
    eventually(project.note("begun").exists, "the container has begun")
    leaving.send_signal(signal.SIGKILL)
    leaving.wait(30)
    project.note("release").touch()
    eventually(project.engine.started[-1].ended.is_set, "the container has died")

    project.start_worker("next-too", "unwatched")

    assert run.wait(120) != 0
    assert (
        "has gone while no worker waited for it"
        in (project.directory / "dying_job.log").read_text()
    )
    assert len(project.engine.started) == before + 1
