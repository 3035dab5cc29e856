"""Real servers for the tests: the environment's, our own from a binary, or a container's."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis

#: A Redis or Valkey that is already there; its database is written to under prefixes of the tests.
REDIS_ENV = "DAGSTER_TASKIQ_TEST_REDIS_URL"
BINARIES = ("redis-server", "valkey-server")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RedisServer:
    """A server of the tests' own, which they may stop, freeze and start again on its port."""

    def __init__(self, binary: str, directory: Path, arguments: tuple[str, ...] = ()) -> None:
        self.binary = binary
        self.directory = directory
        self.arguments = arguments
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        command = [self.binary, "--port", str(self.port), "--bind", "127.0.0.1"]
        # Every write is on disk before it is answered: a restart must lose nothing.
        command += ["--dir", str(self.directory), "--appendonly", "yes", "--appendfsync", "always"]
        command += ["--save", "", *self.arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        self.wait_until_ready()

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + 30
        client = redis.Redis(port=self.port, password=self._password())
        while True:
            try:
                client.ping()
                return
            except redis.exceptions.ConnectionError:
                if time.monotonic() > deadline or self.process is None or self.process.poll():
                    raise
                time.sleep(0.02)

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(30)
            self.process = None

    def kill(self) -> None:
        """End it as a power cut does: nothing more is written."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(30)
            self.process = None

    def _password(self) -> str | None:
        if "--requirepass" in self.arguments:
            return self.arguments[self.arguments.index("--requirepass") + 1]
        return None


def redis_binary() -> str | None:
    return next((path for path in map(shutil.which, BINARIES) if path), None)


@contextmanager
def own_redis(*arguments: str) -> Iterator[RedisServer]:
    """Start a server that only one test uses."""
    binary = redis_binary()
    if binary is None:
        raise RuntimeError(f"This test stops its own Redis, and needs its binary. {_HOW}")
    with tempfile.TemporaryDirectory(prefix="dagster-taskiq-redis-") as directory:
        server = RedisServer(binary, Path(directory), arguments)
        server.start()
        try:
            yield server
        finally:
            server.stop()


@contextmanager
def any_redis() -> Iterator[str]:
    """Yield the URL of a Redis: the environment's, our own, or a container's."""
    if REDIS_ENV in os.environ:
        yield os.environ[REDIS_ENV]
    elif redis_binary():
        with own_redis() as server:
            yield server.url
    elif shutil.which("docker"):
        from testcontainers.redis import RedisContainer

        with RedisContainer("redis:7") as container:
            host, port = container.get_container_host_ip(), container.get_exposed_port(6379)
            yield f"redis://{host}:{port}/0"
    else:
        raise RuntimeError(f"No Redis for the tests. {_HOW}")


_HOW = f"Run `apt-get install redis-server`, or set {REDIS_ENV}, or install Docker."
