"""Dagster's Helm chart, unchanged: its worker's pod, the probe of it, and its end.

Command, environment, configuration and mounts are as the templates of the chart have them. What the
pod talks to is a Redis or RabbitMQ of the release that the chart brings, and a PostgreSQL, all of
them real; the cluster is the one of compat_tests/facade/kubernetes_api.py, and dagster-celery-k8s
the published one.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
import yaml

from compat_tests.checkout import ROOT
from compat_tests.facade.kubernetes_api import Cluster, running_cluster
from compat_tests.old_servers import own_old_rabbit, own_old_redis
from compat_tests.pods import Pod
from compat_tests.servers import RabbitServer, RedisServer, new_database
from compat_tests.waiting import eventually
from dagster_celery._cli.chart import limits_in_pod
from dagster_taskiq.client import Client, client_for
from dagster_taskiq.settings.settings import Settings
from legacy_tests.sdists import KUBERNETES, unpack

pytestmark = pytest.mark.timeout(300)

#: The probe of the chart's values.yaml, and its limit in seconds.
PROBE = (
    "dagster-celery status -A dagster_celery_k8s.app -y $DAGSTER_HOME/celery-config.yaml"
    ' | grep "${HOSTNAME}:.*OK"'
)
PROBE_SECONDS = 10.0

#: What the chart's own documentation has as additionalCeleryArgs, and others from public charts.
ADDITIONAL = (
    *("-E", "--concurrency", "16", "-Ofair", "--max-tasks-per-child", "10"),
    "--without-gossip",
)

JOBS = """
import os, time
from pathlib import Path
from dagster import job, op
from dagster_celery_k8s import celery_k8s_job_executor

@op
def long_one():
    Path(os.environ["NOTES"], "begun").write_text(str(os.getpid()))
    time.sleep(600)

@job(executor_def=celery_k8s_job_executor)
def long_job():
    long_one()
"""

#: Launches a run as the web server does.
LAUNCH = """
import yaml
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


@dataclass
class Release:
    """What one ``helm install`` makes."""

    directory: Path
    home: Path
    environment: dict[str, str]
    server: RedisServer | RabbitServer
    cluster: Cluster
    pods: list[Pod]

    @property
    def client(self) -> Client:
        backend = "rpc://" if self.server.url.startswith("amqp") else None
        return client_for(Settings(broker=self.server.url, backend=backend))

    def start_worker(self) -> Pod:
        """Start the pod of the queue "dagster", and wait until its probe succeeds."""
        config = str(self.home / "celery-config.yaml")
        arguments = ["worker", "start", "-A", "dagster_celery_k8s.app", "-y", config]
        arguments += ["-q", "dagster", "--", *ADDITIONAL]
        name = f"dagster-celery-workers-dagster-7d9f6c-x{len(self.pods)}"
        log = self.directory / f"{name}.log"
        # All of $DAGSTER_HOME is read-only, not the mounted files alone.
        mounts = {str(self.home): self.home}
        pod = Pod(name, ["dagster-celery", *arguments], self.environment, log, mounts).start()
        self.pods.append(pod)

        def there() -> bool:
            assert pod.process.poll() is None, log.read_text()
            return is_alive(pod) and bool(self.client.workers())

        eventually(there)
        return pod


def is_alive(pod: Pod) -> bool:
    """What kubelet concludes from one execution of the probe."""
    return pod.probe(["/bin/sh", "-c", PROBE], PROBE_SECONDS)


def write_files(release: Release, storage: dict[str, object], kubeconfig: Path) -> None:
    """Write what the ConfigMaps of the chart hold, and a run's config."""
    servers = {
        "broker": {"env": "DAGSTER_CELERY_BROKER_URL"},
        "backend": {"env": "DAGSTER_CELERY_BACKEND_URL"},
    }
    here = {"load_incluster_config": False, "kubeconfig_file": str(kubeconfig)}
    instance = {
        "scheduler": {
            "module": "dagster.core.scheduler",
            "class": "DagsterDaemonScheduler",
        },
        **{
            f"{kind}_storage": {
                "module": f"dagster_postgres.{module}",
                "class": name,
                "config": storage,
            }
            for kind, module, name in (
                ("schedule", "schedule_storage", "PostgresScheduleStorage"),
                ("run", "run_storage", "PostgresRunStorage"),
                ("event_log", "event_log", "PostgresEventLogStorage"),
            )
        },
        "run_launcher": {
            "module": "dagster_celery_k8s",
            "class": "CeleryK8sRunLauncher",
            "config": {
                "dagster_home": {"env": "DAGSTER_HOME"},
                "instance_config_map": {"env": "DAGSTER_K8S_INSTANCE_CONFIG_MAP"},
                "postgres_password_secret": {"env": "DAGSTER_K8S_PG_PASSWORD_SECRET"},
                **servers,
                "env_config_maps": [{"env": "DAGSTER_K8S_PIPELINE_RUN_ENV_CONFIGMAP"}],
                # The one difference: this cluster is not the one that the tests run in.
                **here,
                "job_namespace": "steps",
            },
        },
        "compute_logs": {
            "module": "dagster.core.storage.noop_compute_log_manager",
            "class": "NoOpComputeLogManager",
        },
        "telemetry": {"enabled": False},
    }
    celery = {"execution": {"celery": {**servers, "config_source": {"worker_concurrency": 2}}}}
    run = {"execution": {"config": {**here, "job_image": "shop/steps:1"}}}
    for path, document in (
        (release.home / "dagster.yaml", instance),
        (release.home / "celery-config.yaml", celery),
        (release.directory / "run.yaml", run),
    ):
        path.write_text(yaml.safe_dump(document))
        path.chmod(0o444)


