"""What a demo runs in: a Dagster home of its own, and processes that do not outlive it."""

import importlib.util
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import yaml

from dagster_taskiq.client import Client
from dagster_taskiq.demo import project
from dagster_taskiq.demo.progress import show_line
from dagster_taskiq.errors import ConfigError
from dagster_taskiq.settings.embedded import EMBEDDED_URL
from dagster_taskiq.settings.env import BACKEND_ENV, BROKER_ENV, read_variable
from dagster_taskiq.settings.sqs_names import ENDPOINT_URL_ENV, QUEUE_URL_ENV, is_sqs
from dagster_taskiq.settings.urls import redact

#: How long a process may take to come up, in seconds. With the UI, four of them import Dagster at
#: the same time.
START_SECONDS = 120.0
#: How long what a demo leaves on a server is kept there, in seconds; longer than its runs take.
RESULT_TTL_SECONDS = 300.0
#: How long a step that is stopped has before it is killed, in seconds. The steps of the example
#: project need little, so that a demo ends fast.
KILL_GRACE_SECONDS = 10.0
#: How often a process is looked at, in seconds.
LOOK_SECONDS = 0.2
#: How much of a log is shown when its process did not do what it should, in lines.
LOG_LINES = 20

#: The module with the example project.
MODULE = project.__name__
WORKER_NAME = "demo-worker"
SLOTS = 2


@dataclass(frozen=True)
class DemoHome:
    """A directory that is ``$DAGSTER_HOME`` of this process and of all that it starts."""

    path: Path
    broker: str
    #: ``None``: the broker's server.
    backend: str | None
    #: Config of executor and launcher: a prefix of its own, so that a demo disturbs no other
    #: program on the server. It does not name the server, since a URL may hold a password, and
    #: this goes into files and runs.
    config: dict[str, Any]

    def configure(self, more: dict[str, Any]) -> None:
        """Write the ``dagster.yaml``, with ``more`` than what every demo has there."""
        document = {"telemetry": {"enabled": False}, "nux": {"enabled": False}, **more}
        (self.path / "dagster.yaml").write_text(yaml.safe_dump(document))

    @property
    def worker_config(self) -> Path:
        """The config file of the worker, and of commands that ask about it."""
        return self.path / "worker.yaml"

    @property
    def environment(self) -> str:
        """What is set before a command that looks at this home from another shell."""
        variables = {BROKER_ENV: self.broker}
        if self.backend:
            variables[BACKEND_ENV] = self.backend
        if is_sqs(self.broker) and (endpoint := read_variable(ENDPOINT_URL_ENV)):
            variables[ENDPOINT_URL_ENV] = endpoint
        named = [f"{name}='{redact(url)}'" for name, url in variables.items()]
        return " ".join([f"DAGSTER_HOME={shlex.quote(str(self.path))}", *named])


@contextmanager
def demo_home(broker: str, backend: str | None, keep: bool) -> Iterator[DemoHome]:
    """Make a Dagster home for this process; remove it with the context.

    Args:
        broker: URL of the broker. It goes to all processes by way of the environment.
        backend: URL of the backend, likewise; ``None`` for the broker's server, and for a file in
            this home if the broker is SQS, which keeps no state.
        keep: leave it there instead, and print its path.

    Raises:
        ConfigError: there is no directory for temporary files.
    """
    try:
        path = Path(tempfile.mkdtemp(prefix="dagster-taskiq-demo-"))
    except OSError as error:  # a read-only system, or a full disk
        raise ConfigError(
            "The demo has no place for its files, which are temporary "
            f"({error.strerror or error}). Set TMPDIR to a directory that can be written to."
        ) from None
    try:
        if backend is None and is_sqs(broker):
            backend = EMBEDDED_URL
        os.environ.update({"DAGSTER_HOME": str(path), BROKER_ENV: broker})
        # A queue that the environment names is not the demo's to use.
        for name in (BACKEND_ENV, QUEUE_URL_ENV):
            os.environ.pop(name, None)
        if backend is not None:
            os.environ[BACKEND_ENV] = backend
        prefix = f"dagster-taskiq-demo-{uuid.uuid4().hex[:8]}"
        config = {"prefix": prefix, "result_ttl": RESULT_TTL_SECONDS}
        home = DemoHome(path, broker, backend, config)
        home.worker_config.write_text(yaml.safe_dump(home.config))
        home.configure({})
        yield home
        if is_sqs(broker):
            show_line(f"The empty queues of the demo stay on SQS: {prefix}-*")
    finally:
        if keep:
            show_line(f"Kept: {path}\n\nIts logs, and its runs in Dagster's UI:\n")
            show_line(f"  tail -n 50 {shlex.quote(str(path))}/*.log")
            if not is_installed("dagster_webserver"):
                show_line(f"  {shlex.quote(sys.executable)} -m pip install dagster-webserver")
            show_line(f"  {home.environment} {typed('dagster')} dev -m {MODULE}")
        else:
            _remove(path)


