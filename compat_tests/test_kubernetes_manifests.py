"""``deploy/kubernetes``: what its manifests say is valid, and their containers run.

Each container is started with the command, arguments and variables of its manifest, as its user,
with its mounts and a read-only file system (compat_tests/pods.py). Its PostgreSQL is a real one.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import click
import kubernetes_validate
import psycopg2
import pytest
import yaml

from compat_tests.checkout import ROOT
from compat_tests.docs.files import OTHER_KINDS
from compat_tests.pods import GRACE_SECONDS, Pod, has_namespaces
from compat_tests.pods_api import PodsApi, serving_pods
from compat_tests.sending import USER_TASKS, open_sender
from compat_tests.servers import free_port, new_database
from compat_tests.waiting import eventually
from compat_tests.workers import options_of_start, running_worker
from dagster_taskiq.cli.commands import cli
from dagster_taskiq.cli.monitor import monitor
from dagster_taskiq.launcher import TaskiqRunLauncher
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.worker.pod_deletion_cost import SERVICE_ACCOUNT

DIRECTORY = ROOT / "deploy" / "kubernetes"
#: The token in the Secret of the monitor.
TOKEN = "t0ken"
#: The releases that the manifests are held against: old, and new.
RELEASES = ("1.27", kubernetes_validate.latest_version())
#: The manifests of the monitor, and what KEDA asks it in place of the database.
MONITOR_FILES = ("monitor.yaml", "scaling.yaml")
#: What KEDA asks of the database.
KEDA_POSTGRESQL = {
    *("host", "port", "userName", "dbName", "sslmode", "query", "targetQueryValue"),
}
#: The same for what KEDA asks of the monitor.
KEDA_METRICS_API = {"url", "valueLocation", "targetValue", "authMode"}

Manifest = dict[str, Any]


def read(path: Path) -> list[Manifest]:
    return list(yaml.safe_load_all(path.read_text()))


FILES = yaml.safe_load((DIRECTORY / "workers" / "kustomization.yaml").read_text())["resources"]
WORKERS = [each for name in FILES for each in read(DIRECTORY / "workers" / name)]
MANIFESTS = [*WORKERS, *read(DIRECTORY / "instance.yaml")]
MONITOR = [each for name in MONITOR_FILES for each in read(DIRECTORY / "monitor" / name)]
DEPLOYMENTS = [each for each in MANIFESTS if each["kind"] == "Deployment"]
SCALED = [each for each in MANIFESTS if each["kind"] == "ScaledObject"]


def called(manifest: Manifest) -> str:
    return f"{manifest['kind']}-{manifest['metadata']['name']}"


def options_of(deployment: Manifest) -> dict[str, Any]:
    """Return what our command reads from the arguments of a Deployment's worker."""
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["dagster-taskiq"]
    assert container["args"][:2] == ["worker", "start"]
    return options_of_start(list(container["args"][2:]))


@pytest.mark.parametrize("manifest", [*MANIFESTS, *MONITOR], ids=called)
@pytest.mark.parametrize("release", RELEASES)
def test_a_manifest_is_valid(manifest: Manifest, release: str) -> None:
    if manifest["kind"] in OTHER_KINDS:
        assert manifest["apiVersion"] == "keda.sh/v1alpha1"
        assert set(manifest["spec"]) <= OTHER_KINDS[manifest["kind"]]
    else:
        kubernetes_validate.validate(manifest, release, strict=True)


