"""What stands in for a Docker engine: the part of its API that containers of steps need.

Each container is a process of this machine that runs the container's command.
"""

import json
import os
import re
import signal
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from compat_tests.preloaded import Program, start_program

#: The versions of the API that this engine has.
API_VERSIONS = {"ApiVersion": "1.44", "MinAPIVersion": "1.24", "Version": "25.0"}


@dataclass
class Container:
    id: str
    name: str
    #: As it was created.
    body: dict[str, Any]
    log: Path
    process: "subprocess.Popen[bytes] | Program | None" = None
    #: Set when it has ended, and with what exit code.
    ended: threading.Event = field(default_factory=threading.Event)
    exit_code: int = 0

    @property
    def status(self) -> str:
        if self.process is None:
            return "created"
        return "exited" if self.ended.is_set() else "running"

    @property
    def environment(self) -> dict[str, str]:
        pairs = (each.partition("=") for each in self.body.get("Env") or ())
        return {name: value for name, _, value in pairs}

    @property
    def labels(self) -> dict[str, str]:
        return dict(self.body.get("Labels") or {})

    def describe(self) -> dict[str, Any]:
        running = self.status == "running"
        return {
            "Id": self.id,
            "Name": f"/{self.name}",
            "State": {"Status": self.status, "Running": running, "ExitCode": self.exit_code},
            "Config": {**self.body, "Tty": False},
            "HostConfig": {**self.body.get("HostConfig", {}), "LogConfig": {"Type": "json-file"}},
        }

    def signal(self, number: int) -> None:
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, number)


class Engine:
    """The containers of one machine."""

    def __init__(self, directory: Path, environment: dict[str, str]) -> None:
        """Make one without containers, which creates them at once.

        Args:
            directory: the working directory of all containers, where they leave their logs too.
            environment: that of every container, in addition to its own.
        """
        self._directory = directory
        self._environment = environment
        self._lock = threading.Lock()
        self._created = 0
        #: Those that are there, by id.
        self.containers: dict[str, Container] = {}
        #: All that were ever started, in order.
        self.started: list[Container] = []
        #: While it is clear, no container is created: the image is pulled.
        self.has_image = threading.Event()
        #: While it is clear, what was created is not told to those who have asked for it.
        self.answers_creation = threading.Event()
        #: How many containers were asked for.
        self.asked = 0
        self.has_image.set()
        self.answers_creation.set()

    def create(self, name: str, body: dict[str, Any]) -> "Answer":
        self.asked += 1
        self.has_image.wait()
        with self._lock:
            if any(each.name == name for each in self.containers.values()):
                return 409, {"message": f"Conflict. The container name /{name} is already in use."}
            self._created += 1
            name = name or f"nameless-{self._created}"
            log = self._directory / f"container-{self._created}.log"
            made = Container(f"{self._created:012x}", name, body, log)
            self.containers[made.id] = made
        self.answers_creation.wait()
        return 201, {"Id": made.id, "Warnings": []}

    def start(self, container: Container) -> "Answer":
        if container.process is not None:
            return 304, None
        module, *arguments = container.body["Cmd"]
        container.process = start_program(
            module,
            arguments,
            container.log,
            {**self._environment, **container.environment},
            directory=self._directory,
            new_session=True,
        )
        self.started.append(container)
        threading.Thread(target=self._wait_for, args=(container,)).start()
        return 204, None

    def stop(self, container: Container, seconds: float) -> "Answer":
        if container.status != "running":
            return 304, None
        container.signal(signal.SIGTERM)
        if not container.ended.wait(seconds):
            container.signal(signal.SIGKILL)
            container.ended.wait()
        return 204, None

    def remove(self, container: Container) -> "Answer":
        container.signal(signal.SIGKILL)
        self.containers.pop(container.id, None)
        return 204, None

    def wait(self, container: Container) -> "Answer":
        """Wait until it is not running, as Docker does: what was not started is not, either."""
        if container.status == "running":
            container.ended.wait()
        return 200, {"StatusCode": container.exit_code}

    def find(self, name_or_id: str) -> Container | None:
        for each in list(self.containers.values()):
            if name_or_id in (each.id, each.name):
                return each
        return None

    def close(self) -> None:
        self.has_image.set()
        self.answers_creation.set()
        for container in self.started:
            container.signal(signal.SIGKILL)
            container.ended.wait()

    def _wait_for(self, container: Container) -> None:
        assert container.process is not None
        code = container.process.wait()
        container.exit_code = code if code >= 0 else 128 - code
        if container.body.get("HostConfig", {}).get("AutoRemove"):
            self.containers.pop(container.id, None)
        container.ended.set()


#: An HTTP status, and an object or nothing.
Answer = tuple[int, Any]


def _answer(engine: Engine, method: str, path: str, query: dict[str, str], body: Any) -> Answer:
    if path == "/version":
        return 200, API_VERSIONS
    if (method, path) == ("POST", "/containers/create"):
        return engine.create(query.get("name", ""), body)
    found = re.fullmatch(r"/containers/([^/]+)(?:/([a-z]+))?", path)
    container = engine.find(found[1]) if found else None
    if found is None or container is None:
        return 404, {"message": f"No such container: {path}"}
    if (method, found[2]) == ("GET", "json"):
        return 200, container.describe()
    if (method, found[2]) == ("POST", "start"):
        return engine.start(container)
    if (method, found[2]) == ("POST", "wait"):
        return engine.wait(container)
    if (method, found[2]) == ("POST", "stop"):
        return engine.stop(container, float(query.get("t", 10)))
    if (method, found[2]) == ("DELETE", None):
        return engine.remove(container)
    return 501, {"message": f"This engine does not know {method} {path}"}


def _handler(engine: Engine) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            url = urlsplit(self.path)
            path = re.sub(r"^/v[0-9.]+", "", url.path)
            query = {key: values[0] for key, values in parse_qs(url.query).items()}
            sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if (self.command, path.rpartition("/")[2]) == ("GET", "logs"):
                self.send_logs(engine.find(path.split("/")[2]))
                return
            status, found = _answer(engine, self.command, path, query, json.loads(sent or "null"))
            text = b"" if found is None else json.dumps(found).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            with suppress(BrokenPipeError):  # its client was killed
                self.wfile.write(text)

        def send_logs(self, container: Container | None) -> None:
            """Send what a container has written, when it has ended."""
            self.send_response(200 if container else 404)
            self.send_header("Connection", "close")
            self.end_headers()
            self.close_connection = True
            if container is not None:
                if container.status == "running":
                    container.ended.wait()
                text = container.log.read_bytes() if container.log.exists() else b""
                self.wfile.write(struct.pack(">BxxxL", 1, len(text)) + text)

        do_GET = do_POST = do_DELETE = answer

        def log_message(self, format: str, *args: Any) -> None:
            """Log no request."""

    return Handler


@contextmanager
def running_engine(directory: Path, environment: dict[str, str]) -> Iterator[tuple[Engine, str]]:
    """Serve an engine, and yield it with its address, which ``$DOCKER_HOST`` takes."""
    engine = Engine(directory, environment)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(engine))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield engine, f"tcp://127.0.0.1:{server.server_port}"
    finally:
        engine.close()
        server.shutdown()
        thread.join()
        server.server_close()