def is_installed(package: str) -> bool:
    """Whether a package can be imported here."""
    try:
        return importlib.util.find_spec(package) is not None
    except ImportError:
        return False


def typed(program: str) -> str:
    """Return what calls a program of this Python in another shell: its name, or its path."""
    script = Path(sys.executable).with_name(program)
    if not script.exists() or shutil.which(program) == str(script):
        return program
    return shlex.quote(str(script))


def end_signals() -> list[signal.Signals]:
    """Return the signals that end a demo: Ctrl-C, SIGTERM, and a terminal that is closed."""
    signals = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # `nohup` wants it to live on
        signals.append(signal.SIGHUP)
    return signals


class DemoProcess:
    """A process of a demo, with its output in a file."""

    def __init__(self, home: DemoHome, name: str, arguments: Sequence[str]) -> None:
        """Start it.

        Args:
            home: the directory of its log.
            name: its name in messages.
            arguments: what is given to ``python -m``.
        """
        self.name = name
        self.log = home.path / f"{name.replace(' ', '-')}.log"
        with self.log.open("ab") as log:
            # In a session of its own: Ctrl-C is for the demo, which then ends its processes.
            self._process = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def exit_code(self) -> int | None:
        """Its exit code; ``None`` as long as it runs."""
        return self._process.poll()

    @property
    def log_end(self) -> str:
        """The last lines of its log, to be shown."""
        lines = self.log.read_text(errors="replace").splitlines()[-LOG_LINES:]
        return "\n".join(["The last lines of its log:", *(f"  {line}" for line in lines)])

    def wait_until(
        self,
        is_up: Callable[[], bool],
        look: Callable[[], None] = lambda: None,
        seconds: float = START_SECONDS,
    ) -> None:
        """Wait until it is up; call ``look`` again and again, which may raise.

        Raises:
            click.ClickException: it has ended, or takes too long.
        """
        deadline = time.monotonic() + seconds
        while not is_up():
            look()
            if self.exit_code is not None or time.monotonic() > deadline:
                raise click.ClickException(f"The {self.name} did not come up.\n{self.log_end}")
            time.sleep(LOOK_SECONDS)

    def check(self) -> None:
        """Check that it still runs.

        Raises:
            click.ClickException: it is not.
        """
        if self.exit_code is not None:
            raise click.ClickException(f"The {self.name} {self._how_ended}.\n{self.log_end}")

    def check_end(self) -> None:
        """Check that it has ended as it should.

        Raises:
            click.ClickException: it has not.
        """
        if self.exit_code != 0:
            self.check()

    @property
    def _how_ended(self) -> str:
        code = self.exit_code
        if code is not None and code < 0:
            return f"was ended by {signal.Signals(-code).name}"
        return f"ended with exit code {code}"

    def terminate(self) -> None:
        """Ask it to end; a second time means at once."""
        self._process.terminate()

    def kill(self) -> None:
        """End it by force, and return when it has ended."""
        self._process.kill()
        self._process.wait()

    def stop(self, gently: float, firmly: float) -> None:
        """End it.

        Args:
            gently: how long it may take before it is asked again, in seconds.
            firmly: how long it may take then before it is ended by force.
        """
        for seconds in (gently, firmly):
            self.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(seconds)
                return
        self.kill()


def start_worker(home: DemoHome) -> DemoProcess:
    """Start the worker of a demo."""
    arguments = ["dagster_taskiq", "worker", "start", "-n", WORKER_NAME, "-c", str(SLOTS)]
    arguments += ["--kill-grace", f"{KILL_GRACE_SECONDS:g}", "-y", str(home.worker_config)]
    return DemoProcess(home, "worker", arguments)


def worker_beats(client: Client) -> bool:
    """Return whether the worker of a demo sends heartbeats."""
    return any(each.name == WORKER_NAME and not each.is_lost for each in client.workers())


def _remove(path: Path) -> None:
    # What a killed process had begun to write may appear in a directory that is being removed.
    for _ in range(10):
        shutil.rmtree(path, ignore_errors=True)
        if not path.exists():
            return
        time.sleep(0.1)