def test_every_file_is_used_and_the_chart_gets_the_same() -> None:
    assert {*FILES, "kustomization.yaml"} == {
        each.name for each in (DIRECTORY / "workers").iterdir()
    }
    values = yaml.safe_load((DIRECTORY / "values.yaml").read_text())
    # The chart makes the ConfigMap, from its other values.
    assert values["extraManifests"] == WORKERS
    launcher = values["runLauncher"]
    assert launcher["type"] == "CustomRunLauncher"
    custom = launcher["config"]["customRunLauncher"]
    assert (custom["module"], custom["class"]) == ("dagster_taskiq", TaskiqRunLauncher.__name__)
    assert set(custom["config"]) <= set(TaskiqRunLauncher.config_type())


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=called)
def test_a_deployment_keeps_what_its_worker_promises(deployment: Manifest) -> None:
    spec, options = deployment["spec"], options_of(deployment)
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    to_end = options["drain_timeout"] + options["kill_grace"] + 35
    assert pod["terminationGracePeriodSeconds"] >= to_end
    for probe, path in (
        ("startupProbe", "/livez"),
        ("livenessProbe", "/livez"),
        ("readinessProbe", "/readyz"),
    ):
        assert container[probe]["httpGet"] == {"path": path, "port": "probes"}
    assert container["ports"] == [{"name": "probes", "containerPort": options["http_port"]}]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert {"cpu", "memory"} <= set(container["resources"]["requests"])
    # What selects the pods of a queue selects those of no other.
    labels = spec["template"]["metadata"]["labels"]
    assert spec["selector"]["matchLabels"] == labels
    assert options["queues"] == (labels["dagster-taskiq/queue"],)
    budgets = [each["spec"] for each in MANIFESTS if each["kind"] == "PodDisruptionBudget"]
    (budget,) = (each for each in budgets if each["selector"]["matchLabels"] == labels)
    assert budget["maxUnavailable"] == 1
    scaled = {each["spec"]["scaleTargetRef"]["name"]: each["spec"] for each in SCALED}
    (trigger,) = scaled[deployment["metadata"]["name"]]["triggers"]
    assert trigger["type"] == "postgresql"
    assert set(trigger["metadata"]) == KEDA_POSTGRESQL
    assert trigger["metadata"]["targetQueryValue"] == str(options["concurrency"])


@pytest.fixture
def database(postgres_url: str) -> Iterator[str]:
    with new_database(postgres_url) as url:
        yield url


@pytest.mark.parametrize("scaled", SCALED, ids=called)
def test_the_number_of_pods_follows_what_waits_and_what_runs(
    scaled: Manifest, database: str, tmp_path: Path
) -> None:
    (trigger,) = scaled["spec"]["triggers"]
    queue = scaled["metadata"]["name"].removeprefix("dagster-taskiq-")
    settings = Settings(broker=database, queue=queue)

    def demand() -> int:
        with psycopg2.connect(database) as connection, connection.cursor() as cursor:
            cursor.execute(trigger["metadata"]["query"])
            (row,) = cursor.fetchall()
        return int(row[0])

    go = tmp_path / "go"
    with open_sender(settings) as sender:
        sent = [
            sender.send("hold", str(tmp_path / f"started-{number}"), str(go), queue_name=queue)
            for number in range(3)
        ]
        sender.send("add", 1, 2, queue_name="another")
        sender.send("add", 1, 2, queue_name=queue, delay=600)
        assert demand() == 3
        with running_worker(settings, tmp_path, "-q", queue, "-i", USER_TASKS, "-c", "1"):
            eventually((tmp_path / "started-0").exists)
            # One runs, two wait.
            eventually(lambda: demand() == 3)
            go.touch()
            for each in sent:
                sender.value(each)
            eventually(lambda: demand() == 0)


@dataclass
class Cluster:
    api: PodsApi
    directory: Path
    database: str


@pytest.fixture
def cluster(database: str, tmp_path: Path) -> Iterator[Cluster]:
    with serving_pods(tmp_path / "account") as api:
        yield Cluster(api, tmp_path, database)


