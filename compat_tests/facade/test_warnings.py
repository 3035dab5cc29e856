"""Each older name warns once, at the line of the project that has it."""

import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from taskiq import TaskiqMessage

from compat_tests.checkout import ROOT
from compat_tests.preloaded import run_program
from dagster_celery import DagsterCeleryWarning
from dagster_celery._make_app import make_app
from dagster_celery._translate.names import NAMES
from dagster_taskiq.deprecations import warn_older
from dagster_taskiq.execution.task_context import executing
from dagster_taskiq.settings.settings import Settings

#: The category, for a filter that is set once Python has started.
CATEGORY = "dagster_celery.DagsterCeleryDeprecationWarning"

#: Prints each warning of the category, and no other, with its file and line.
RECORDING = """
import warnings
from dagster_celery import DagsterCeleryDeprecationWarning
warnings.simplefilter("ignore")
warnings.simplefilter("default", DagsterCeleryDeprecationWarning)
def show(message, category, filename, lineno, file=None, line=None):
    print(f"{filename}:{lineno}: {message}")
warnings.showwarning = show
"""

Warned = Callable[..., list[str]]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    directory = tmp_path / "project"
    directory.mkdir()
    return directory


@pytest.fixture
def warned(project: Path, dagster_home: Path) -> Warned:
    """Write files, run one of them, and return what it warned of, without the project's path."""

    def run(files: dict[str, str], main: str = "main.py") -> list[str]:
        for name, text in files.items():
            (project / name).write_text(text)
        (project / "recording.py").write_text(RECORDING)
        start = f"runpy.run_path({str(project / main)!r}, run_name='__main__')"
        (project / "start.py").write_text(f"import recording, runpy\n{start}\n")
        done = run_program("start", [], dict(os.environ), directory=project)
        assert done.returncode == 0, done.stdout + done.stderr
        lines = [line for line in done.stdout.splitlines() if "dagster-celery: " in line]
        return [line.replace(f"{project}/", "").replace(f"{dagster_home}/", "") for line in lines]

    return run


def test_a_name_warns_at_the_line_that_imports_it(warned: Warned) -> None:
    program = """
from dagster_celery import celery_executor
from dagster_celery.tags import (
    DAGSTER_CELERY_QUEUE_TAG,
)
import dagster_celery.defaults
for _ in range(3):
    print(dagster_celery.defaults.task_default_queue)
"""
    assert warned({"main.py": program}) == [
        "main.py:2: dagster-celery: dagster_celery.celery_executor is an older name; "
        "write dagster_taskiq.taskiq_executor, whose configuration has no config_source.",
        "main.py:3: dagster-celery: dagster_celery.tags.DAGSTER_CELERY_QUEUE_TAG is an older name; "
        "write dagster_taskiq.tags.QUEUE_TAG.",
        "main.py:8: dagster-celery: dagster_celery.defaults.task_default_queue is an older name; "
        "leave it out: the settings of taskiq_executor have defaults of their own.",
    ]


def test_each_name_of_the_table_is_there_and_warns(warned: Warned) -> None:
    names = [(module, name) for module, rows in NAMES.items() for name in rows]
    program = "".join(f"from {module} import {name}\n" for module, name in names)

    lines = warned({"main.py": program})

    assert [line.partition(" is an older")[0] for line in lines] == [
        f"main.py:{number}: dagster-celery: {module}.{name}"
        for number, (module, name) in enumerate(names, 1)
    ]
    assert all("; " in line for line in lines)


OLD_JOB = """
from dagster import Definitions, execute_job, job, op, reconstructable, DagsterInstance
from dagster_celery import celery_executor

@op
def plain():
    return 1

@op(
    tags={"dagster-celery/queue": "side",
          "dagster-celery/priority": "3"},
)
def tagged(number):
    return number

@job(executor_def=celery_executor, tags={"dagster-celery/run_priority": "2"})
def old_job():
    tagged(plain())
"""

