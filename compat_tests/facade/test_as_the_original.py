"""What dagster-celery does beyond its names and settings, which a project may rely on."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from dagster import (
    DagsterEventType,
    DagsterInstance,
    execute_job,
    reconstructable,
)
from dagster._core.execution.retries import RetryMode
from dagster._grpc.types import ExecuteStepArgs
from dagster._serdes import deserialize_value, pack_value
from dagster_shared.libraries import DagsterLibraryRegistry

from compat_tests.checkout import ROOT
from compat_tests.facade.behaviour_jobs import (
    EAGER,
    failing,
    retried,
    unsent,
    words_for_the_priority_of_a_run,
)
from compat_tests.preloaded import run_program
from dagster_celery import DagsterCeleryWarning
from dagster_celery._celery_app.celery_errors import as_celerys
from dagster_celery._cli.config_module import importable
from dagster_celery._configuration import CONFIG_FILE_ENV
from dagster_celery._submission_error import TEXT
from dagster_celery.launcher import CeleryRunLauncher
from dagster_celery.make_app import make_app
from dagster_celery.tasks import create_task
from dagster_taskiq.errors import (
    ChildDiedError,
    ConfigError,
    TaskCutShortError,
    TaskRevokedError,
    TimeLimitError,
    WorkerLostError,
)
from dagster_taskiq.tags import RUN_PRIORITY_TAG, describe_unread_priority, read_priority
from dagster_taskiq.version import __version__
from legacy_tests.sdists import NEWEST, unpack

RUN_EAGERLY = {"execution": {"config": EAGER}}


def test_a_step_that_is_called_returns_the_events_of_this_execution(
    instance: DagsterInstance,
) -> None:
    recon = reconstructable(retried)
    run = instance.create_run_for_job(retried, run_config=RUN_EAGERLY)
    args = ExecuteStepArgs(
        job_origin=recon.get_python_origin(),
        run_id=run.run_id,
        step_keys_to_execute=["second_time"],
        instance_ref=instance.get_ref(),
        retry_mode=RetryMode.DEFERRED,
    )
    for _ in range(2):
        task = create_task(make_app({"config_source": {"task_always_eager": True}}))
        returned = task(pack_value(args), recon.to_dict())
        kinds = [deserialize_value(each).event_type_value for each in returned]
        assert kinds[0] == DagsterEventType.STEP_WORKER_STARTED.value
        assert kinds.count(DagsterEventType.STEP_UP_FOR_RETRY.value) == 1
        assert kinds.count(DagsterEventType.STEP_START.value) == 1


def test_a_failed_op_is_not_raised(instance: DagsterInstance) -> None:
    recon = reconstructable(failing)
    with execute_job(recon, instance, run_config=RUN_EAGERLY, raise_on_error=True) as result:
        assert not result.success


def test_a_priority_of_a_run_that_is_no_number_counts_as_0(instance: DagsterInstance) -> None:
    recon = reconstructable(words_for_the_priority_of_a_run)
    with execute_job(recon, instance, run_config=RUN_EAGERLY) as result:
        assert result.success
    said = [entry.message for entry in instance.all_logs(result.run_id)]
    assert [each for each in said if "counts as 0: 'high' is no integer" in each]

    older, newer = {"dagster-celery/run_priority": "high"}, {RUN_PRIORITY_TAG: "high"}
    assert read_priority(older, RUN_PRIORITY_TAG) == 0
    assert describe_unread_priority({**older, RUN_PRIORITY_TAG: "3"}) == ""
    with pytest.raises(ConfigError, match="must be an integer"):
        read_priority(newer, RUN_PRIORITY_TAG)


def test_a_step_that_cannot_be_sent_has_an_event(instance: DagsterInstance) -> None:
    with execute_job(reconstructable(unsent), instance) as result:
        assert not result.success
    logged = [
        entry.dagster_event
        for entry in instance.all_logs(result.run_id)
        if entry.dagster_event and entry.dagster_event.message == TEXT
    ]
    assert len(logged) == 1
    assert "no way to send it" in logged[0].event_specific_data.error.to_string()
    assert TEXT in [each.message for each in result.all_events]


def test_a_broker_that_is_away_has_the_same_event(instance: DagsterInstance) -> None:
    away = "redis://localhost:1/0"
    source = {"broker_connection_timeout": 0.3}
    config = {"broker": away, "backend": away, "config_source": source}
    run_config = {"execution": {"config": config}}
    with execute_job(reconstructable(failing), instance, run_config=run_config) as result:
        assert not result.success
    logged = [entry.message for entry in instance.all_logs(result.run_id)]
    assert sum(TEXT in each for each in logged) == 1


def test_an_app_takes_every_setting_as_an_argument() -> None:
    app = make_app(
        {
            "broker": "redis://host/1",
            "config_source": {"worker_concurrency": 2, "result_expires": 60},
            "worker_concurrency": 9,
            "changes": {"task_time_limit": 7},
            "retries": object(),
            "result_expires": None,
        }
    )

    assert app.conf.worker_concurrency == 9
    assert app.configuration.worker == {"concurrency": 9, "time_limit": 7}
    assert app.configuration.settings.result_ttl == 60
    assert "retries" not in app.conf
    with pytest.warns(DagsterCeleryWarning, match="loader, task_cls and does nothing with it"):
        make_app({"task_cls": "my.Task", "loader": "my:Loader", "set_as_current": False})


@pytest.mark.parametrize(
    ("ours", "celerys"),
    [
        (TimeoutError("late"), "TimeoutError"),
        (TaskRevokedError("late"), "TaskRevokedError"),
        (TaskCutShortError("late"), "TaskRevokedError"),
        (TimeLimitError("It exceeded its time limit."), "TimeLimitExceeded"),
        (TimeLimitError("It exceeded its soft time limit."), "SoftTimeLimitExceeded"),
        (WorkerLostError("late"), "WorkerLostError"),
        (ChildDiedError("late"), "WorkerLostError"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_an_error_of_a_result_is_celerys_too_where_celery_is_imported(
    ours: BaseException, celerys: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import celery.exceptions

    theirs = getattr(celery.exceptions, celerys)

    both = as_celerys(ours)

    assert isinstance(both, theirs) and isinstance(both, type(ours))
    assert (str(both), repr(both)) == (str(ours), repr(ours))
    assert as_celerys(both) is both
    plain = ValueError("of the task itself")
    assert as_celerys(plain) is plain
    monkeypatch.delitem(sys.modules, "celery.exceptions")
    assert as_celerys(ours) is ours


def test_a_result_that_is_late_raises_celerys_timeout() -> None:
    import celery.exceptions

    from dagster_celery._celery_app.results import AsyncResult

    class App:
        class client:
            @staticmethod
            def result(_: str) -> None:
                return None

    with pytest.raises(celery.exceptions.TimeoutError, match="has not ended within 0 s"):
        AsyncResult("id", App()).get(timeout=0)


def test_the_launcher_keeps_its_app_and_its_runs_import_nothing() -> None:
    launcher = CeleryRunLauncher("q", broker="embedded://", include=["module_of_the_past"])

    assert launcher.celery is launcher.celery
    assert launcher.settings.include == ()
    assert launcher.app_args()["include"] == ["module_of_the_past"]


def test_dagster_knows_both_libraries() -> None:
    known = DagsterLibraryRegistry.get()
    assert known["dagster-celery"] == known["dagster-taskiq"] == __version__


@pytest.fixture
def config_file(tmp_path: Path, dagster_home: Path) -> Path:
    config = {"broker": "redis://of-the-file", "include": ["json", "module_of_the_past", "no.such"]}
    path = tmp_path / "celery.yaml"
    path.write_text(yaml.safe_dump({"execution": {"config": config}}))
    return path


def test_a_module_of_the_file_that_is_not_there_is_left_out(config_file: Path) -> None:
    with pytest.warns(DagsterCeleryWarning) as warned, importable(str(config_file)):
        written = Path(sys.path[0], "dagster_celery_config.py").read_text()

    assert CONFIG_FILE_ENV not in os.environ
    assert "include = ['json']\n" in written
    left_out = [(Path(each.filename), each.lineno) for each in warned]
    assert left_out == [(config_file, 6), (config_file, 7)]


@pytest.mark.parametrize("place", ["path", "directory"])
def test_a_config_module_of_the_project_counts_if_it_is_on_the_path(
    place: str, config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "dagster_celery_config.py").write_text("broker_url = 'redis://of-the-project'\n")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.chdir(own if place == "directory" else tmp_path)
    if place == "path":
        monkeypatch.setenv("PYTHONPATH", str(own))
        monkeypatch.syspath_prepend(str(own))
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "dagster_celery_config", raising=False)
    # That it is left for the other one is a warning as well.
    with pytest.warns(DagsterCeleryWarning) as warned, importable(str(config_file)):
        broker = make_app().conf.broker_url
    monkeypatch.delitem(sys.modules, "dagster_celery_config", raising=False)

    assert broker == ("redis://of-the-project" if place == "path" else "redis://of-the-file")
    told = [str(each.message) for each in warned if "is on PYTHONPATH" in str(each.message)]
    assert len(told) == (1 if place == "path" else 0)


@pytest.mark.parametrize(
    ("command", "instead"),
    [
        ("status", "dagster-celery status -A dagster_celery.app -y FILE"),
        ("inspect ping", "dagster-celery worker list -y FILE"),
        ("worker", "dagster-celery worker start -A dagster_celery.app -y FILE"),
        ("beat", "dagster-celery scheduler start -A "),
        ("events", "dagster-taskiq top"),
        ("control shutdown", "dagster-celery worker terminate NAME -y FILE"),
        ("purge -f", "dagster-taskiq status"),
    ],
)
def test_celerys_own_command_ends_in_a_sentence(command: str, instead: str) -> None:
    from celery.bin.celery import celery

    done = CliRunner().invoke(celery, ["-A", "dagster_celery.app", *command.split()])

    assert done.exit_code == 2
    last = done.output.strip().splitlines()[-1]
    name, *_ = command.split()
    assert last.startswith(f"Error: `celery {name}` speaks to Celery's workers")
    assert instead in last
    assert "Traceback" not in done.output


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as it is published."""
    return unpack(NEWEST, "dagster_celery", tmp_path_factory.mktemp("original"))