def files_of(cluster: Cluster, pod: Manifest) -> dict[str, dict[str, str]]:
    """Return the ConfigMaps that a pod mounts, with the server of the tests in them."""
    url = urlsplit(cluster.database)
    found = {}
    for manifest in (each for each in MANIFESTS if each["kind"] == "ConfigMap"):
        instance = yaml.safe_load(manifest["data"]["dagster.yaml"])
        there = instance["storage"]["postgres"]["postgres_db"]
        there |= {
            "hostname": url.hostname,
            "port": url.port,
            "username": url.username,
            "db_name": url.path.lstrip("/"),
        }
        found[manifest["metadata"]["name"]] = {"dagster.yaml": yaml.safe_dump(instance)}
    return found


def pod_of(cluster: Cluster, deployment: Manifest, port: int) -> Pod:
    """Return the pod of a Deployment, as its manifest has it but for the port it listens on."""
    spec = deployment["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    name = f"{deployment['metadata']['name']}-5f7c-x2x4z"
    files = files_of(cluster, spec)
    volumes = {each["name"]: each for each in spec["volumes"]}
    mounts: dict[str, Path] = {}
    empty_dirs: dict[str, Path] = {}
    if has_namespaces():
        mounts[str(SERVICE_ACCOUNT)] = cluster.api.account
    for mount in container["volumeMounts"]:
        volume = volumes[mount["name"]]
        source = cluster.directory / mount["name"]
        if "emptyDir" in volume:
            empty_dirs[mount["mountPath"]] = source
        else:
            source.mkdir()
            file = source / mount["subPath"]
            file.write_text(files[volume["configMap"]["name"]][mount["subPath"]])
            mounts[mount["mountPath"]] = file
    secrets = {
        "dagster-postgresql-secret": urlsplit(cluster.database).password or "any",
        "dagster-taskiq-monitor": TOKEN,
    }
    environment = dict(cluster.api.environment)
    for variable in container["env"]:
        if "value" in variable:
            environment[variable["name"]] = variable["value"]
        elif "secretKeyRef" in variable["valueFrom"]:
            environment[variable["name"]] = secrets[variable["valueFrom"]["secretKeyRef"]["name"]]
        else:
            assert variable["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.name"}}
            environment[variable["name"]] = name
    # In an image, all is installed; here the worker imports the checkout.
    environment["PYTHONPATH"] = str(ROOT)
    listen = re.compile(r"(--(?:http-)?port)=\d+")
    arguments = [listen.sub(rf"\1={port}", each) for each in container["args"]]
    if not has_namespaces() and "--pod-deletion-cost" in arguments:
        arguments.remove("--pod-deletion-cost")  # there is no service account in its place
    return Pod(
        name,
        [*container["command"], *arguments],
        environment,
        cluster.directory / "pod.log",
        mounts,
        empty_dirs,
        has_read_only_root=container["securityContext"]["readOnlyRootFilesystem"],
        user=spec["securityContext"]["runAsUser"],
        grace=spec.get("terminationGracePeriodSeconds", GRACE_SECONDS),
    )


@pytest.mark.parametrize(
    "deployment",
    [
        DEPLOYMENTS[0],
        *(
            pytest.param(each, marks=pytest.mark.test_all("the first, whose container is the same"))
            for each in DEPLOYMENTS[1:]
        ),
    ],
    ids=called,
)
def test_the_container_of_a_deployment_runs_as_it_is_written(
    deployment: Manifest, cluster: Cluster
) -> None:
    port = free_port()
    pod = pod_of(cluster, deployment, port).start()

    def status(path: str) -> int:
        assert pod.process.poll() is None, pod.log.read_text()
        try:
            with urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
                return int(answer.status)
        except HTTPError as error:
            return error.code
        except OSError:
            return 0

    try:
        eventually(lambda: status("/readyz") == HTTPStatus.OK)
        assert status("/livez") == HTTPStatus.OK
        assert pod.probe(["dagster-taskiq", "status", "--local"], 30)
        if has_namespaces():
            eventually(lambda: cluster.api.costs(pod.name) == ["0"])
        assert pod.delete() == 0, pod.log.read_text()
    finally:
        pod.kill()
    log = pod.log.read_text()
    assert "Traceback" not in log
    assert not re.search(r"WARNING|ERROR", log), log


