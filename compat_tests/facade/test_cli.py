"""``dagster-celery``: what its users type, and what they and their probes read."""

import ast
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from dagster import DagsterError
from dagster._check import CheckError

from compat_tests.facade.conftest import APP, WORKER, OldFleet, end, run_cli
from compat_tests.waiting import eventually
from dagster_celery._cli.config_file import get_worker_config
from dagster_celery.cli import (
    get_config_dir,
    get_config_value_from_yaml,
    get_validated_config,
    get_worker_name,
    main,
)
from dagster_taskiq.errors import ConfigError

HOSTNAME = f"{WORKER}@{socket.gethostname()}"


def test_list_prints_what_celerys_inspection_does(old_fleet: OldFleet) -> None:
    done = old_fleet.cli("worker", "list", "-y", str(old_fleet.config_file))

    assert done.returncode == 0, done.stderr
    assert ast.literal_eval(done.stdout.strip()) == {HOSTNAME: []}
    assert "is now: dagster-taskiq worker list" in done.stderr


def test_status_is_what_probes_look_for(old_fleet: OldFleet) -> None:
    config = str(old_fleet.config_file)
    done = old_fleet.cli("status", "-A", "dagster_celery.app", "-y", config)

    assert done.returncode == 0, done.stderr
    assert re.search(f"{socket.gethostname()}:.*OK", done.stdout)
    assert done.stdout.splitlines()[-1] == "1 node online."

    quiet = ("status", "-A", "dagster_celery.app", "-y", config, "--", "--json", "-t", "5")
    assert json.loads(old_fleet.cli(*quiet).stdout) == {HOSTNAME: {"ok": "pong"}}


def test_status_fails_if_there_is_no_worker(dagster_home: Path, tmp_path: Path) -> None:
    config = tmp_path / "celery.yaml"
    config.write_text(f"execution: {{config: {{broker: 'sqlite:///{tmp_path}/q.db'}}}}\n")

    done = run_cli("status", "-A", "dagster_celery.app", "-y", str(config))

    assert done.returncode == 69
    assert "No nodes replied" in done.stderr


def test_a_worker_ends_when_it_is_terminated(old_fleet: OldFleet) -> None:
    process = old_fleet.start("short", "-q", "elsewhere", "--", "-c", "1")
    try:
        config = str(old_fleet.config_file)
        done = old_fleet.cli("worker", "terminate", "short", "-y", config)
        assert done.returncode == 0, done.stderr
        assert f"short@{socket.gethostname()}" in done.stderr
        assert process.wait(60) == 0
        again = old_fleet.cli("worker", "terminate", "short", "-y", config)
        assert again.returncode == 0 and "no worker of that name" in again.stderr
    finally:
        end(process)
    assert old_fleet.app().control.ping() == [{HOSTNAME: {"ok": "pong"}}]


def test_a_workers_config_is_its_owners_alone_and_goes_with_it(embedded_fleet: OldFleet) -> None:
    configs = embedded_fleet.home / "dagster_celery" / "config"
    before = set(configs.iterdir())  # that of the fleet's own worker
    process = embedded_fleet.start("brief", "-q", "elsewhere", "-c", "1")
    try:
        (mine,) = set(configs.iterdir()) - before
        (module,) = mine.glob("*.py")
        assert stat.S_IMODE(module.stat().st_mode) == 0o600
        assert stat.S_IMODE(mine.stat().st_mode) == 0o700
    finally:
        assert end(process) == 0
    assert set(configs.iterdir()) == before