@pytest.fixture(scope="module", params=["redis", "rabbitmq"])
def release(
    request: pytest.FixtureRequest, postgres_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Release]:
    directory = tmp_path_factory.mktemp("helm")
    home = directory / "dagster_home"
    home.mkdir()
    unpack(KUBERNETES, "dagster_celery_k8s", directory)
    (directory / "jobs.py").write_text(JOBS)
    with ExitStack() as stack:
        server: RedisServer | RabbitServer
        if request.param == "redis":
            server = stack.enter_context(own_old_redis())
            urls = (server.url, server.url)
        else:
            server = stack.enter_context(own_old_rabbit())
            urls = (server.url.replace("amqp:", "pyamqp:") + "/", "rpc://")
        database = urlsplit(stack.enter_context(new_database(postgres_url)))
        environment = {
            "DAGSTER_HOME": str(home),
            "DAGSTER_PG_PASSWORD": database.password or "any",
            "DAGSTER_CELERY_BROKER_URL": urls[0],
            "DAGSTER_CELERY_BACKEND_URL": urls[1],
            "DAGSTER_K8S_INSTANCE_CONFIG_MAP": "release-dagster-instance",
            "DAGSTER_K8S_PG_PASSWORD_SECRET": "release-postgresql-secret",
            "DAGSTER_K8S_PIPELINE_RUN_ENV_CONFIGMAP": "release-pipeline-env",
            # Each container has these.
            "KUBERNETES_SERVICE_HOST": "10.0.0.1",
            "KUBERNETES_SERVICE_PORT": "443",
            # In an image, all is installed.
            "PYTHONPATH": os.pathsep.join((str(directory), str(ROOT))),
            "NOTES": str(directory),
        }
        jobs = {**os.environ, **environment}
        cluster, kubeconfig = stack.enter_context(running_cluster(directory, jobs))
        found = Release(directory, home, environment, server, cluster, [])
        storage = {
            "postgres_db": {
                "username": database.username,
                "password": {"env": "DAGSTER_PG_PASSWORD"},
                "hostname": database.hostname,
                "db_name": database.path.lstrip("/"),
                "port": database.port,
                "params": {},
                # As other tests: SQLAlchemy 2.1 takes another driver by default.
                "scheme": "postgresql+psycopg2",
            }
        }
        write_files(found, storage, kubeconfig)
        try:
            yield found
        finally:
            for pod in found.pods:
                pod.kill()


@pytest.mark.test_all("the same probe in contract/test_worker.py")
def test_the_charts_worker_lives_while_its_broker_is_away(release: Release) -> None:
    pod = release.start_worker()
    (worker,) = release.client.workers()
    assert worker.queues == ("dagster",)
    assert worker.concurrency == 16
    assert worker.name.endswith(f"@{pod.name}")

    release.server.freeze()
    try:
        assert is_alive(pod)
    finally:
        release.server.thaw()
    release.server.kill()
    try:
        assert is_alive(pod)
    finally:
        release.server.start()

    # The process of the worker itself; its children go on.
    psutil.Process(pod.process.pid).suspend()
    try:
        assert not is_alive(pod)
    finally:
        psutil.Process(pod.process.pid).resume()
    eventually(lambda: is_alive(pod))
    assert pod.delete() == 0
    assert "Traceback" not in pod.log.read_text()


def test_the_charts_worker_ends_before_its_pod_is_killed(release: Release) -> None:
    pod = release.start_worker()
    launched = subprocess.run(
        [sys.executable, "-c", LAUNCH],
        cwd=release.directory,
        env={**os.environ, **release.environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert launched.returncode == 0, launched.stderr
    eventually((release.directory / "begun").exists, "the step has begun")

    assert pod.delete() >= 0, "it was killed after 30 s"

    # The step goes on in its Job. To watch it waits for the next worker: see
    # test_kubernetes_library.py.
    assert release.client.workers() == []
    assert not release.client.is_empty("dagster")
    assert release.cluster.deleted == []
    assert psutil.pid_exists(int((release.directory / "begun").read_text()))


@pytest.mark.parametrize(
    ("app", "environment", "arguments"),
    [
        ("dagster_celery_k8s.app", {}, ["--drain-timeout", "10", "--kill-grace", "10"]),
        ("dagster_celery_k8s.app", {"DAGSTER_TASKIQ_DRAIN_TIMEOUT": "99"}, ["--kill-grace", "10"]),
        ("dagster_celery.app", {}, []),
    ],
)
def test_only_the_charts_workers_have_its_limits(
    app: str, environment: dict[str, str], arguments: list[str]
) -> None:
    assert limits_in_pod(app, {"KUBERNETES_SERVICE_HOST": "10.0.0.1", **environment}) == arguments
    assert limits_in_pod(app, environment) == []
