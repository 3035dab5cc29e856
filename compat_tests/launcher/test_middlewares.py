"""A project's middlewares see launched runs and their steps: each hook, and in which process."""

import json
from pathlib import Path

import pytest
from dagster import DagsterRunStatus

from compat_tests.checkout import ROOT
from compat_tests.conftest import StartWorker
from compat_tests.executor.scratch import SCRATCH_TAG, Scratch
from compat_tests.launcher.conftest import OwnFleet
from compat_tests.launcher.fleet import MODULE, launcher_config
from compat_tests.life_errors import LOG_ENV
from compat_tests.preloaded import start_program
from compat_tests.waiting import eventually
from dagster_taskiq.settings.settings import Settings

SENT = {"pre_send", "post_send"}
EXECUTED = {"pre_execute", "post_execute", "post_save"}


def test_middlewares_see_a_run_and_its_steps_and_add_labels_to_them(
    own_fleet: OwnFleet,
    settings: Settings,
    scratch: Scratch,
    start_worker: StartWorker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log, launch_log = tmp_path / "hooks", tmp_path / "launch.log"
    monkeypatch.setenv(LOG_ENV, str(log))
    module = "compat_tests.observing"
    fleet = own_fleet(
        run_launcher={
            "module": module,
            "class": "TaskiqRunLauncher",
            "config": launcher_config(settings),
        },
        run_coordinator={
            "module": "dagster._core.run_coordinator",
            "class": "DefaultRunCoordinator",
        },
    )
    start_worker("-i", module, "-c", "2")
    tags = json.dumps({SCRATCH_TAG: str(scratch.directory)})
    command = ["job", "launch", "-m", MODULE, "-d", str(ROOT), "-j", "spread", "--tags", tags]
    assert start_program("dagster", command, launch_log).wait(60) == 0, launch_log.read_text()
    (run,) = fleet.instance.get_runs()

    def rows() -> list[list[str]]:
        """Return what was seen: hook, task, step, label, process."""
        return [line.split() for line in log.read_text().splitlines()]

    def processes(hooks: set[str], step: str) -> set[str]:
        """Wait until all of these hooks were called for a task, and return where."""

        def of_task() -> list[list[str]]:
            return [row for row in rows() if row[2] == step and row[0] in hooks]

        eventually(lambda: {row[0] for row in of_task()} == hooks)
        assert {row[3] for row in of_task()} <= {"acme", "-"}
        return {row[4] for row in of_task()}

    (launching,), (running,) = processes(SENT, "-"), processes(EXECUTED, "-")
    assert launching != running
    for step in ("first", "second"):
        assert processes(SENT, step) == {running}, "the process of the run sends its steps"
        assert running not in processes(EXECUTED, step)
    seen = rows()
    assert len(seen) == 3 * len(SENT | EXECUTED), "each hook once for each of the three messages"
    assert {row[3] for row in seen if row[0] != "pre_send"} == {"acme"}, "the label has travelled"
    assert fleet.instance.get_run_by_id(run.run_id).status is DagsterRunStatus.SUCCESS
