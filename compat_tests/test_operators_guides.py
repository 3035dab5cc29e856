"""The guides for operators: what they say of times and figures fits together, and scripts run.

That each block on a page is valid by itself is tested with those of all pages.
"""

import configparser
import json
import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from compat_tests.checkout import ROOT
from compat_tests.sending import USER_TASKS, open_sender
from compat_tests.servers import free_port
from compat_tests.waiting import eventually
from compat_tests.workers import options_of_start, running_worker
from dagster_taskiq.settings.settings import Settings

GUIDES = ROOT / "docs" / "how-to"
PERFORMANCE = ROOT / "docs" / "explanation" / "performance.md"
#: What a worker needs beside drain timeout and kill grace, in seconds (workers.md, Time to stop).
OWN_SECONDS = 35
#: The longest `stopTimeout` of Fargate, in seconds.
FARGATE_SECONDS = 120


def blocks(page: str, language: str) -> list[str]:
    text = (GUIDES / page).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def units() -> list[tuple[str, configparser.SectionProxy]]:
    """Return the services of systemd.md, by the paths of their files."""
    found = []
    for code in blocks("systemd.md", "ini"):
        parser = configparser.ConfigParser(interpolation=None, strict=False)
        parser.optionxform = str  # type: ignore[assignment,method-assign]
        if "[Service]" in code:
            parser.read_string(code)
            found.append((code.partition("\n")[0].lstrip("# "), parser["Service"]))
    return found


def to_end(arguments: list[str]) -> float:
    """Return how long a worker with these arguments may take to end, in seconds."""
    options = options_of_start(arguments)
    return float(options["drain_timeout"]) + float(options["kill_grace"]) + OWN_SECONDS


def test_systemd_waits_as_long_as_its_worker_may_take() -> None:
    (worker,) = (each for path, each in units() if path.endswith("dagster-worker@.service"))
    arguments = worker["ExecStart"].split()[3:]
    assert int(worker["TimeoutStopSec"]) >= to_end(arguments)
    assert worker["KillMode"] == "mixed"
    # A drop-in with another command keeps the time of the template.
    for path, each in units():
        if path.endswith("queues.conf"):
            assert to_end(each["ExecStart"].split()[3:]) <= int(worker["TimeoutStopSec"])


@pytest.mark.parametrize("page", ["compose.md", "code-locations.md"])
def test_compose_waits_as_long_as_its_worker_may_take(page: str) -> None:
    services = [
        each
        for code in blocks(page, "yaml")
        for each in (yaml.safe_load(code).get("services") or {}).values()
    ]
    workers = [each for each in services if "worker start" in each.get("command", "")]
    assert workers
    for each in workers:
        seconds = int(each["stop_grace_period"].removesuffix("s"))
        assert seconds >= to_end(each["command"].split()[3:])


def test_ecs_waits_as_long_as_its_worker_may_take_and_no_longer_than_fargate() -> None:
    (task,) = (code for code in blocks("ecs.md", "json") if '"family"' in code)
    (container,) = json.loads(task)["containerDefinitions"]
    assert to_end(container["command"][3:]) <= container["stopTimeout"] <= FARGATE_SECONDS
    assert container["healthCheck"]["command"][1:] == ["dagster-taskiq", "status", "--local"]
    assert f"--http-port={port_of_the_script()}" in container["command"]


def protection_script() -> str:
    (script,) = (code for code in blocks("ecs.md", "sh") if "ECS_AGENT_URI" in code)
    return script


def port_of_the_script() -> int:
    (port,) = re.findall(r"localhost:(\d+)/livez", protection_script())
    return int(port)


class Agent(ThreadingHTTPServer):
    """What a task reaches at ``$ECS_AGENT_URI``: keeps what it was told last."""

    last: dict[str, Any] | None = None


class AgentRequest(BaseHTTPRequestHandler):
    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        assert isinstance(self.server, Agent)
        assert self.path == "/task-protection/v1/state"
        self.server.last = json.loads(body)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@contextmanager
def serving_agent() -> Iterator[Agent]:
    with Agent(("127.0.0.1", 0), AgentRequest) as agent:
        thread = threading.Thread(target=agent.serve_forever)
        thread.start()
        try:
            yield agent
        finally:
            agent.shutdown()
            thread.join()


def test_a_task_of_ecs_is_protected_while_its_worker_is_busy(tmp_path: Path) -> None:
    settings = Settings(broker=f"sqlite:///{tmp_path / 'queue.db'}")
    port, go, started = free_port(), tmp_path / "go", tmp_path / "started"
    script = protection_script().replace("sleep 10", "sleep 0.2")
    script = script.replace(f"localhost:{port_of_the_script()}", f"127.0.0.1:{port}")
    worker = running_worker(settings, tmp_path, "-i", USER_TASKS, "--http-port", str(port))
    with serving_agent() as agent, worker, open_sender(settings) as sender:
        loop = subprocess.Popen(
            ["bash", "-c", script],
            env={"PATH": "/usr/bin:/bin", "ECS_AGENT_URI": f"http://127.0.0.1:{agent.server_port}"},
            stdout=subprocess.DEVNULL,
        )
        try:
            idle = {"ProtectionEnabled": False, "ExpiresInMinutes": 60}
            eventually(lambda: agent.last == idle)
            sent = sender.send("hold", str(started), str(go))
            eventually(lambda: agent.last == {**idle, "ProtectionEnabled": True})
            go.touch()
            sender.value(sent)
            eventually(lambda: agent.last == idle)
        finally:
            loop.terminate()
            loop.wait(30)


def measured(what: str, place: str) -> str:
    """Return our figure in the table of performance.md."""
    row = rf"^\| {re.escape(what)} +\| {place} +\|[^|]*\| *(\S+) *\|"
    (figure,) = re.findall(row, PERFORMANCE.read_text(), re.MULTILINE)
    return str(figure)


def test_the_figures_of_the_brokers_are_those_that_were_measured() -> None:
    rows = {
        re.sub(r" \(\[.*", "", row.split("|")[1].strip()): [
            cell.strip() for cell in row.split("|")[2:-1]
        ]
        for row in (GUIDES / "choose-a-broker.md").read_text().splitlines()
        if row.startswith("| ")
    }
    for title, what in (
        ("a chain of 20 steps, s", "chain of 20, s"),
        ("500 steps side by side, s", "fan of 500, s"),
    ):
        embedded, _, redis, rabbitmq, _ = rows[title]
        assert [embedded, redis, rabbitmq] == [
            measured(what, place) for place in ("embedded", "redis", "rabbitmq")
        ]
    # With the storage there too, in a table of its own.
    (chain, fan) = re.findall(
        r"^\| the same PostgreSQL .*?\| (\S+) s \|.*\| (\S+) s \| \d+ \|$",
        PERFORMANCE.read_text(),
        re.MULTILINE,
    )[0]
    assert [rows["a chain of 20 steps, s"][1], rows["500 steps side by side, s"][1]] == [chain, fan]