RUN = """
from dagster import DagsterInstance, execute_job, reconstructable
from jobs import {job}
EAGER = {{"execution": {{"config": {config}}}}}
if __name__ == "__main__":
    with DagsterInstance.get() as instance:
        execute_job(reconstructable({job}), instance, run_config=EAGER, raise_on_error=True)
"""


def test_tags_warn_at_the_lines_of_ops_and_jobs(warned: Warned) -> None:
    config = '{"config_source": {"task_always_eager": True}}'
    files = {"jobs.py": OLD_JOB, "main.py": RUN.format(job="old_job", config=config)}

    lines = warned(files)

    assert [line for line in lines if "the tag" in line] == [
        'jobs.py:10: dagster-celery: the tag "dagster-celery/queue" is now "dagster-taskiq/queue". '
        "Both are read; the new one wins.",
        'jobs.py:11: dagster-celery: the tag "dagster-celery/priority" is now '
        '"dagster-taskiq/priority". Both are read; the new one wins.',
        'jobs.py:16: dagster-celery: the tag "dagster-celery/run_priority" is now '
        '"dagster-taskiq/run_priority". Both are read; the new one wins.',
    ]


def test_tags_warn_with_the_new_executor_too(warned: Warned) -> None:
    job = OLD_JOB.replace("celery_executor", "taskiq_executor")
    job = job.replace("dagster_celery import", "dagster_taskiq import")
    run = RUN.format(job="old_job", config='{"broker": "memory://"}')
    files = {"jobs.py": job, "main.py": run}

    lines = warned(files)

    assert len(lines) == 3
    assert all("the tag" in line for line in lines)


def test_settings_warn_with_their_new_names(warned: Warned) -> None:
    config = '{"config_source": {"task_always_eager": True, "result_expires": 60, "typo_x": 1}}'
    files = {"jobs.py": OLD_JOB, "main.py": RUN.format(job="old_job", config=config)}

    lines = warned(files)

    (expires,) = [line for line in lines if "result_expires" in line]
    assert expires.startswith("main.py:7: ") and "result_ttl" in expires
    assert len([line for line in lines if "typo_x" in line]) == 1


def test_the_launcher_warns_at_its_line_of_the_file(warned: Warned, dagster_home: Path) -> None:
    (dagster_home / "dagster.yaml").write_text(
        "telemetry: {enabled: false}\n"
        "run_launcher:\n"
        "  module: dagster_celery.launcher\n"
        "  class: CeleryRunLauncher\n"
        "  config: {broker: 'redis://localhost:1/0'}\n"
    )
    program = """
from dagster import DagsterInstance
with DagsterInstance.get() as instance:
    assert type(instance.run_launcher).__name__ == "CeleryRunLauncher"
"""
    assert warned({"main.py": program}) == [
        "dagster.yaml:4: dagster-celery: CeleryRunLauncher is now TaskiqRunLauncher, in "
        "dagster_taskiq."
    ]


def test_the_launchers_settings_warn_at_their_lines(warned: Warned, dagster_home: Path) -> None:
    (dagster_home / "dagster.yaml").write_text(
        "telemetry: {enabled: false}\n"
        "run_launcher:\n"
        "  module: dagster_celery.launcher\n"
        "  class: CeleryRunLauncher\n"
        "  config:\n"
        "    config_source:\n"
        "      task_track_started: true\n"
        "      result_expires: 60\n"
    )
    program = """
from dagster import DagsterInstance
with DagsterInstance.get() as instance:
    instance.run_launcher
"""
    lines = warned({"main.py": program})
    assert sorted(line.partition(": dagster-celery: ")[0] for line in lines) == [
        "dagster.yaml:4",
        "dagster.yaml:7",
        "dagster.yaml:8",
    ]


RENAMED = """
from dagster import Definitions, job, op
from dagster_taskiq import taskiq_executor
from dagster_taskiq.tags import QUEUE_TAG

@op(tags={QUEUE_TAG: "side", "dagster-taskiq/priority": "3"})
def tagged():
    return 1

@job(executor_def=taskiq_executor, tags={"dagster-taskiq/run_priority": "2"})
def new_job():
    tagged()
"""


