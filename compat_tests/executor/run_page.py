"""Dagster's web server, as the page of a run uses it: a subscription to the run's events."""

import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
from dagster import DagsterInstance

from compat_tests.waiting import PATIENCE_SECONDS, eventually

HOST = "127.0.0.1"
#: The protocol of Dagster's web server, which is that of the package subscriptions-transport-ws.
PROTOCOL = "graphql-ws"

EVENTS = """
subscription Events($id: ID!) {
  pipelineRunLogs(runId: $id) {
    ... on PipelineRunLogsSubscriptionSuccess {
      messages { __typename ... on MessageEvent { message } }
    }
  }
}
"""


class RunPage:
    """What the page of a run has been sent so far."""

    def __init__(self, socket: "aiohttp.ClientWebSocketResponse[bool]") -> None:
        self._socket = socket
        self.types: list[str] = []
        self.messages: list[str] = []

    async def wait_for(self, message: str) -> None:
        """Read events until there is one with this message."""
        while message not in self.messages:
            answer = await self._socket.receive_json(timeout=PATIENCE_SECONDS)
            if answer["type"] != "data":
                assert answer["type"] == "connection_ack", answer
                continue
            for event in answer["payload"]["data"]["pipelineRunLogs"]["messages"]:
                self.types.append(event["__typename"])
                self.messages.append(event["message"])


@contextmanager
def running_webserver(instance: DagsterInstance, directory: Path) -> Iterator[str]:
    """Start a web server on an instance, which needs no code to show runs; return its URL."""
    with socket.create_server((HOST, 0)) as probe:
        port = probe.getsockname()[1]
    url = f"http://{HOST}:{port}"
    log = directory / "webserver.log"
    command = [sys.executable, "-m", "dagster_webserver", "--empty-workspace"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "-h", HOST, "-p", str(port)],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "DAGSTER_HOME": instance.root_directory},
        )

    def answers() -> bool:
        assert process.poll() is None, log.read_text()
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"{url}/server_info", timeout=PATIENCE_SECONDS):
                return True
        except OSError:
            return False

    try:
        eventually(answers, timeout=2 * PATIENCE_SECONDS)
        yield url
    finally:
        process.kill()
        process.wait(PATIENCE_SECONDS)


@asynccontextmanager
async def opened_page(url: str, run_id: str) -> AsyncIterator[RunPage]:
    """Subscribe to the events of a run, as its page does when it is opened."""
    start: dict[str, Any] = {"query": EVENTS, "variables": {"id": run_id}}
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{url}/graphql", protocols=[PROTOCOL]) as socket,
    ):
        await socket.send_json({"type": "connection_init", "payload": {}})
        await socket.send_json({"type": "start", "id": "events", "payload": start})
        yield RunPage(socket)
