"""A fleet that was started by the commands of dagster-celery, for each broker."""

import os
import signal
import subprocess
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import celery._state  # Celery imports it late
import pytest
import yaml

from compat_tests.brokers import WITH_STATES
from compat_tests.checkout import ROOT
from compat_tests.conftest import make_settings
from compat_tests.preloaded import Program, run_program, start_program
from compat_tests.waiting import eventually
from dagster_celery._celery_app.app import CeleryApp
from dagster_celery.make_app import make_app
from dagster_taskiq.settings.settings import Settings

APP = "compat_tests.facade.old_project"
WORKER = "old"
SLOTS = 2


Done = subprocess.CompletedProcess[str]


def run_cli(*arguments: str, **environment: str) -> Done:
    """Run ``dagster-celery`` as its users do."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return run_program("dagster_celery", arguments, environment)


@pytest.fixture(autouse=True)
def celery_of_one_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have Celery's apps and shared tasks end with their test.

    Celery keeps them for the process, and gives each shared task to every app: ``make_app`` of the
    next test would have tasks of its user's own.
    """
    shared = celery._state._on_app_finalizers
    monkeypatch.setattr(celery._state, "_on_app_finalizers", set(shared))
    monkeypatch.setattr(celery._state, "_apps", weakref.WeakSet())
    monkeypatch.setattr(celery._state._tls, "current_app", None)


@dataclass
class OldFleet:
    """One worker, its Dagster home and its config file."""

    settings: Settings
    home: Path

    @property
    def config(self) -> dict[str, Any]:
        """The config of ``celery_executor``."""
        return {
            "broker": self.settings.broker,
            "backend": self.settings.backend or "rpc://",
            "config_source": {
                "broker_transport_options": {"global_keyprefix": self.settings.prefix},
                "worker_concurrency": SLOTS,
            },
        }

    @property
    def config_file(self) -> Path:
        path = self.home / "celery.yaml"
        path.write_text(yaml.safe_dump({"execution": {"config": self.config}}))
        return path

    def app(self) -> CeleryApp:
        names = ("broker", "backend", "config_source")
        return make_app({name: self.config[name] for name in names})

    def cli(self, *arguments: str, **environment: str) -> Done:
        return run_cli(*arguments, DAGSTER_HOME=str(self.home), **environment)

    def start(
        self, name: str, *arguments: str, app: str = APP, path: str = str(ROOT)
    ) -> "subprocess.Popen[bytes] | Program":
        """Start a worker with a Python path of its own, and return when it is there."""
        command = ["worker", "start", "-A", app, "-y", str(self.config_file), "-n", name]
        environment = {**os.environ, "PYTHONPATH": path, "DAGSTER_HOME": str(self.home)}
        log = self.home / f"{name}.log"
        process = start_program("dagster_celery", [*command, *arguments], log, environment)
        control = self.app().control

        def there() -> bool:
            assert process.poll() is None, log.read_text()
            known = control.inspect().ping() or {}
            return any(each.startswith(f"{name}@") for each in known)

        eventually(there)
        return process


def end(process: "subprocess.Popen[bytes] | Program") -> int:
    """End a worker as Ctrl-C does, and return its exit code."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    return process.wait(60)


@pytest.fixture(scope="session")
def old_fleet_of_kind(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Callable[[str], OldFleet]]:
    fleets: dict[str, OldFleet] = {}
    with ExitStack() as stack:

        def find(kind: str) -> OldFleet:
            if kind not in fleets:
                home = tmp_path_factory.mktemp(f"old-{kind}")
                (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
                fleets[kind] = OldFleet(make_settings(kind, home, request), home)
                queues = ("-q", "dagster", "-q", "side,more")
                process = fleets[kind].start(WORKER, *queues, "--", "-E", "--prefetch-multiplier=1")
                stack.callback(end, process)
            return fleets[kind]

        yield find


@pytest.fixture(params=WITH_STATES)
def old_fleet(
    request: pytest.FixtureRequest, old_fleet_of_kind: Callable[[str], OldFleet]
) -> OldFleet:
    """A fleet on each broker."""
    return old_fleet_of_kind(request.param)


@pytest.fixture
def embedded_fleet(old_fleet_of_kind: Callable[[str], OldFleet]) -> OldFleet:
    """The fleet on the embedded broker, for what is the same on all of them."""
    return old_fleet_of_kind("embedded")
