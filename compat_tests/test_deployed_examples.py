"""The examples that deploy: their compose files are valid, and their services run by them.

There is no container in these tests: each service is a process, with the command, signal and
healthcheck of its file, and a Dagster home for each host. Their servers are real ones.
"""

import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import tomli
import yaml
from dagster._core.utils import make_new_run_id

from compat_tests.checkout import ROOT
from compat_tests.docs.blocks import Block
from compat_tests.docs.files import check_compose
from compat_tests.docs.outcome import Wrong
from compat_tests.servers import free_port, new_database, own_redis, with_driver
from compat_tests.waiting import eventually
from compat_tests.waiting_jobs import DIRECTORY_ENV
from compat_tests.workers import options_of_start
from dagster_taskiq.monitor.access import TOKEN_ENV
from dagster_taskiq.settings.env import BROKER_ENV
from examples.deployment import (
    POSTGRESQL_ONLY,
    REDIS_FLEET,
    RENAMED,
    UNTOUCHED,
    Deployment,
    services_of,
)

FLEETS = (POSTGRESQL_ONLY, REDIS_FLEET)
FILES = sorted(ROOT.glob("examples/*/*compose*.yaml"))
#: What a worker needs besides the two times that are told it, until it has ended, in seconds.
REST_SECONDS = 35
#: How long each thing that is waited for may take, in seconds.
PATIENCE = 150.0

fleets = pytest.mark.parametrize("project", FLEETS, ids=lambda each: each.name)
compose_files = pytest.mark.parametrize(
    "file", FILES, ids=lambda each: f"{each.parent.name}-{each.name}"
)

#: Six processes that import Dagster are started, one after the other.
pytestmark = pytest.mark.timeout(400)


def declared(project: Path) -> dict[str, Any]:
    """Return all services of a project as its files have them."""
    found = {}
    for file in project.glob("*compose*.yaml"):
        found.update(yaml.safe_load(file.read_text())["services"])
    return found


def test_there_are_files_of_several_hosts() -> None:
    assert {file.parent for file in FILES} == {*FLEETS, UNTOUCHED, RENAMED}
    for project in FLEETS:
        assert {each.host for each in services_of(project)} == {"control", "worker"}


@compose_files
def test_a_compose_file_is_as_the_specification_says(file: Path) -> None:
    text = file.read_text()
    check_compose(block(file, text))  # raises where it is not
    with pytest.raises(Wrong, match="stop_grace_perod"):
        bad = "services:\n  bad: {image: x, stop_grace_perod: 5s}\n"
        check_compose(block(file, text.replace("services:\n", bad, 1)))


def block(file: Path, text: str) -> Block:
    """Return a file as a block of code that stands on a page."""
    return Block(str(file.relative_to(ROOT)), 1, "yaml", text, file.name)


def seconds(duration: str) -> int:
    """Return a duration as compose files have them, such as ``6m10s``, in seconds."""
    found = re.fullmatch(r"(?:(\d+)m)?(?:(\d+)s)?", duration)
    assert found, duration
    return 60 * int(found[1] or 0) + int(found[2] or 0)


@fleets
def test_no_password_is_in_a_file_of_an_example(project: Path) -> None:
    for path in project.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            for password in re.findall(
                r"://[\w+]*:(\S+?)@|(?i:password|token)\w*=(\S+)", path.read_text()
            ):
                assert "".join(password).startswith(("change-me", '"$', "$")), path
    assert "fleet.env\n" in (project / ".gitignore").read_text()


@fleets
def test_each_service_runs_again_and_is_looked_at(project: Path) -> None:
    for name, service in declared(project).items():
        one_shot = name == "tables"
        assert service["restart"] == ("on-failure" if one_shot else "unless-stopped"), name
        assert one_shot or service["healthcheck"]["test"], name
        assert service["env_file"] == "fleet.env", name
    assert "\nUSER dagster\n" in (project / "Dockerfile").read_text()


