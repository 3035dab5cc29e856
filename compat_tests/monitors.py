"""Monitors as their users start them: subprocesses of the command line, asked over HTTP."""

import base64
import contextlib
import http.client
import json
import os
import signal
import subprocess
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from compat_tests.checkout import ROOT
from compat_tests.preloaded import start_program
from compat_tests.servers import free_port
from compat_tests.waiting import eventually
from compat_tests.workers import executor_config
from dagster_taskiq.monitor.access import ACTION_HEADER, TOKEN_ENV
from dagster_taskiq.settings.settings import Settings

#: How long an answer may take, in seconds.
ANSWER_SECONDS = 60.0


@dataclass(frozen=True)
class Answer:
    """What a monitor has answered."""

    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def json(self) -> Any:
        """Its JSON."""
        assert self.headers["Content-Type"].startswith("application/json"), self
        return json.loads(self.text)


class MonitorProcess:
    """One ``dagster-taskiq monitor``."""

    def __init__(
        self,
        settings: Settings,
        directory: Path,
        *arguments: str,
        token: str | None = None,
        port: int | None = None,
    ) -> None:
        """Start it on a port, by default a free one, without waiting for it."""
        name = f"monitor-{uuid.uuid4().hex[:8]}"
        self.log = directory / f"{name}.log"
        self.port = port or free_port()
        self.token = None if token is None else token.strip()
        config = directory / f"{name}.yaml"
        config.write_text(yaml.safe_dump(executor_config(settings)))
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        environment.pop(TOKEN_ENV, None)
        if token is not None:
            environment[TOKEN_ENV] = token
        command = ["monitor", "-y", str(config), "--port", str(self.port), *arguments]
        self.process = start_program("dagster_taskiq", command, self.log, environment)

    @property
    def url(self) -> str:
        """Where it serves."""
        return f"http://127.0.0.1:{self.port}"

    def wait_until_ready(self) -> None:
        """Wait until it answers."""

        def answers() -> bool:
            assert self.process.poll() is None, self.output()
            with contextlib.suppress(OSError):
                return self.get("/healthz").text == "ok\n"
            return False

        eventually(answers, f"{self.url} answers")

    def output(self) -> str:
        """Return what it has logged."""
        return self.log.read_text(errors="replace")

    def ask(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Send one request, as it is."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=ANSWER_SECONDS)
        with contextlib.closing(connection):
            sent = {name: _as_utf8(value) for name, value in (headers or {}).items()}
            connection.request(method, path, body or None, sent)
            response = connection.getresponse()
            text = response.read().decode()
            return Answer(response.status, dict(response.getheaders()), text)

    def get(self, path: str, **headers: str) -> Answer:
        """Get a path, with the token if it has one."""
        return self.ask("GET", path, headers={**self._authorization, **headers})

    def act(self, action: str, **body: object) -> Answer:
        """Ask for an action, as the page does."""
        headers = dict([ACTION_HEADER, ("Content-Type", "application/json")])
        return self.ask(
            "POST",
            f"/api/actions/{action}",
            json.dumps(body).encode(),
            {**headers, **self._authorization},
        )

    @contextlib.contextmanager
    def events(self) -> Iterator[Iterator[tuple[str, Any]]]:
        """Open the stream of events; yields the name and the JSON of each."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=ANSWER_SECONDS)
        with contextlib.closing(connection):
            sent = {name: _as_utf8(value) for name, value in self._authorization.items()}
            connection.request("GET", "/events", headers=sent)
            response = connection.getresponse()
            assert response.status == 200, response.read()
            assert response.headers["Content-Type"] == "text/event-stream"
            yield _read_events(response)

    @property
    def _authorization(self) -> Mapping[str, str]:
        return {} if self.token is None else {"Authorization": f"Bearer {self.token}"}

    def end(self) -> int:
        """End it as its users do; return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise


def basic(user: str, password: str) -> str:
    """Return the header ``Authorization`` for a user and a password."""
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


def _as_utf8(value: str) -> str:
    """Return a text that is sent as the bytes of another: ``http.client`` writes Latin-1."""
    return value.encode().decode("latin-1")


def _read_events(response: http.client.HTTPResponse) -> Iterator[tuple[str, Any]]:
    name = ""
    while line := response.readline().decode():
        key, _, value = line.rstrip("\n").partition(": ")
        if key == "event":
            name = value
        elif key == "data":
            yield name, json.loads(value)


@contextlib.contextmanager
def running_monitor(
    settings: Settings,
    directory: Path,
    *arguments: str,
    token: str | None = None,
    port: int | None = None,
) -> Iterator[MonitorProcess]:
    """Start a monitor, wait until it answers, and end it."""
    monitor = MonitorProcess(settings, directory, *arguments, token=token, port=port)
    try:
        monitor.wait_until_ready()
        yield monitor
    finally:
        if monitor.process.poll() is None:
            monitor.end()