def test_a_renamed_project_does_not_warn(warned: Warned) -> None:
    run = RUN.format(job="new_job", config='{"broker": "memory://"}')
    assert warned({"jobs.py": RENAMED, "main.py": run}) == []


@pytest.mark.parametrize(
    ("how", "program"),
    [
        # Python reads -W before it can import what is installed, and so by the message alone.
        (["-W", "error:dagster-celery:DeprecationWarning"], ""),
        (
            [],
            "import warnings, dagster_celery\n"
            "warnings.simplefilter('error', dagster_celery.DagsterCeleryDeprecationWarning)\n",
        ),
    ],
    ids=["by message", "by category"],
)
@pytest.mark.parametrize("renamed", [False, True])
def test_made_errors_they_show_what_is_left(
    how: list[str], program: str, renamed: bool, project: Path
) -> None:
    package = "dagster_taskiq" if renamed else "dagster_celery"
    name = "taskiq_executor" if renamed else "celery_executor"
    (project / "main.py").write_text(f"{program}from {package} import {name}\n")

    done = subprocess.run(
        [sys.executable, *how, "main.py"],
        cwd=project,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode == 0) is renamed, done.stderr
    assert ("DagsterTaskiqDeprecationWarning" in done.stderr) is not renamed


#: The one line that silences all of this, as docs/how-to/migration.md gives it.
IGNORED = "ignore:dagster-celery:DeprecationWarning"

IMPORTS = "from dagster_celery.tags import DAGSTER_CELERY_QUEUE_TAG\n"


def python(
    project: Path, *arguments: str, **environment: str
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=project,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_name_that_is_made_an_error_is_one_of_the_line_that_has_it(project: Path) -> None:
    program = """
import warnings
try:
    from dagster_celery.tags import DAGSTER_CELERY_QUEUE_TAG
except DeprecationWarning as error:
    frame = error.__traceback__
    print(frame.tb_frame.f_code.co_filename, frame.tb_lineno)
warnings.simplefilter("ignore")
import dagster_celery.tags
print(dagster_celery.tags.DAGSTER_CELERY_QUEUE_TAG, dagster_celery.tags.__all__)
"""
    (project / "main.py").write_text(program)

    done = python(project, "-W", "error", "main.py")

    assert done.returncode == 0, done.stderr
    assert f"{project / 'main.py'} 4" in done.stdout
    # The module itself is whole.
    assert "dagster-celery/queue" in done.stdout and "DAGSTER_CELERY_TASK_ID_TAG" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "environment", "files"),
    [
        (["-W", "error", "-W", IGNORED, "test_it.py"], {}, {}),
        (["test_it.py"], {"PYTHONWARNINGS": f"error,{IGNORED}"}, {}),
        (
            ["-m", "pytest", "-p", "no:cacheprovider", "-p", "no:asyncio"],
            {},
            {"pytest.ini": f"[pytest]\nfilterwarnings =\n    error\n    {IGNORED}\n"},
        ),
        (
            ["-m", "pytest", "-p", "no:cacheprovider", "-p", "no:asyncio"],
            {},
            {
                "pyproject.toml": "[tool.pytest.ini_options]\n"
                f'filterwarnings = ["error", "{IGNORED}"]\n'
            },
        ),
    ],
    ids=["option", "environment", "pytest.ini", "pyproject.toml"],
)
def test_one_line_silences_it(
    arguments: list[str], environment: dict[str, str], files: dict[str, str], project: Path
) -> None:
    (project / "test_it.py").write_text(f"{IMPORTS}\ndef test_it():\n    pass\n")
    for name, text in files.items():
        (project / name).write_text(text)

    done = python(project, *arguments, **environment)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "DagsterTaskiqDeprecationWarning" not in done.stdout + done.stderr


OLD_INSTANCE = """
telemetry: {enabled: false}
run_launcher:
  module: dagster_celery.launcher
  class: CeleryRunLauncher
  config:
    broker: redis://localhost:1/0
    config_source:
      result_expires: 60
"""

