"""dagster-celery-k8s, a library with an executor, a run launcher and tasks of its own, unchanged.

Its package is the published one. What stands in for the cluster runs the command of a Job in a
process of this machine (compat_tests/facade/kubernetes_api.py).
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml
from dagster import DagsterEventType, DagsterInstance, DagsterRunStatus

from compat_tests.checkout import ROOT
from compat_tests.facade.conftest import OldFleet, end
from compat_tests.facade.kubernetes_api import Cluster, running_cluster
from compat_tests.preloaded import Program, run_program
from compat_tests.waiting import eventually
from legacy_tests.sdists import library_here, unpack

#: Each step is a process that imports Dagster, which takes long on a busy machine.
pytestmark = pytest.mark.timeout(400)

JOBS = """
import os, time
from pathlib import Path
from compat_tests.facade.shapes import fan
from dagster import Definitions, job, op
from dagster_celery_k8s import celery_k8s_job_executor

@op
def long_one(context):
    Path(os.environ["NOTES"], "begun").write_text(str(os.getpid()))
    time.sleep(600)

@op(tags={"dagster-celery/queue": "leaving"})
def released_one():
    with Path(os.environ["NOTES"], "released-begun").open("a") as begun:
        begun.write(f"{os.getpid()}\\n")
    deadline = time.monotonic() + 120
    while not Path(os.environ["NOTES"], "release").exists() and time.monotonic() < deadline:
        time.sleep(0.05)

@op
def after_it(number):
    pass

@op
def dies():
    os._exit(7)

@job(executor_def=celery_k8s_job_executor)
def dying_job():
    after_it(dies())

@job(executor_def=celery_k8s_job_executor)
def released_job():
    after_it(released_one())

@job(executor_def=celery_k8s_job_executor)
def fan_job():
    fan()

@job(executor_def=celery_k8s_job_executor)
def long_job():
    after_it(long_one())

defs = Definitions(jobs=[dying_job, fan_job, long_job, released_job])
"""

#: Launches a run as the web server does, and prints its id.
LAUNCH = """
import sys, yaml
from pathlib import Path
from dagster import DagsterInstance, reconstructable
from dagster._core.launcher import LaunchRunContext
import jobs

with DagsterInstance.get() as instance:
    job = getattr(jobs, sys.argv[1])
    run = instance.create_run_for_job(
        job,
        run_config=yaml.safe_load(Path("run.yaml").read_text()),
        job_code_origin=reconstructable(job).get_python_origin(),
    )
    instance.run_launcher.launch_run(LaunchRunContext(dagster_run=run, workspace=None))
    print(run.run_id)
"""

#: Terminates a run as the web server does.
TERMINATE = """
import sys
from dagster import DagsterInstance

with DagsterInstance.get() as instance:
    assert instance.run_launcher.terminate(sys.argv[1])
"""


@dataclass
class Project:
    fleet: OldFleet
    directory: Path
    cluster: Cluster
    #: The workers of single tests.
    workers: "list[subprocess.Popen[bytes] | Program]" = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        return environment_of(self.directory, self.fleet.home)

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run Python with these arguments."""
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=self.directory,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )


def environment_of(directory: Path, home: Path) -> dict[str, str]:
    path = os.pathsep.join((str(directory), str(ROOT)))
    own = {"PYTHONPATH": path, "DAGSTER_HOME": str(home), "NOTES": str(directory)}
    return {**os.environ, **own}


