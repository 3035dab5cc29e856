"""Workers as their users start them: subprocesses of the command line."""

import contextlib
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import psutil
import yaml
from sqlalchemy.engine import make_url

from compat_tests.checkout import ROOT
from compat_tests.preloaded import Program, start_program
from dagster_taskiq.cli.commands import cli
from dagster_taskiq.cli.worker import start
from dagster_taskiq.client import client_for
from dagster_taskiq.settings.settings import Settings

#: What a task that does not listen costs a test, in seconds; less than a worker's default.
KILL_GRACE = "10"


class WorkerProcess:
    """One ``dagster-taskiq worker start``."""

    def __init__(
        self,
        settings: Settings,
        directory: Path,
        name: str,
        *arguments: str,
        code: Path = ROOT,
        prefix: Sequence[str] = (),
    ) -> None:
        """Start it, with the engine in the directory ``code``, by a command that ``prefix`` is."""
        self.settings = settings
        self.name = name
        self.log = directory / f"{name}.log"
        config = directory / f"{name}.yaml"
        config.write_text(yaml.safe_dump(executor_config(settings)))
        command = ["worker", "start", "-y", str(config), "-n", name, "--kill-grace", KILL_GRACE]
        command += arguments
        self.process: subprocess.Popen[bytes] | Program = start_program(
            "dagster_taskiq", command, self.log, code=code, prefix=prefix
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    def wait_until_ready(self, timeout: float = 60) -> None:
        client = client_for(self.settings)
        deadline = time.monotonic() + timeout
        while not any(each.name == self.name and not each.is_lost for each in client.workers()):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"Worker {self.name} did not come up:\n{self.output()}")
            time.sleep(0.05)

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self, timeout: float = 60) -> int:
        return self.process.wait(timeout)

    def end(self) -> None:
        """End it the way that leaves nothing behind, however stuck it is."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(30)


def freeze(processes: Sequence[psutil.Process], settings: Settings) -> None:
    """Stop processes by SIGSTOP, when none of them has locked the embedded broker's file.

    Raises:
        psutil.NoSuchProcess: one of them has ended.
    """
    while True:
        for process in processes:
            process.suspend()
        if not settings.broker.startswith("sqlite:") or _can_be_written(settings.broker):
            return
        for process in processes:
            process.resume()


def _can_be_written(url: str) -> bool:
    with contextlib.closing(sqlite3.connect(str(make_url(url).database), timeout=1)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return False
    return True


def executor_config(settings: Settings) -> dict[str, object]:
    """Return settings as the executor's config, for a run config or a worker's YAML."""
    return {
        "broker": settings.broker,
        "backend": settings.backend,
        "broker_options": dict(settings.broker_options),
        "backend_options": dict(settings.backend_options),
        "queue": settings.queue,
        "prefix": settings.prefix,
        "heartbeat_interval": settings.heartbeat_interval,
        "lease": settings.lease,
        "result_ttl": settings.result_ttl,
        "worker_lost": settings.worker_lost.value,
    }


def options_of_start(arguments: Sequence[str]) -> dict[str, Any]:
    """Return what ``dagster-taskiq worker start`` reads from its arguments, and runs nothing."""
    # A command keeps, for all who come later, which of -h and --help its first context allowed.
    program = click.Context(cli, **cli.context_settings)
    return start.make_context("start", list(arguments), program).params


@contextlib.contextmanager
def running_worker(
    settings: Settings, directory: Path, *arguments: str, name: str = "w1", code: Path = ROOT
) -> Iterator[WorkerProcess]:
    """Start a worker, wait until it beats, and end it."""
    worker = WorkerProcess(settings, directory, name, *arguments, code=code)
    try:
        worker.wait_until_ready()
        yield worker
    finally:
        worker.end()