#: Opens such an instance, and runs a job whose tags and settings have older names.
READS = """
from dagster import DagsterInstance, execute_job, reconstructable
from jobs import old_job

def test_it():
    with DagsterInstance.get() as instance:
        assert type(instance.run_launcher).__name__ == "CeleryRunLauncher"
        source = {"task_always_eager": True, "result_expires": 60}
        config = {"execution": {"config": {"config_source": source}}}
        with execute_job(reconstructable(old_job), instance, run_config=config) as result:
            assert result.success

if __name__ == "__main__":
    test_it()
"""


@pytest.mark.parametrize("how", ["option", "pytest"])
def test_what_is_read_is_shown_and_never_raised(
    how: str, project: Path, dagster_home: Path
) -> None:
    (dagster_home / "dagster.yaml").write_text(OLD_INSTANCE)
    # The one name that it imports is ignored at that line.
    ignoring = "import warnings\nwith warnings.catch_warnings():\n"
    ignoring += "    warnings.simplefilter('ignore')\n    "
    executor = "from dagster_celery import celery_executor\n"
    (project / "jobs.py").write_text(OLD_JOB.replace(executor, ignoring + executor))
    (project / "test_it.py").write_text(READS)
    (project / "pytest.ini").write_text("[pytest]\nfilterwarnings = error::DeprecationWarning\n")

    by_pytest = ["-m", "pytest", "-p", "no:cacheprovider", "-p", "no:asyncio"]
    options = by_pytest if how == "pytest" else ["-W", "error::DeprecationWarning", "test_it.py"]
    done = python(project, *options, CELERY_RESULT_BACKEND="rpc://")

    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    for words in (
        "CeleryRunLauncher is now TaskiqRunLauncher",
        "config_source.result_expires",
        'the tag "dagster-celery/queue" is now',
        'the tag "dagster-celery/run_priority" is now',
        "the variable CELERY_RESULT_BACKEND is now",
    ):
        assert words in said, said


def test_a_command_is_shown_and_never_raised(project: Path, dagster_home: Path) -> None:
    (project / "celery.yaml").write_text(
        "execution:\n  config:\n    broker: 'embedded://'\n"
        "    config_source: {result_expires: 60}\n"
    )
    command = ("-m", "dagster_celery", "worker", "list", "-y", "celery.yaml")
    done = python(project, *command, PYTHONWARNINGS="error")
    assert done.returncode == 0, done.stderr
    assert "the command dagster-celery worker list is now" in done.stderr
    assert "config_source.result_expires" in done.stderr


