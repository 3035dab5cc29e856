"""The oldest servers that are supported, as Dagster's Helm chart brings them: real ones.

They are looked for like the others: the URL in the environment; the programs that
``scripts/install-old-servers`` puts beside the checkout, which is done where they are missing; a
container.
"""

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from compat_tests.checkout import ROOT
from compat_tests.servers import (
    RabbitServer,
    RedisServer,
    own_rabbit,
    own_redis,
    rabbit_container,
    shared_rabbit,
)

#: A Redis 6.0, and a RabbitMQ 3.8, that are already there.
OLD_REDIS_ENV = "DAGSTER_TASKIQ_TEST_OLD_REDIS_URL"
OLD_RABBIT_ENV = "DAGSTER_TASKIQ_TEST_OLD_RABBITMQ_URL"

#: Where the programs are, and what puts them there.
_DIRECTORY = ROOT / ".old-servers"
_INSTALL = ROOT / "scripts" / "install-old-servers"
#: How long that may take, in seconds: they are 35 MB to download.
_INSTALL_SECONDS = 150.0


@contextmanager
def old_redis() -> Iterator[str]:
    """Yield the URL of a Redis 6.0."""
    if OLD_REDIS_ENV in os.environ:
        yield os.environ[OLD_REDIS_ENV]
    elif _is_installed():
        with own_old_redis() as server:
            yield server.url
    else:
        from testcontainers.redis import RedisContainer

        with RedisContainer("redis:6.0") as container:
            host, port = container.get_container_host_ip(), container.get_exposed_port(6379)
            yield f"redis://{host}:{port}/0"


@contextmanager
def own_old_redis() -> Iterator[RedisServer]:
    """Start a server that only one test uses: today's, where there are no old ones to start."""
    if not _is_installed():
        with own_redis() as server:
            yield server
        return
    with tempfile.TemporaryDirectory(prefix="dagster-taskiq-old-redis-") as directory:
        binary = str(_DIRECTORY / "usr" / "bin" / "redis-server")
        server = RedisServer(binary, Path(directory), environment=_environment())
        server.start()
        try:
            yield server
        finally:
            server.stop()


@contextmanager
def own_old_rabbit() -> Iterator[RabbitServer]:
    """As :func:`own_old_redis`."""
    if not _is_installed():
        with own_rabbit() as server:
            yield server
        return
    directory = Path(tempfile.mkdtemp(prefix="dagster-taskiq-old-rabbitmq-"))
    server = RabbitServer(str(_rabbit_script()), directory, environment=_environment())
    try:
        server.start()
        yield server
    finally:
        server.end()


@contextmanager
def old_rabbit(meeting_place: Path) -> Iterator[str]:
    """Yield the URL of a RabbitMQ 3.8.

    Args:
        meeting_place: the directory that is shared by all processes of one run of the tests.
    """
    if OLD_RABBIT_ENV in os.environ:
        yield os.environ[OLD_RABBIT_ENV]
    elif _is_installed():
        with shared_rabbit(str(_rabbit_script()), meeting_place, _environment()) as url:
            yield url
    else:
        with rabbit_container(image="rabbitmq:3.8") as url:
            yield url


def _rabbit_script() -> Path:
    return _DIRECTORY / "usr" / "lib" / "rabbitmq" / "bin" / "rabbitmq-server"


def _is_installed() -> bool:
    """Whether the programs are there; the first process of all that ask installs them.

    Raises:
        RuntimeError: they cannot be installed, and there is no Docker either.
    """
    with _DIRECTORY.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _DIRECTORY.exists():
            return True
        done = subprocess.run(
            [str(_INSTALL), str(_DIRECTORY)],
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=_INSTALL_SECONDS,
        )
    if done.returncode == 0 or shutil.which("docker"):
        return done.returncode == 0
    raise RuntimeError(
        f"No Redis 6.0 and no RabbitMQ 3.8 for the tests: {done.stderr.strip()} Run them on a "
        f"Debian, install Docker, or set {OLD_REDIS_ENV} and {OLD_RABBIT_ENV}."
    )


def _environment() -> Mapping[str, str]:
    """Return the variables that lead to their own libraries, and to their own Erlang."""
    libraries = next((_DIRECTORY / "usr" / "lib").glob("*-linux-gnu"))
    erlang = _DIRECTORY / "usr" / "lib" / "erlang" / "bin"
    return {
        "LD_LIBRARY_PATH": str(libraries),
        # Where this Redis has the library cjson of its scripts from.
        "LUA_CPATH": str(libraries / "lua" / "5.1" / "?.so"),
        "PATH": os.pathsep.join((str(erlang), os.environ["PATH"])),
    }
