"""dagster-celery-k8s, a library with an executor, a run launcher and tasks of its own, unchanged.

Its package is the published one. What stands in for the cluster runs the command of a Job in a
process of this machine (compat_tests/facade/kubernetes_api.py).
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from dagster import DagsterInstance, DagsterRunStatus

from compat_tests.checkout import ROOT
from compat_tests.facade.conftest import OldFleet, end
from compat_tests.facade.kubernetes_api import Cluster, running_cluster
from compat_tests.preloaded import run_program
from compat_tests.waiting import eventually
from legacy_tests.sdists import KUBERNETES, unpack

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

@op
def after_it(number):
    pass

@job(executor_def=celery_k8s_job_executor)
def fan_job():
    fan()

@job(executor_def=celery_k8s_job_executor)
def long_job():
    after_it(long_one())

defs = Definitions(jobs=[fan_job, long_job])
"""

#: Launches a run as the web server does, and prints its id.
LAUNCH = """
import sys, yaml
from pathlib import Path
from dagster import DagsterInstance, reconstructable
from dagster._core.launcher import LaunchRunContext
import jobs

with DagsterInstance.get() as instance:
    run = instance.create_run_for_job(
        jobs.long_job,
        run_config=yaml.safe_load(Path("run.yaml").read_text()),
        job_code_origin=reconstructable(jobs.long_job).get_python_origin(),
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
    unpack(KUBERNETES, "dagster_celery_k8s", directory)
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
    project.cluster.patience = 0.0
    launched = project.run("-c", LAUNCH)
    assert launched.returncode == 0, launched.stderr
    run_id = launched.stdout.split()[-1]
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


def note(project: Project, name: str) -> str:
    path = project.directory / name
    return path.read_text() if path.exists() else ""


def status_of(instance: DagsterInstance, run_id: str) -> DagsterRunStatus:
    run = instance.get_run_by_id(run_id)
    assert run is not None
    return run.status