def test_pytest_knows_the_category(project: Path) -> None:
    program = "def test_it():\n    from dagster_celery import celery_executor\n"
    (project / "test_it.py").write_text(program)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:asyncio"]

    done = subprocess.run(
        [*command, "-W", f"error::{CATEGORY}"],
        cwd=project,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 1
    assert "test_it.py:2" in done.stdout and "write dagster_taskiq.taskiq_executor" in done.stdout


def test_the_engine_does_not_import_the_facade() -> None:
    program = """
import importlib, pkgutil, sys, dagster_taskiq
for module in pkgutil.walk_packages(dagster_taskiq.__path__, "dagster_taskiq."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
theirs = ("dagster_celery", "celery", "kombu")
found = [name for name in sys.modules if name.split(".")[0] in theirs]
assert not found, found
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=120)


def test_the_facade_does_not_import_celery() -> None:
    program = """
import importlib, pkgutil, sys, dagster_celery
for module in pkgutil.walk_packages(dagster_celery.__path__, "dagster_celery."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
found = [name for name in sys.modules if name.split(".")[0] in ("celery", "kombu", "billiard")]
assert not found, found
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=120)


#: Settings of which something is not done here, and one that is only renamed.
LOSING: dict[str, object] = {
    "worker_send_task_events": True,
    "beat_scheduler": "django_celery_beat.schedulers:DatabaseScheduler",
    "task_default_rate_limit": "10/m",
    "worker_log_format": "%(message)s",
    "worker_agent": "my.Agent",
    "worker_pool": "gevent",
    "task_serializer": "pickle",
    "task_acks_late": True,
    "task_annotations": {"*": {"rate_limit": "10/s"}},
    "worker_umask": "077",
    "worker_concurency": 3,
}
QUIET: dict[str, object] = {
    "result_expires": 60,
    "beat_schedule": {"hourly": {"task": "t", "schedule": 3600}},
    "worker_prefetch_multiplier": 2,
    "task_serializer": "json",
    "task_annotations": {"my_task": {"max_retries": 1}},
    "worker_pool": "prefork",
    "worker_send_task_events": False,
    "a_constant_of_the_project": 1,
}


def losses(config: dict[str, object]) -> list[str]:
    """Return what is shown by default about a configuration, by the names of its settings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.resetwarnings()
        warnings.simplefilter("always", UserWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        make_app({"broker": "redis://host", **config})
    texts = [str(each.message) for each in caught if each.category is DagsterCeleryWarning]
    return [re.match(r"dagster-celery: (?:config_source\.)?(\S+)", text)[1] for text in texts]


@pytest.mark.parametrize("name", LOSING)
def test_what_is_lost_is_shown_by_default(name: str) -> None:
    assert losses({"config_source": {name: LOSING[name]}}) == [name]


@pytest.mark.parametrize("name", QUIET)
def test_what_is_renamed_or_needs_nothing_is_quiet(name: str) -> None:
    assert losses({"config_source": {name: QUIET[name]}}) == []


@pytest.mark.parametrize(
    ("backend", "shown"),
    [
        ("db+postgresql://host/results", True),
        ("mongodb://host", True),
        ("my.own:Backend", True),
        ("rpc://", False),
        ("disabled://", False),
        ("redis://host/2", False),
    ],
)
def test_a_backend_that_is_not_used_is_shown(backend: str, shown: bool) -> None:
    assert bool(losses({"backend": backend})) == shown


def test_a_loss_raises_nothing_under_w_error() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_app({"broker": "redis://host", "config_source": LOSING})


def test_python_shows_what_is_lost_and_hides_what_is_renamed(
    project: Path, dagster_home: Path
) -> None:
    (dagster_home / "dagster.yaml").write_text(
        OLD_INSTANCE + "      worker_send_task_events: true\n"
    )
    (project / "opens.py").write_text(
        "from dagster import DagsterInstance\n"
        "with DagsterInstance.get() as instance:\n    instance.run_launcher\n"
    )

    done = python(project, "opens.py")

    assert done.returncode == 0, done.stderr
    assert "dagster.yaml:10: DagsterCeleryWarning: dagster-celery: config_source." in done.stderr
    assert "worker_send_task_events has no effect here" in done.stderr
    assert "result_expires" not in done.stderr


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("broker: amqp://me:s3cr3t@host", "broker: ***"),
        ("broker_password: s3cr3t", "broker_password: ***"),
        ('app = make_app({"broker": "sqs://AKIA:s3cr3t@"})', "app = ***"),
        ("secret_access_key: {a: s3cr3t}", "secret_access_key: ***"),
        ("broker: amqp://me@host/with/a:path", "broker: amqp://me@host/with/a:path"),
        ("visibility_timeout: 3600", "visibility_timeout: 3600"),
    ],
)
def test_python_shows_no_secret_of_the_line_that_a_warning_is_about(
    line: str, shown: str, tmp_path: Path
) -> None:
    path = tmp_path / "celery.yaml"
    path.write_text(f"execution:\n  {line}\n")
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        warn_older("a text.", str(path), 2)
    text = warnings.formatwarning("a text.", DagsterCeleryWarning, str(path), 2)
    assert text == f"{path}:2: DagsterCeleryWarning: a text.\n  {shown}\n"


def test_a_child_of_a_worker_shows_only_what_a_task_configures(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    losing: dict[str, object] = {"config_source": {"worker_log_format": "%(message)s"}}
    worker = Settings(broker="redis://host")
    monkeypatch.setattr("dagster_taskiq.settings.worker_fleet._worker_settings", worker)

    assert losses(losing) == []
    message = TaskiqMessage(task_id="t", task_name="t", labels={}, args=[], kwargs={})
    with executing(message):
        assert losses(losing) == ["worker_log_format"]