def test_a_background_worker_is_found_and_ended(embedded_fleet: OldFleet) -> None:
    config = str(embedded_fleet.config_file)
    done = embedded_fleet.cli(
        "worker", "start", "-A", APP, "-y", config, "-d", "-n", "back", "-q", "elsewhere", "-c", "1"
    )
    assert done.returncode == 0, done.stderr
    found = re.search(r"pid (\d+), log (.+)", done.stdout)
    assert found is not None
    pid, log = int(found[1]), Path(found[2])
    try:
        name = f"back@{socket.gethostname()}"
        control = embedded_fleet.app().control
        assert control.inspect([name]).ping()  # it is there when the command has returned
        assert stat.S_IMODE(log.stat().st_mode) == 0o600
        assert embedded_fleet.settings.broker not in Path(f"/proc/{pid}/cmdline").read_text()
        embedded_fleet.cli("worker", "terminate", "back", "-y", config)
        eventually(lambda: not Path(f"/proc/{pid}").exists())
    finally:
        if Path(f"/proc/{pid}").exists():
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "App must be specified"),
        (["-A", "no_such_module_anywhere"], "Cannot import the app no_such_module_anywhere"),
        (["-A", "json"], "The module json has no app"),
        (["-A", "dagster_celery.app", "--", "--concurency", "4"], "--concurrency"),
        (["-A", "dagster_celery.app", "--", "-c", "many"], "many"),
        (["-A", "dagster_celery.app", *(["-q", "x"] * 5)], "more than four queues"),
    ],
)
def test_what_cannot_work_is_refused_at_once(
    arguments: list[str], text: str, dagster_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CELERY_BROKER_URL", "embedded://")

    result = CliRunner().invoke(main, ["worker", "start", *arguments])

    assert result.exit_code == 1
    assert isinstance(result.exception, ConfigError)
    assert text in str(result.exception)


def test_as_a_program_it_prints_errors_as_a_sentence(dagster_home: Path) -> None:
    done = run_cli("worker", "start")

    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("Error: App must be specified")


def test_settings_warn_at_their_lines_of_the_config(embedded_fleet: OldFleet) -> None:
    config = embedded_fleet.config_file
    lines = config.read_text().splitlines()
    number = next(n for n, line in enumerate(lines, 1) if "worker_concurrency" in line)
    log = (embedded_fleet.home / f"{WORKER}.log").read_text()
    assert (
        f"{config}:{number}: DagsterTaskiqDeprecationWarning: dagster-celery: config_source" in log
    )


def test_an_unknown_key_of_the_config_is_refused(dagster_home: Path, tmp_path: Path) -> None:
    config = tmp_path / "celery.yaml"
    config.write_text("execution: {config: {brocker: x}}\n")

    done = run_cli("worker", "start", "-A", "dagster_celery.app", "-y", str(config))

    assert done.returncode != 0
    assert "brocker" in done.stderr


def test_the_command_warns_with_its_newer_form(dagster_home: Path) -> None:
    done = run_cli(
        *("worker", "start", "-A", "json", "-n", "me", "-q", "a", "-q", "b,c", "-l", "debug"),
        *("--", "--concurrency=3", "--max-tasks-per-child", "7"),
        CELERY_WORKER_CONCURRENCY="2",
        CELERY_WORKER_TIME_LIMIT="60",
        CELERY_WORKER_HOSTNAME="not@this",
        CELERY_WORKER_QUEUES="nor-these",
    )

    (line,) = [each for each in done.stderr.splitlines() if "is now: dagster-taskiq" in each]
    for part in ("worker start", "--concurrency 3", "--max-tasks-per-child 7", "debug"):
        assert part in line
    assert "--time-limit 60" in line
    assert "not@this" not in line and "nor-these" not in line
    assert "--name me " in line


@pytest.mark.parametrize(
    ("text", "config"),
    [
        ("", {}),
        ("execution:\n", {}),
        ("execution: {config: {broker: 'redis://'}}", {"broker": "redis://"}),
        ("execution: {celery: {broker: 'redis://'}}", {"broker": "redis://"}),
        ("broker: redis://", {"broker": "redis://"}),
    ],
)
def test_a_config_may_have_several_places_in_its_file(
    text: str, config: dict[str, str], tmp_path: Path
) -> None:
    path = tmp_path / "celery.yaml"
    path.write_text(text)

    assert get_config_value_from_yaml(str(path)) == config


def test_another_kind_of_file_warns(tmp_path: Path) -> None:
    path = tmp_path / "workspace.yaml"
    path.write_text("load_from: [{python_file: repo.py}]\n")

    with pytest.warns(UserWarning, match=r"has no `execution: config:`.*'load_from'"):
        assert get_config_value_from_yaml(str(path)) == {}


def test_variables_in_config_source_are_read_where_they_are_used(
    dagster_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "celery.yaml"
    source = {"task_default_queue": {"env": "QUEUE"}}
    config = {"broker": {"env": "BROKER"}, "config_source": source}
    path.write_text(yaml.safe_dump({"execution": {"config": config}}))
    monkeypatch.setenv("BROKER", "redis://:secret@host")
    monkeypatch.setenv("QUEUE", "from-the-environment")

    module = Path(get_config_dir(str(path))) / "dagster_celery_config.py"
    program = (
        "from dagster_celery.make_app import make_app\n"
        "app = make_app()\n"
        "print(app.configuration.settings.queue, app.configuration.settings.broker)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(module.parent)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )

    assert stat.S_IMODE(module.stat().st_mode) == 0o600
    assert done.stdout.split() == ["from-the-environment", "redis://:secret@host"]


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"broker": "redis://host", "backend": "rpc://", "include": ["a", "b"]},
        {"broker": None, "backend": None, "config_source": None},
        {"broker": {"env": "BROKER"}, "config_source": {"a": {"env": "BROKER"}, "b": [1, None]}},
        {"broker": {"env": "EMPTY"}},
        {"broker": {"env": "NOT_SET"}},
        {"broker": {"env": "BROKER", "more": 1}},
        {"broker": 6379},
        {"backend": ["rpc://"]},
        {"include": "a"},
        {"include": None},
        {"include": [1]},
        {"config_source": {"env": "NOT_SET"}},
        {"config_source": [1]},
        {"config_source": {1: "a"}},
        {"config_source": {"a": {1: "b"}, "c": 1.5, "d": True, "e": {}, "f": []}},
        {"config_source": {"a": date(2026, 1, 2)}},
        {"retries": {"disabled": {}}},
        {"unknown": 1},
    ],
    ids=str,
)
def test_a_workers_config_is_what_dagster_makes_of_the_file(
    config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BROKER", "redis://:secret@host")
    monkeypatch.setenv("EMPTY", "")
    path = tmp_path / "celery.yaml"
    path.write_text(yaml.safe_dump({"execution": {"config": config}}))
    try:
        expected = get_validated_config(str(path))
    except (DagsterError, CheckError) as refusal:
        with pytest.raises(type(refusal)):
            get_worker_config(str(path))
        return
    found = get_worker_config(str(path))
    for name in ("broker", "backend", "include", "config_source"):
        assert found.get(name) == expected.get(name)
        assert (name in found) == (name in expected)


def test_a_workers_config_is_written_elsewhere_if_the_home_takes_no_files(
    dagster_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "celery.yaml"
    path.write_text("execution: {config: {broker: 'redis://:secret@host'}}\n")
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    (dagster_home / "dagster_celery").touch()  # no directory can be made there, by root neither

    directory = Path(get_config_dir(str(path)))

    assert directory.parent == temporary
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert "secret" in (directory / "dagster_celery_config.py").read_text()
    monkeypatch.delenv("DAGSTER_HOME")
    assert Path(get_config_dir(str(path))).parent == temporary
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(
        ConfigError, match=r"neither \$DAGSTER_HOME \(not set\) nor a temporary"
    ) as it:
        get_config_dir(str(path))
    assert "secret" not in str(it.value)


def test_a_home_that_is_not_there_is_refused_and_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "celery.yaml"
    path.write_text("execution: {config: {broker: 'redis://host'}}\n")
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="is not a directory or does not exist"):
        get_config_dir(str(path))
    assert not (tmp_path / "nowhere").exists()


def test_the_config_of_a_worker_that_was_killed_is_removed_by_the_next(
    dagster_home: Path, tmp_path: Path
) -> None:
    path = tmp_path / "celery.yaml"
    path.write_text("execution: {config: {broker: 'redis://:secret@host'}}\n")
    program = (
        "import sys, time; from dagster_celery.cli import get_config_dir\n"
        "print(get_config_dir(sys.argv[1]), flush=True); time.sleep(300)\n"
    )
    workers = []
    directories = []
    try:
        for _ in range(2):
            command = [sys.executable, "-c", program, str(path)]
            worker = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            workers.append(worker)
            assert worker.stdout is not None
            directories.append(Path(worker.stdout.readline().strip()))
        lives, dies = directories
        for directory in directories:  # they have been there for long
            os.utime(directory / "in-use", (0, 0))
        workers[1].kill()
        workers[1].wait(30)

        get_config_dir(str(path))

        assert not dies.exists()
        assert (lives / "dagster_celery_config.py").exists()
    finally:
        for worker in workers:
            worker.kill()
            worker.wait(30)
            assert worker.stdout is not None
            worker.stdout.close()


def test_worker_names_have_the_form_of_celerys() -> None:
    assert get_worker_name("mine") == "mine@%h"
    assert re.fullmatch(r"dagster-[0-9a-f]{6}@%h", get_worker_name())
