"""Half renamed, in any order: old and new executors, launchers, tags and workers are one fleet."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from dagster import DagsterInstance, DagsterRunStatus
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import GrpcServerTarget

from compat_tests.checkout import ROOT
from compat_tests.executor.scratch import Scratch
from compat_tests.facade.conftest import OldFleet
from compat_tests.launcher.fleet import (
    Fleet,
    launcher_config,
    running_code_server,
)
from compat_tests.waiting import eventually
from compat_tests.workers import executor_config, running_worker

#: The queue that only the worker of the new command serves.
NEW_QUEUE = "new-side"
LAUNCHERS = ("old", "new")
OpenFleet = Callable[[str], Fleet]


@pytest.fixture(scope="module")
def code_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GrpcServerTarget]:
    module = ("--module-name", "compat_tests.facade.old_project")
    where = ("--working-directory", str(ROOT))
    with running_code_server(tmp_path_factory.mktemp("code"), *module, *where) as target:
        yield target


@contextmanager
def opened(fleet: OldFleet, launcher: str, code_server: GrpcServerTarget) -> Iterator[Fleet]:
    """Open an instance whose ``dagster.yaml`` has one of the launchers."""
    home = fleet.home / f"launches-{launcher}"
    home.mkdir(exist_ok=True)
    old = {
        "module": "dagster_celery.launcher",
        "class": "CeleryRunLauncher",
        "config": {**fleet.config, "default_queue": "dagster"},
    }
    new = {
        "module": "dagster_taskiq",
        "class": "TaskiqRunLauncher",
        "config": launcher_config(fleet.settings),
    }
    document = {"telemetry": {"enabled": False}, "run_launcher": old if launcher == "old" else new}
    (home / "dagster.yaml").write_text(yaml.safe_dump(document))
    with (
        DagsterInstance.from_config(str(home)) as instance,
        WorkspaceProcessContext(instance, code_server) as workspace,
    ):
        yield Fleet(fleet.settings, instance, workspace)


@pytest.fixture(scope="module")
def fleets(
    old_fleet_of_kind: Callable[[str], OldFleet],
    code_server: GrpcServerTarget,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[str, Fleet]]:
    """The fleet by each launcher; a worker of the new command serves a queue of its own as well."""
    old = old_fleet_of_kind("embedded")
    directory = tmp_path_factory.mktemp("new-worker")
    with ExitStack() as stack:
        new_worker = running_worker(old.settings, directory, "-q", NEW_QUEUE, "-c", "2", name="new")
        stack.enter_context(new_worker)
        yield {each: stack.enter_context(opened(old, each, code_server)) for each in LAUNCHERS}


@pytest.fixture
def scratch(tmp_path: Path) -> Scratch:
    return Scratch(tmp_path)


def config_of(fleet: OldFleet, job: str, directory: Path, *ops: str) -> dict[str, Any]:
    engine = executor_config(fleet.settings) if job == "new_job" else fleet.config
    own = {"config": {"directory": str(directory)}}
    return {"execution": {"config": engine}, "ops": dict.fromkeys(ops, own)}


@pytest.mark.parametrize("queue", ["dagster", NEW_QUEUE], ids=["old worker", "new worker"])
@pytest.mark.parametrize("job", ["old_job", "new_job"])
@pytest.mark.parametrize("launcher", LAUNCHERS)
@pytest.mark.parametrize("tag", ["dagster-celery/queue", "dagster-taskiq/queue"])
def test_they_serve_each_other(
    tag: str,
    launcher: str,
    job: str,
    queue: str,
    fleets: dict[str, Fleet],
    old_fleet_of_kind: Callable[[str], OldFleet],
    scratch: Scratch,
) -> None:
    fleet, old = fleets[launcher], old_fleet_of_kind("embedded")
    config = config_of(old, job, scratch.directory, "aside", "then")

    outcome = fleet.run(job, scratch, tags={tag: queue}, config=config)

    assert outcome.status is DagsterRunStatus.SUCCESS
    (first, *others) = scratch.lines("notes")
    assert first.startswith("aside ") and others == ["then 0", "then 1"]
    task = fleet.client.tasks([outcome.run.tags["dagster-taskiq/task_id"]])
    assert [each.queue for each in task.values()] == [f"{queue}:runs"]
    older = outcome.run.tags.get("dagster-celery/task_id")
    assert older == (outcome.run.tags["dagster-taskiq/task_id"] if launcher == "old" else None)


@pytest.mark.parametrize(
    ("launcher", "ends"),
    [("old", DagsterRunStatus.FAILURE), ("new", DagsterRunStatus.CANCELED)],
)
def test_a_run_that_is_terminated_ends_with_its_steps(
    launcher: str,
    ends: DagsterRunStatus,
    fleets: dict[str, Fleet],
    old_fleet_of_kind: Callable[[str], OldFleet],
    scratch: Scratch,
) -> None:
    fleet, old = fleets[launcher], old_fleet_of_kind("embedded")
    config = config_of(old, "long_job", scratch.directory, "long_one", "after_it")
    outcome = fleet.launch("long_job", scratch, config=config)
    scratch.wait_for("notes")
    step = psutil.Process(int(scratch.lines("notes")[0].split()[1]))

    assert fleet.terminate(outcome)

    fleet.wait(outcome)
    assert outcome.status is ends
    eventually(lambda: not step.is_running() or step.status() == psutil.STATUS_ZOMBIE)
    assert scratch.count("notes") == 1
    assert not fleet.waiting()
