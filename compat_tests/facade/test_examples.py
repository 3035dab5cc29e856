"""The example projects: one as users of dagster-celery have it, and the same one renamed."""

import os
import re
import shlex
import signal
import subprocess
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import psutil
import pytest

from compat_tests.checkout import ROOT
from compat_tests.waiting import eventually
from compat_tests.workers import options_of_start
from dagster_celery._cli.newer_commands import COMMAND_LINE
from dagster_celery._translate.names import NAMES
from dagster_taskiq.demo.story import RunStory
from dagster_taskiq.tags import OLDER_NAMES
from examples.demo import JOBS, RETRIED, show_off
from examples.deployment import (
    RENAMED,
    RENAMED_ENVIRONMENT,
    UNTOUCHED,
    UNTOUCHED_ENVIRONMENT,
    Deployment,
    OlderName,
)

#: Each run of a project starts half a dozen processes that import Dagster.
pytestmark = pytest.mark.timeout(300)
PATIENCE = 150

#: As the demo's own, and as strict as can be: with it, the first older name stops everything.
AS_ERRORS = {"PYTHONWARNINGS": "error:dagster-celery:DeprecationWarning"}


@dataclass(frozen=True)
class Outcome:
    """What a project has written when both of its jobs have run, and what the demo prints then."""

    reports: dict[str, str]
    stories: dict[str, RunStory]
    older_names: list[OlderName]
    output: str


def outcome_of(project: Path, directory: Path, environment: dict[str, str]) -> Outcome:
    """Run a project through its own commands."""
    deployment = Deployment(project, directory, {"PYTHONPATH": str(ROOT), **environment})
    with redirect_stdout(StringIO()) as output:
        assert show_off(deployment), output.getvalue()
    with deployment.instance() as instance:
        runs = instance.get_runs()
        stories = {run.job_name: RunStory.from_event_log(instance, run.run_id) for run in runs}
    reports = {path.name: path.read_text() for path in deployment.reports.iterdir()}
    return Outcome(reports, stories, deployment.older_names(), output.getvalue())


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return outcome_of(UNTOUCHED, tmp_path_factory.mktemp("untouched"), UNTOUCHED_ENVIRONMENT)


@pytest.fixture(scope="module")
def renamed(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    directory = tmp_path_factory.mktemp("renamed")
    return outcome_of(RENAMED, directory, {**RENAMED_ENVIRONMENT, **AS_ERRORS})


def sources(project: Path) -> list[Path]:
    """Return the files of a project, without what tools keep there."""
    kept = ("__pycache__", ".ruff_cache")
    files = (path for path in project.rglob("*") if path.is_file())
    return [path for path in files if not set(kept) & set(path.parts)]


def test_the_untouched_project_does_not_mention_this_one() -> None:
    files = sources(UNTOUCHED)
    assert {"docker-compose.yaml", "celery.yaml", "dagster.yaml"} <= {each.name for each in files}
    for path in files:
        assert "taskiq" not in f"{path.name} {path.read_text()}".lower(), path


def test_the_renamed_project_has_no_older_name() -> None:
    for path in sources(RENAMED):
        if path.name != "README.md":  # it names what the project was renamed from
            assert "celery" not in f"{path.name} {path.read_text()}".lower(), path


@pytest.mark.oldest
def test_the_untouched_project_does_its_work(untouched: Outcome) -> None:
    assert set(untouched.reports) == {"flood_report.json", "flood_days.csv"}
    assert untouched.stories["flood_report"].steps[RETRIED].attempts == 2
    assert untouched.stories["week_of_levels"].assets == [
        "hourly_levels",
        "daily_means",
        "flood_days",
    ]


def test_each_place_with_an_older_name_is_reported(untouched: Outcome) -> None:
    older = re.compile(rf"from dagster_celery|{'|'.join(OLDER_NAMES.values())}")
    places = {
        (str(path.relative_to(UNTOUCHED)), number)
        for path in sources(UNTOUCHED)
        if path.suffix == ".py"
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if older.search(line)
    }
    assert len(places) > 4
    reported = {(each.file, each.line) for each in untouched.older_names}
    assert places <= reported
    assert {"dagster.yaml", COMMAND_LINE} <= {file for file, _ in reported}


def test_each_replacement_is_named(untouched: Outcome) -> None:
    texts = "\n".join(each.text for each in untouched.older_names)
    source = "\n".join(path.read_text() for path in (UNTOUCHED / "rivers").glob("*.py"))
    for module in ("dagster_celery", "dagster_celery.tags"):
        for name, instead in NAMES[module].items():
            assert (name in source) == (instead in texts), name
    served = {}
    for words in re.findall(r"dagster-taskiq worker start (.*) \(and -b", texts):
        options = options_of_start(shlex.split(words))
        served[options["queues"]] = options["concurrency"]
    assert served == {("dagster",): 4, ("crunch",): 2}


@pytest.mark.test_all("the untouched project, and test_rename_order.py")
def test_the_renamed_project_does_the_same_without_warnings(
    untouched: Outcome, renamed: Outcome
) -> None:
    assert renamed.reports == untouched.reports
    assert renamed.older_names == []
    assert "No older name is left." in renamed.output
    for job in JOBS:
        ours, theirs = renamed.stories[job], untouched.stories[job]
        assert set(ours.steps) == set(theirs.steps)
        assert ours.attempts == theirs.attempts


def test_the_demo_shows_what_happened_and_what_may_be_renamed(untouched: Outcome) -> None:
    for line in (
        r"\$ dagster-celery worker start -A dagster_celery\.app .*-q crunch",
        r"read_gauge\[oxmead\]\tdagster\tgauges@\S+\t2\t",
        r"write_report\tcrunch\tcrunch@",
        r"ok   flood_report\.json has the crests of 4 stations",
        r"flood_report: read_gauge\[oxmead\]: started again, attempt 2",
        r"rivers/flood_report\.py:\d+,[\d,]+ +dagster_celery\.celery_executor is .* more\)",
        r"dagster\.yaml:\d+ +CeleryRunLauncher is now TaskiqRunLauncher",
    ):
        assert re.search(line, untouched.output), f"{line}\n{untouched.output}"


def test_the_demo_ends_with_a_line_for_each_file_to_rename(untouched: Outcome) -> None:
    _, _, shown = untouched.output.partition("What may be, by warnings:\n\n")
    lines = shown.partition("\n\n")[0].splitlines()
    files = {str(path.relative_to(UNTOUCHED)) for path in sources(UNTOUCHED)}
    places = [line.split()[0].partition(":")[0] for line in lines]
    assert len(set(places)) == len(lines) <= 6
    assert set(places) - {"its"} <= files


def test_ctrl_c_ends_the_demo_and_its_workers(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-m", "examples.demo"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env=environment,
    ) as demo:
        try:
            family = eventually(lambda: _with_workers(psutil.Process(demo.pid)), timeout=PATIENCE)
            demo.send_signal(signal.SIGINT)
            output, _ = demo.communicate(timeout=PATIENCE)
        finally:
            demo.terminate()  # and not kill: it has workers to end
    assert demo.returncode == 130, output
    assert "Traceback" not in output
    assert eventually(lambda: not any(map(psutil.Process.is_running, family)))
    assert list(tmp_path.glob("dagster-celery-demo-*")) == []


def _with_workers(process: psutil.Process) -> list[psutil.Process]:
    """Return all processes under one, once there are both workers with children of their own."""
    workers = process.children()
    family = process.children(recursive=True)
    return family if len(workers) == 2 and all(each.children() for each in workers) else []