def behave(package: Path, home: Path) -> dict[str, Any]:
    """Return what a package does, in a process that has it and no other of that name."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("CELERY_", "DAGSTER_", "PYTHON"))
    }
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("behaving.py"))],
        env={**kept, "PYTHONPATH": str(package.parent), "DAGSTER_HOME": str(home)},
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert Path(answer["file"]).parent == package
    reported: dict[str, Any] = answer["reported"]
    return reported


@pytest.mark.test_all("the tests above, of ours alone; the original is the control")
def test_the_original_does_the_same(original: Path, dagster_home: Path) -> None:
    theirs = behave(original, dagster_home)

    assert theirs == behave(ROOT / "dagster_celery", dagster_home)
    assert theirs["a failed op"] == [False, []] and theirs["a run's priority"] == [True, []]
    assert theirs["a step unsent"] == theirs["a broker that is away"] == [False, [TEXT]]


@pytest.mark.test_all("test_celerys_own_command_ends_in_a_sentence, as a program")
@pytest.mark.parametrize("app", ["dagster_celery.app", "compat_tests.facade.own_executor"])
def test_celerys_own_program_ends_in_a_sentence(app: str) -> None:
    done = run_program("celery", ["-A", app, "status"])

    assert done.returncode == 2
    (line,) = (each for each in done.stderr.splitlines() if each.startswith("Error: "))
    assert f"dagster-celery status -A {app}" in line
    assert "Traceback" not in done.stderr