def of_kind(kind: str) -> list[Manifest]:
    """Return the manifests of one kind that belong to the monitor."""
    return [each for each in MONITOR if each["kind"] == kind]


def test_the_files_of_the_monitor_are_all_there_is_beside_how_they_are_applied() -> None:
    directory = DIRECTORY / "monitor"
    applied = yaml.safe_load((directory / "kustomization.yaml").read_text())["resources"]
    assert applied == ["monitor.yaml"]
    assert {*MONITOR_FILES, "kustomization.yaml"} == {each.name for each in directory.iterdir()}


def test_the_monitor_is_reached_by_its_service_and_looks_after_itself() -> None:
    (deployment,), (service,) = of_kind("Deployment"), of_kind("Service")
    pod = deployment["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    assert service["spec"]["selector"] == pod["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == pod["metadata"]["labels"]
    assert service["spec"]["ports"][0]["targetPort"] == container["ports"][0]["name"]
    for probe in ("startupProbe", "livenessProbe"):
        assert container[probe]["httpGet"] == {"path": "/healthz", "port": "http"}
    program = click.Context(cli, **cli.context_settings)
    options = monitor.make_context("monitor", list(container["args"][1:]), program).params
    assert options["port"] == container["ports"][0]["containerPort"]
    assert not options["allow_actions"]


@pytest.fixture
def monitor_pod(cluster: Cluster) -> Iterator[tuple[Pod, int]]:
    port = free_port()
    pod = pod_of(cluster, *of_kind("Deployment"), port).start()
    try:
        yield pod, port
    finally:
        pod.kill()


def test_keda_reads_the_demand_of_each_queue_from_the_monitor(
    cluster: Cluster, monitor_pod: tuple[Pod, int]
) -> None:
    pod, port = monitor_pod
    (service,), (authentication,) = of_kind("Service"), of_kind("TriggerAuthentication")
    targets = {each["metadata"]["name"]: options_of(each) for each in DEPLOYMENTS}
    assert authentication["spec"]["secretTargetRef"] == [
        {"parameter": "token", "name": "dagster-taskiq-monitor", "key": "token"}
    ]
    scaled = {
        each["spec"]["scaleTargetRef"]["name"]: each["spec"] for each in of_kind("ScaledObject")
    }
    assert scaled.keys() == targets.keys()
    for name, options in targets.items():
        (trigger,) = scaled[name]["triggers"]
        asked = trigger["metadata"]
        assert (trigger["type"], set(asked)) == ("metrics-api", KEDA_METRICS_API)
        assert trigger["authenticationRef"] == {"name": authentication["metadata"]["name"]}
        assert asked["targetValue"] == str(options["concurrency"])
        url = urlsplit(asked["url"])
        assert url.hostname is not None
        assert url.hostname.partition(".")[0] == service["metadata"]["name"]
        assert url.port == service["spec"]["ports"][0]["port"]
        (queue,) = options["queues"]
        assert url.path == f"/api/queues/{queue}"

        def value(path: str = url.path, location: str = asked["valueLocation"]) -> int | None:
            request = Request(f"http://127.0.0.1:{port}{path}")
            request.add_header("Authorization", f"Bearer {TOKEN}")
            try:
                with urlopen(request, timeout=30) as answer:
                    return int(json.loads(answer.read())[location])
            except OSError:
                assert pod.process.poll() is None, pod.log.read_text()
                return None

        eventually(lambda of=value: of() == 0)
        with open_sender(Settings(broker=cluster.database, queue=queue)) as sender:
            for _ in range(3):
                sender.send("add", 1, 2)
        eventually(lambda of=value: of() == 3)
    with pytest.raises(HTTPError, match="401"):
        urlopen(f"http://127.0.0.1:{port}/api/fleet", timeout=30)
    assert pod.delete() == 0
    assert not re.search(r"WARNING|ERROR|Traceback", pod.log.read_text()), pod.log.read_text()
