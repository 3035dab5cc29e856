"""The launcher's config in ``dagster.yaml``: what it takes, what it refuses, what it loads."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from dagster import DagsterInstance
from dagster._core.errors import DagsterInvalidConfigError
from dagster._core.instance.ref import InstanceRef

import dagster_taskiq
import dagster_taskiq.launcher
from compat_tests.checkout import ROOT
from dagster_taskiq import TaskiqRunLauncher
from dagster_taskiq.errors import ConfigError
from dagster_taskiq.settings.embedded import EMBEDDED_FILE
from dagster_taskiq.settings.settings import Settings


def launcher_of(
    home: Path, config: dict[str, Any] | None = None, module: str = "dagster_taskiq"
) -> TaskiqRunLauncher:
    """Return the launcher of an instance whose ``dagster.yaml`` holds this config of it."""
    launcher: dict[str, Any] = {"module": module, "class": "TaskiqRunLauncher"}
    if config is not None:
        launcher["config"] = config
    document = {"telemetry": {"enabled": False}, "run_launcher": launcher}
    (home / "dagster.yaml").write_text(yaml.safe_dump(document))
    # As every process does that opens the instance, but for the storages, which take longer.
    found = InstanceRef.from_dir(str(home)).run_launcher
    assert isinstance(found, TaskiqRunLauncher)
    return found


def test_without_config_the_launcher_uses_the_embedded_broker_of_its_instance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("DAGSTER_TASKIQ_BROKER", "DAGSTER_TASKIQ_BACKEND", "DAGSTER_HOME"):
        monkeypatch.delenv(name, raising=False)

    launcher = launcher_of(tmp_path)

    assert launcher.settings == Settings()
    assert launcher.settings.resolved(str(tmp_path)).broker.startswith("sqlite:///")
    with DagsterInstance.from_config(str(tmp_path)) as instance:
        assert isinstance(instance.run_launcher, TaskiqRunLauncher)
        assert instance.run_launcher.terminate("no such run") is False
        health = instance.run_launcher.check_run_worker_health(
            instance.create_run_for_job(_a_job(), tags={"dagster-taskiq/task_id": "unknown"})
        )
        assert health.status.value == "RUNNING"
    assert (tmp_path / EMBEDDED_FILE).exists(), "the queue is under the instance's home"


def _a_job() -> Any:
    from compat_tests.launcher.jobs import whole

    return whole


@pytest.mark.parametrize("module", ["dagster_taskiq", "dagster_taskiq.launcher"])
def test_the_launcher_is_found_in_the_package_and_in_its_module(
    tmp_path: Path, module: str
) -> None:
    launcher = launcher_of(tmp_path, {"queue": "nightly"}, module)

    assert launcher.settings.queue == "nightly"
    assert dagster_taskiq.TaskiqRunLauncher is dagster_taskiq.launcher.TaskiqRunLauncher


def test_every_field_of_the_config_reaches_the_settings(tmp_path: Path) -> None:
    config = {
        "broker": "redis://a:1/2",
        "backend": "redis://b:3/4",
        "queue": "nightly",
        "include": ["one.module", "another"],
        "prefix": "mine",
        "heartbeat_interval": 2.0,
        "lease": 9.0,
        "result_ttl": 60.0,
        "connect_timeout": 3.0,
        "broker_options": {"socket_timeout": 4},
        "backend_options": {"socket_timeout": 5},
    }

    settings = launcher_of(tmp_path, config).settings

    found = settings.to_dict()
    assert {name: found[name] for name in config} == config


def test_secrets_come_from_the_environment_at_any_depth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_BROKER", "redis://:hunter2@redis.internal:6379/0")
    monkeypatch.setenv("MY_CERTS", "/etc/certs/ca.pem")
    monkeypatch.setenv("MY_PASSWORD", "hunter2")
    config = {
        "broker": {"env": "MY_BROKER"},
        "broker_options": {
            "ssl_ca_certs": {"env": "MY_CERTS"},
            "deep": {"list": [{"password": {"env": "MY_PASSWORD"}}]},
        },
    }

    settings = launcher_of(tmp_path, config).settings

    assert settings.broker == "redis://:hunter2@redis.internal:6379/0"
    assert settings.broker_options == {
        "ssl_ca_certs": "/etc/certs/ca.pem",
        "deep": {"list": [{"password": "hunter2"}]},
    }


def test_a_secret_that_is_not_set_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOT_SET_ANYWHERE", raising=False)

    with pytest.raises(ConfigError, match="NOT_SET_ANYWHERE"):
        launcher_of(tmp_path, {"broker_options": {"password": {"env": "NOT_SET_ANYWHERE"}}})
    with pytest.raises(ConfigError, match="NOT_SET_ANYWHERE, which is not set"):
        launcher_of(tmp_path, {"broker": {"env": "NOT_SET_ANYWHERE"}})
    monkeypatch.setenv("NOT_SET_ANYWHERE", "")
    with pytest.raises(ConfigError, match="NOT_SET_ANYWHERE is set, but empty"):
        launcher_of(tmp_path, {"broker": {"env": "NOT_SET_ANYWHERE"}})


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"brokr": "redis://localhost"}, "brokr"),
        ({"lease": "long"}, "lease"),
        ({"include": "one.module"}, "include"),
        # Fields of the executor that say nothing to the one who launches.
        ({"max_concurrent": 3}, "max_concurrent"),
        ({"retries": {"enabled": {}}}, "retries"),
    ],
)
def test_dagster_refuses_what_the_schema_does_not_have(
    tmp_path: Path, config: dict[str, Any], named: str
) -> None:
    with pytest.raises(DagsterInvalidConfigError, match=named):
        launcher_of(tmp_path, config)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"lease": 5.0, "heartbeat_interval": 4.0}, '"lease"'),
        ({"lease": -1.0}, '"lease"'),
        ({"queue": " "}, '"queue"'),
    ],
)
def test_a_value_that_cannot_work_is_named(
    tmp_path: Path, config: dict[str, Any], named: str
) -> None:
    with pytest.raises(ConfigError, match=named):
        launcher_of(tmp_path, config)


def test_a_scheme_that_nobody_serves_is_named_when_the_launcher_is_used(tmp_path: Path) -> None:
    launcher_of(tmp_path, {"broker": "carrier-pigeon://loft"})

    with DagsterInstance.from_config(str(tmp_path)) as instance:
        run = instance.create_run_for_job(_a_job(), tags={"dagster-taskiq/task_id": "unknown"})
        with pytest.raises(ConfigError, match="carrier-pigeon"):
            instance.run_launcher.check_run_worker_health(run)


def test_opening_an_instance_with_the_launcher_does_not_import_taskiq(tmp_path: Path) -> None:
    """Code locations and workers of other kinds open it too, and launch nothing."""
    launcher_of(tmp_path, {"broker": "redis://localhost:1/0"})
    program = (
        "import sys\n"
        "import dagster_taskiq\n"
        "print('import', 'taskiq' in sys.modules, 'redis' in sys.modules)\n"
        "from dagster import DagsterInstance\n"
        f"with DagsterInstance.from_config({str(tmp_path)!r}) as instance:\n"
        "    print(type(instance.run_launcher).__name__, 'taskiq' in sys.modules)\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False
    )

    assert done.stdout.splitlines() == ["import False False", "TaskiqRunLauncher False"], (
        done.stderr
    )