@fleets
def test_a_worker_is_given_the_time_that_it_may_take(project: Path) -> None:
    workers = [
        each for each in declared(project).values() if " worker start " in str(each.get("command"))
    ]
    assert workers
    for worker in workers:
        options = options_of_start(shlex.split(worker["command"])[3:])
        least = options["drain_timeout"] + options["kill_grace"] + REST_SECONDS
        assert seconds(worker["stop_grace_period"]) > least


@pytest.mark.parametrize("project", [*FLEETS, UNTOUCHED, RENAMED], ids=lambda each: each.name)
def test_the_tables_of_a_home_are_created_by_one_process(project: Path) -> None:
    services = {each.name: each for each in services_of(project)}
    (creator,) = (each.name for each in services.values() if "instance migrate" in each.command)
    for service in services.values():
        if service.host == services[creator].host and service.name != creator:
            waits = service.depends_on
            direct = waits.get(creator) == "service_completed_successfully"
            assert direct or waits == {"webserver": "service_healthy"}, service.name


@pytest.mark.parametrize("project", [*FLEETS, UNTOUCHED, RENAMED], ids=lambda each: each.name)
def test_a_run_may_wait_a_day_in_its_queue(project: Path) -> None:
    document = yaml.safe_load((project / "dagster.yaml").read_text())
    assert document["run_monitoring"]["start_timeout_seconds"] == 86400


@fleets
def test_a_project_has_the_layout_that_dagster_makes(project: Path) -> None:
    document = tomli.loads((project / "pyproject.toml").read_text())
    package = document["tool"]["dg"]["project"]["root_module"]
    assert document["tool"]["dg"]["directory_type"] == "project"
    assert (project / "src" / package / "definitions.py").exists()
    assert document["tool"]["dagster"]["module_name"] == f"{package}.definitions"


@contextmanager
def environment_of(project: Path, postgres_url: str) -> Iterator[dict[str, str]]:
    """Start what the compose files have as servers; yield what fleet.env names."""
    with new_database(postgres_url) as database, own_redis("--requirepass", "s3cret") as redis:
        url = redis.url.replace("://", "://:s3cret@")
        broker = {BROKER_ENV: url} if project == REDIS_FLEET else {}
        yield {"POSTGRES_URL": with_driver(database), TOKEN_ENV: "t0ken", **broker}


@pytest.mark.parametrize(
    "project",
    [
        REDIS_FLEET,
        pytest.param(
            POSTGRESQL_ONLY, marks=pytest.mark.test_all("the other fleet, whose services are alike")
        ),
    ],
    ids=lambda each: each.name,
)
def test_the_hosts_of_an_example_run_its_job_and_drain(
    project: Path, postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with environment_of(project, postgres_url) as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        ports = {port: str(free_port()) for port in ("3000", "9580")}
        mine = {**environment, "PYTHONPATH": str(ROOT), DIRECTORY_ENV: str(tmp_path)}
        deployment = Deployment(project, tmp_path, mine, values=ports)
        jobs = {POSTGRESQL_ONLY: "ship", REDIS_FLEET: "harvest"}
        at_once = True
        try:
            deployment.start()
            assert len(deployment.workers()) == len(deployment.commands)
            runs = {jobs[project]: make_new_run_id(), "waiting": make_new_run_id()}
            deployment.launch({jobs[project]: runs[jobs[project]]})
            deployment.launch({"waiting": runs["waiting"]}, "compat_tests.waiting_jobs")
            with deployment.instance() as instance:
                assert deployment.wait_for_end(instance, runs[jobs[project]]).is_success
                eventually((tmp_path / "started").exists, timeout=PATIENCE)
                # The worker that executes the step drains, and ends after it.
                for name in deployment.commands:
                    deployment.send_stop(name)
                eventually(
                    lambda: all(each.draining for each in deployment.workers()), timeout=PATIENCE
                )
                (tmp_path / "go").touch()
                eventually(lambda: not deployment.workers(), timeout=PATIENCE)
                run = instance.get_run_by_id(runs["waiting"])
                assert run is not None and run.is_success
            at_once = False
        finally:
            deployment.stop(at_once)
    assert not list(tmp_path.rglob("queue.db"))