@pytest.fixture(scope="module")
def project(
    old_fleet_of_kind: Callable[[str], OldFleet],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Project]:
    shared = old_fleet_of_kind("embedded")
    directory = tmp_path_factory.mktemp("kubernetes-project")
    fleet = OldFleet(shared.settings, directory / "home")
    fleet.home.mkdir()
    unpack(library_here("dagster-celery-k8s"), "dagster_celery_k8s", directory)
    (directory / "jobs.py").write_text(JOBS)
    environment = environment_of(directory, fleet.home)
    with running_cluster(directory, environment) as (cluster, kubeconfig):
        source = {**fleet.config["config_source"], "task_default_queue": "kubernetes"}
        here = {"load_incluster_config": False, "kubeconfig_file": str(kubeconfig)}
        launcher = {
            **fleet.config,
            **here,
            "config_source": source,
            "dagster_home": str(fleet.home),
            "instance_config_map": "instance",
            "postgres_password_secret": "postgres",
            "job_namespace": "steps",
        }
        document = {
            "telemetry": {"enabled": False},
            "run_launcher": {
                "module": "dagster_celery_k8s",
                "class": "CeleryK8sRunLauncher",
                "config": launcher,
            },
        }
        (fleet.home / "dagster.yaml").write_text(yaml.safe_dump(document))
        config = {**here, "job_image": "shop/steps:1"}
        (directory / "run.yaml").write_text(yaml.safe_dump({"execution": {"config": config}}))
        process = fleet.start(
            *("kubernetes", "-q", "kubernetes", "--", "-c", "2"),
            app="dagster_celery_k8s.app",
            path=environment["PYTHONPATH"],
        )
        try:
            yield Project(fleet, directory, cluster)
        finally:
            end(process)


@pytest.fixture(autouse=True)
def workers_ended(project: Project) -> Iterator[None]:
    yield
    while project.workers:
        end(project.workers.pop())


@pytest.mark.test_all("that of test_docker_library.py, which submits as this one does")
def test_several_steps_are_ready_at_once(project: Project) -> None:
    command = ["job", "execute", "-m", "jobs", "-j", "fan_job", "-c", "run.yaml"]
    project.cluster.patience = 60.0

    done = run_program(
        "dagster", command, project.environment, directory=project.directory, timeout=300
    )

    assert done.returncode == 0, done.stdout + done.stderr
    # numbers, twice more, total, and flaky twice.
    assert len(project.cluster.created) == 6
    assert project.cluster.deleted == []


def test_terminating_a_run_deletes_the_jobs_of_its_steps(project: Project) -> None:
    run_id = launch(project, "long_job")
    pid = int(eventually(lambda: note(project, "begun"), "the step has begun"))
    run_job, step_job = project.cluster.created[-2:]

    terminated = project.run("-c", TERMINATE, run_id)
    assert terminated.returncode == 0, terminated.stderr

    eventually(lambda: step_job in project.cluster.deleted, "the step's Job is deleted")
    assert project.cluster.deleted == [run_job, step_job]
    eventually(lambda: not Path(f"/proc/{pid}").exists(), "the step's command has ended")
    with DagsterInstance.from_config(str(project.fleet.home)) as instance:
        eventually(lambda: status_of(instance, run_id) is DagsterRunStatus.CANCELED)
        said = [str(entry.message) for entry in instance.all_logs(run_id)]
    assert any("Terminating Kubernetes Job because dagster run status" in each for each in said)
    inspect = project.fleet.app().control.inspect
    eventually(lambda: not any((inspect().active() or {}).values()), "no worker runs anything")


@pytest.mark.test_all("that of a container in test_docker_library.py")
def test_a_worker_that_drains_leaves_its_jobs_to_another(project: Project) -> None:
    leaving = start_worker(project, "leaving")
    run_id = launch(project, "released_job")
    eventually(lambda: note(project, "released-begun"), "the step has begun")
    start_worker(project, "staying")

    assert end(leaving) == 0

    finish(project, run_id)


@pytest.mark.test_all("that of test_docker_library.py, which is the same in the engine")
def test_a_job_whose_worker_dies_is_watched_by_another(project: Project) -> None:
    dying = start_worker(project, "dying")
    run_id = launch(project, "released_job")
    eventually(lambda: note(project, "released-begun"), "the step has begun")

    dying.send_signal(signal.SIGKILL)
    dying.wait(30)
    start_worker(project, "next")

    finish(project, run_id)


