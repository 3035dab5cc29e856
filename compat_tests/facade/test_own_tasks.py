"""Tasks of a team's own, as they are written for Celery, on the app of ``make_app()``.

What Celery itself makes of them is in ``task_outcomes.json``; one test has Celery say it again.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from compat_tests.brokers import WITH_STATES
from compat_tests.checkout import ROOT
from compat_tests.conftest import make_settings
from compat_tests.facade.conftest import OldFleet, end
from compat_tests.facade.task_scenarios import SCENARIOS
from compat_tests.preloaded import run_program
from compat_tests.waiting import eventually

PROJECT = "compat_tests.facade.task_project"
HABITS = "compat_tests.facade.celery_habits"
SENDER = "compat_tests.facade.task_scenarios"
CELERYS: dict[str, Any] = json.loads(Path(__file__).with_name("task_outcomes.json").read_text())

#: Runs scenarios, and returns what came of them.
Report = Callable[[], dict[str, Any]]


@dataclass
class TaskFleet(OldFleet):
    """One worker with one slot, whose app has the tasks."""

    #: What is in the environment of the worker and of what sends to it.
    more: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        names = ("broker", "backend", "config_source")
        given = {name: self.config[name] for name in names}
        return {"APP_ARGS": json.dumps(given), "DAGSTER_HOME": str(self.home), **self.more}

    def run(self, module: str, *arguments: str, **more: str) -> dict[str, Any]:
        """Run a program that sends tasks, and return what it reports."""
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **self.environment, **more}
        done = run_program(module, arguments, environment, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        reported: dict[str, Any] = json.loads(done.stdout)
        return reported

    def outcomes(self, *scenarios: str, **more: str) -> dict[str, Any]:
        """Return what comes of scenarios; of all of them if none is named."""
        directory = Path(tempfile.mkdtemp(dir=self.home))
        return self.run(SENDER, str(directory), *scenarios, **more)


@contextmanager
def task_fleet(
    kind: str, app: str, request: pytest.FixtureRequest, **more: str
) -> Iterator[TaskFleet]:
    """Start a worker with one slot on an app.

    Args:
        kind: the broker.
        app: the module of the app.
        request: finds the broker.
        more: what is in the environment of the worker.
    """
    home = request.getfixturevalue("tmp_path_factory").mktemp(f"tasks-{kind}")
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    fleet = TaskFleet(make_settings(kind, home, request), home, more)
    with pytest.MonkeyPatch.context() as environment:
        for name, value in fleet.environment.items():
            environment.setenv(name, value)
        process = fleet.start("tasks", "--", "--concurrency", "1", app=app)
    try:
        yield fleet
    finally:
        end(process)


@pytest.fixture(scope="module")
def fleet_of_kind(request: pytest.FixtureRequest) -> Iterator[Callable[[str], TaskFleet]]:
    fleets: dict[str, TaskFleet] = {}
    with ExitStack() as stack:

        def find(kind: str) -> TaskFleet:
            if kind not in fleets:
                fleets[kind] = stack.enter_context(task_fleet(kind, PROJECT, request))
            return fleets[kind]

        yield find


@pytest.fixture(params=WITH_STATES)
def fleet(request: pytest.FixtureRequest, fleet_of_kind: Callable[[str], TaskFleet]) -> TaskFleet:
    return fleet_of_kind(request.param)


@pytest.fixture(scope="module")
def outcomes_on() -> Callable[[TaskFleet], dict[str, Any]]:
    known: dict[Path, dict[str, Any]] = {}

    def find(fleet: TaskFleet) -> dict[str, Any]:
        if fleet.home not in known:
            known[fleet.home] = fleet.outcomes()
        return known[fleet.home]

    return find


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_it_is_as_on_celery(
    scenario: str, fleet: TaskFleet, outcomes_on: Callable[[TaskFleet], dict[str, Any]]
) -> None:
    assert outcomes_on(fleet)[scenario] == CELERYS[scenario]


#: With names of ``celery``, a chord in a chord is refused; the sentence says what to do.
NESTED = "ConfigError: A chord of Celery's own cannot have another chord in its header here."


def test_signatures_of_celerys_own_are_served(
    fleet_of_kind: Callable[[str], TaskFleet],
) -> None:
    names = (
        *("a_group_of_a_chord", "a_chord_by_bars", "a_chord_in_a_chain", "a_chord_of_chords"),
        *("a_task_that_is_replaced_by_several", "a_result_as_plain_data"),
    )

    found = fleet_of_kind("embedded").outcomes(*names, CELERYS_NAMES="1")

    refused = found.pop("a_chord_of_chords")
    assert refused.startswith(NESTED) and "from dagster_celery.canvas import" in refused
    assert found == {name: CELERYS[name] for name in found} and len(found) == 5


@pytest.mark.test_all("test_signatures_of_celerys_own_are_served, with some of the scenarios")
def test_all_signatures_of_celerys_own_are_served(fleet: TaskFleet) -> None:
    found = fleet.outcomes(CELERYS_NAMES="1")

    assert found.pop("a_chord_of_chords").startswith(NESTED)
    assert found == {name: CELERYS[name] for name in found}


def test_what_follows_a_task_whose_process_dies_has_an_end(fleet: TaskFleet) -> None:
    found = fleet.outcomes("a_chain_whose_process_dies", "a_chord_whose_process_dies")

    died, errback = found["a_chain_whose_process_dies"]
    assert died[0] == "ChildDiedError" and errback == ["errback True"]
    assert found["a_chord_whose_process_dies"][0] == ["ChordError", True]


def test_a_task_may_wait_for_others_on_its_own_slot(fleet: TaskFleet) -> None:
    assert fleet.outcomes("a_task_that_waits")["a_task_that_waits"] == [6, 6, 12]


def test_a_retry_that_was_not_sent_is_an_end(fleet: TaskFleet) -> None:
    found = fleet.outcomes("a_retry_that_is_not_sent")["a_retry_that_is_not_sent"]
    assert found[0] == "Retry" and found[2] == "FAILURE"


@pytest.mark.parametrize("kind", ["embedded"])
def test_an_app_of_celerys_own_is_taken_over(kind: str, request: pytest.FixtureRequest) -> None:
    names = (
        *("a_retry_that_helps", "an_error_that_is_retried", "a_chain", "a_chord_by_bars"),
        *("a_task_that_is_replaced_by_several", "a_result_as_plain_data"),
    )

    with task_fleet(kind, PROJECT, request, ADOPTED="1") as fleet:
        found = fleet.outcomes(*names)
        log = (fleet.home / "tasks.log").read_text()

    assert found == {name: CELERYS[name] for name in names}
    assert "the method __call__ of the class of the task" in log


@pytest.mark.test_all("test_an_app_of_celerys_own_is_taken_over, with some of the scenarios")
@pytest.mark.parametrize("kind", WITH_STATES)
def test_all_of_an_app_of_celerys_own_is_taken_over(
    kind: str, request: pytest.FixtureRequest
) -> None:
    with task_fleet(kind, PROJECT, request, ADOPTED="1") as fleet:
        found = fleet.outcomes()

    assert found.pop("a_chord_of_chords").startswith(NESTED)
    assert found.pop("a_class_that_wraps_the_call") == [3, False]  # of which a warning has told
    assert found == {name: CELERYS[name] for name in found}


#: What the receivers of signals are told, in the process that Celery tells it in; sorted.
NOTED = [
    "after shared",
    "after shared",
    "after shared_and_failing",
    "before shared True [5]",
    "before shared True [5]",
    "before shared_and_failing True []",
    "failure ValueError('no') True",
    "postrun FAILURE",
    "postrun RETRY",
    "postrun SUCCESS",
    "postrun SUCCESS",
    "prerun discovered True True [4]",
    "prerun shared True True [5]",
    "prerun shared True True [5]",
    "prerun shared_and_failing True True []",
    "retry 0 Retry",
    "success 8",
    "success [5, 1, True]",
]


NOT_SENT = "is connected to Celery's signal worker_ready, which is not sent here"


def test_shared_tasks_discovery_and_signals_are_those_of_celery(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    notes = tmp_path / "notes"
    with task_fleet("embedded", HABITS, request, NOTES=str(notes)) as fleet:
        log = fleet.home / "tasks.log"
        # At the start, before there is a task.
        eventually(lambda: log.read_text().count(NOT_SENT) == 1)
        assert "celery_habits.py" in log.read_text()
        found = fleet.run("compat_tests.facade.habits_sender")

    assert found["ran"] == [[5, 1, True], "no", 8]
    assert found["conf"] == [3, False]
    assert found["states"] == [["SUCCESS", True, [5, 1, True]]] * 2
    told = [
        each
        for each in found["notes"]
        if not each.endswith("discovered") and "[4]" not in each.partition("before")[2]
    ]
    later = ("process began", "configured True", "postrun None", "slow", "dying")
    ordinary = [each for each in told if not any(word in each for word in later)]
    assert sorted(ordinary) == NOTED
    assert {"process began ['celery.task', 'root']", "configured True"} <= set(told)
    assert found["ended"] == ["revoked", "revoked", "lost"]
    revoked = [each for each in told if each.startswith("revoked")]
    assert sorted(revoked) == ["revoked slow True False True", "revoked slow True True False"]
    assert told.count("lost dying") == 1


@pytest.mark.test_all("every test above: this one is whether Celery still says the same")
def test_celery_itself_is_the_control(redis_url: str, tmp_path: Path) -> None:
    log = tmp_path / "worker.log"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "ON_CELERY": redis_url}
    worker = subprocess.Popen(
        [sys.executable, "-m", "celery", "-A", PROJECT, "worker", "-c", "2", "-l", "info"],
        env=environment,
        stdout=log.open("w"),
        stderr=subprocess.STDOUT,
    )
    try:
        eventually(lambda: " ready." in log.read_text())
        done = subprocess.run(
            [sys.executable, "-m", SENDER, str(tmp_path)],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
    finally:
        worker.terminate()
        worker.wait(60)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == CELERYS