@pytest.mark.test_all("that of a container in test_docker_library.py")
def test_a_job_that_nobody_watches_is_deleted_with_its_run(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAGSTER_TASKIQ_DRAIN_TIMEOUT", "1")
    leaving = start_worker(project, "left")
    run_id = launch(project, "released_job")
    eventually(lambda: note(project, "released-begun"), "the step has begun")
    step_job = project.cluster.created[-1]
    end(leaving)
    with DagsterInstance.from_config(str(project.fleet.home)) as instance:

        def said(words: str) -> bool:
            return any(words in str(entry.message) for entry in instance.all_logs(run_id))

        eventually(lambda: said("goes on without its task"), "its task waits again")
        terminated = project.run("-c", TERMINATE, run_id)
        assert terminated.returncode == 0, terminated.stderr
        eventually(lambda: status_of(instance, run_id) is DagsterRunStatus.CANCELED)
        assert said('worker of queue "leaving" will end it')
        assert step_job not in project.cluster.deleted

        start_worker(project, "late")

        eventually(lambda: step_job in project.cluster.deleted, "the step's Job is deleted")
        eventually(lambda: said(f"Deleting Kubernetes Job {step_job}: its run is over."))


def test_a_job_whose_time_limit_is_over_is_deleted(project: Project) -> None:
    start_worker(project, "strict", "--soft-time-limit", "1")
    run_id = launch(project, "released_job")
    with DagsterInstance.from_config(str(project.fleet.home)) as instance:
        eventually(lambda: status_of(instance, run_id) is DagsterRunStatus.FAILURE)
        said = [str(entry.message) for entry in instance.all_logs(run_id)]
    (job,) = project.cluster.deleted
    assert any(f"Deleting Kubernetes Job {job}" in each for each in said)
    assert any("soft time limit" in each for each in said)


@pytest.mark.oldest
def test_a_pod_that_fails_fails_its_step_with_the_reason(project: Project) -> None:
    run_id = launch(project, "dying_job", patience=60.0)
    with DagsterInstance.from_config(str(project.fleet.home)) as instance:
        eventually(lambda: status_of(instance, run_id) is DagsterRunStatus.FAILURE)
        (failed,) = instance.all_logs(run_id, of_type=DagsterEventType.STEP_FAILURE)
    assert failed.dagster_event is not None
    error = failed.dagster_event.step_failure_data.error
    assert error is not None
    assert "failed job pods" in error.to_string()


def start_worker(project: Project, name: str, *options: str) -> "subprocess.Popen[bytes] | Program":
    """Start a worker of the queue "leaving", which ends with the test."""
    process = project.fleet.start(
        *(name, "-q", "leaving", "--", "-c", "2", *options),
        app="dagster_celery_k8s.app",
        path=project.environment["PYTHONPATH"],
    )
    project.workers.append(process)
    return process


def finish(project: Project, run_id: str) -> None:
    """Let the step of a run end whose Job another worker watches; it has run once."""
    with DagsterInstance.from_config(str(project.fleet.home)) as instance:

        def said(words: str) -> bool:
            return any(words in str(entry.message) for entry in instance.all_logs(run_id))

        eventually(lambda: said("proceeding with existing job"), "another worker watches the Job")
        (project.directory / "release").touch()
        eventually(lambda: status_of(instance, run_id).value == "SUCCESS", "the run ends")
    assert len(note(project, "released-begun").split()) == 1
    assert project.cluster.deleted == []


def launch(project: Project, job: str, patience: float = 0.0) -> str:
    """Launch a run, with nothing left of those before, and return its id."""
    for name in ("begun", "released-begun", "release"):
        (project.directory / name).unlink(missing_ok=True)
    project.cluster.deleted.clear()
    project.cluster.patience = patience
    launched = project.run("-c", LAUNCH, job)
    assert launched.returncode == 0, launched.stderr
    return launched.stdout.split()[-1]


def note(project: Project, name: str) -> str:
    path = project.directory / name
    return path.read_text() if path.exists() else ""


def status_of(instance: DagsterInstance, run_id: str) -> DagsterRunStatus:
    run = instance.get_run_by_id(run_id)
    assert run is not None
    return run.status
