"""Real servers for the tests: the environment's, our own from a binary, or a container's."""

import asyncio
import fcntl
import json
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from binascii import crc32
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiormq
import psutil
import psycopg2
import redis

from compat_tests.waiting import eventually

#: A Redis or Valkey that is already there; its database is written to under prefixes of the tests.
REDIS_ENV = "DAGSTER_TASKIQ_TEST_REDIS_URL"
BINARIES = ("redis-server", "valkey-server")

#: A RabbitMQ that is already there; queues are made in it under prefixes of the tests.
RABBIT_ENV = "DAGSTER_TASKIQ_TEST_RABBITMQ_URL"
#: Where clients look for a RabbitMQ by default, and what says on which machine.
DEFAULT_PORT = 5672
HOST_ENV = "DAGSTER_CELERY_BROKER_HOST"
#: What packages hide behind a wrapper that changes the user; the tests run as whoever they are.
RABBIT_SCRIPTS = Path("/usr/lib/rabbitmq/bin")

#: A PostgreSQL that is already there; databases are made in it, and dropped. The user of the URL
#: may create databases.
POSTGRES_ENV = "DAGSTER_TASKIQ_TEST_POSTGRES_URL"
#: Where packages put ``initdb`` and ``postgres``: on Debian they are not on the PATH.
POSTGRES_DIRECTORIES = ("/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin")
#: PostgreSQL refuses to run as root. Then it runs as the first of these users that exists.
POSTGRES_USERS = ("postgres", "nobody")


def with_driver(url: str) -> str:
    """Return the URL of a PostgreSQL with the name of the driver that dagster-postgres brings.

    SQLAlchemy 2.1 takes another driver for a URL without one.
    """
    return url.replace("://", "+psycopg2://", 1)


def free_port(most: int = 65535) -> int:
    """Return a port that nobody listens on, with a number that is not too high."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port <= most:
            return port


def freeze_process(process: "subprocess.Popen[bytes]") -> None:
    """Stop a process, and return when it does nothing more.

    On a busy machine, one of its threads takes a while to notice the signal, and the others go on
    until it has.
    """
    process.send_signal(signal.SIGSTOP)
    eventually(lambda: _is_frozen(process.pid), "it is frozen")


def _is_frozen(pid: int) -> bool:
    threads = Path(f"/proc/{pid}/task")
    if not threads.exists():
        return psutil.Process(pid).status() == psutil.STATUS_STOPPED
    states = [
        (each / "stat").read_text().rpartition(")")[2].split()[0] for each in threads.iterdir()
    ]
    return set(states) == {"T"}


class FreezableServer:
    """A server of the tests' own in one process, which they may freeze."""

    process: "subprocess.Popen[bytes] | None" = None

    def freeze(self) -> None:
        """Let it do nothing, with all connections open, until :meth:`thaw`."""
        assert self.process is not None
        freeze_process(self.process)

    def thaw(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)


class RedisServer(FreezableServer):
    """A server of the tests' own, which they may stop, freeze and start again on its port.

    Args:
        binary: the program.
        directory: a new one, for everything it writes.
        arguments: more of its options.
        environment: variables that it needs in addition to those of this process.
    """

    def __init__(
        self,
        binary: str,
        directory: Path,
        arguments: tuple[str, ...] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.binary = binary
        self.directory = directory
        self.arguments = arguments
        self._environment = {**os.environ, **(environment or {})}
        # The nodes of a cluster talk to each other on a port 10,000 above.
        self.port = free_port(55535 if "--cluster-enabled" in arguments else 65535)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        command = [self.binary, "--port", str(self.port), "--bind", "127.0.0.1"]
        # Every write is on disk before it is answered: a restart must lose nothing.
        command += ["--dir", str(self.directory), "--appendonly", "yes", "--appendfsync", "always"]
        command += ["--save", "", *self.arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=self._environment)
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


class RabbitServer(FreezableServer):
    """As :class:`RedisServer`. Its start takes ten seconds or more, so tests share one.

    Args:
        script: ``rabbitmq-server`` itself, not a wrapper that changes the user.
        directory: a new one, for everything it writes.
        rabbit: settings of the application ``rabbit``, as Erlang writes them in a list.
        port: where it listens; any that is free, where none is asked for.
        environment: variables that it needs in addition to those of this process, such as the PATH
            to another Erlang.
    """

    def __init__(
        self,
        script: str,
        directory: Path,
        rabbit: tuple[str, ...] = (),
        port: int | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.script = script
        self.directory = directory
        self._more_environment = dict(environment or {})
        self.port = port or free_port()
        self.guard = Guard(directory)
        self._names = NameServer(self._more_environment)
        self._node = f"test-{self.port}@localhost"
        # Only one config file, of Erlang's own terms: another form has to be translated at start.
        (directory / "advanced.config").write_text(f"[{{rabbit, [{', '.join(rabbit)}]}}].\n")
        (directory / "plugins").write_text("[].\n")

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}/"

    def start(self) -> None:
        self._names.start()
        with (self.directory / "output.log").open("ab") as output:
            self.process = subprocess.Popen(
                [self.script],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self._environment(),
                # Ctrl-C is for the tests alone: they end the server.
                start_new_session=True,
            )
        self._tell_guard()
        self.wait_until_ready()

    def _tell_guard(self) -> None:
        running = (self.process, self._names.process)
        self.guard.watch([each.pid for each in running if each is not None])

    def _environment(self) -> dict[str, str]:
        mine = {key: value for key, value in os.environ.items() if "RABBITMQ" not in key}
        arguments = [
            "-noinput",
            # Known to the name server from the start: else another machine is started to see to it.
            f"-sname {self._node} -start_epmd false",
            "-kernel inet_dist_use_interface {127,0,0,1}",
        ]
        return {
            **mine,
            **self._more_environment,
            **self._names.environment,
            "HOME": str(self.directory),
            "RABBITMQ_NODENAME": self._node,
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_MNESIA_BASE": str(self.directory / "data"),
            "RABBITMQ_LOG_BASE": str(self.directory / "log"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.directory / "plugins"),
            "RABBITMQ_CONF_ENV_FILE": str(self.directory / "no-environment"),
            "RABBITMQ_CONFIG_FILE": str(self.directory / "no-config"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self.directory / "advanced.config"),
            "RABBITMQ_PID_FILE": str(self.directory / "pid"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": " ".join(arguments),
            # The script becomes the server, and does not stay as the server's parent.
            "RABBITMQ_ALLOW_INPUT": "1",
        }

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + 120
        while not shakes_hands("127.0.0.1", self.port):
            gone = self.process is None or self.process.poll() is not None
            if gone or time.monotonic() > deadline:
                output = (self.directory / "output.log").read_text(errors="replace")
                raise RuntimeError(f"RabbitMQ does not come up:\n{output}")
            time.sleep(0.05)

    def ctl(self, *arguments: str) -> str:
        """Run ``rabbitmqctl``, which takes seconds, and return what it writes."""
        script = Path(self.script).with_name("rabbitmqctl")
        command = [str(script), "-q", "-n", self._node, *arguments]
        done = subprocess.run(
            command, env=self._environment(), stdout=subprocess.PIPE, check=True, text=True
        )
        return done.stdout

    def evaluate(self, expression: str) -> str:
        """Evaluate an expression of Erlang in the server, and return the answer as text.

        ``erl_call``, which comes with Erlang, does that at once; ``rabbitmqctl`` starts an Erlang
        machine of its own for it.
        """
        program = shutil.which("erl_call", path=self._environment()["PATH"])
        if program is None:
            return self.ctl("eval", f"{expression}.").strip()
        cookie = (self.directory / ".erlang.cookie").read_text().strip()
        answer = subprocess.run(
            [program, "-sname", self._node, "-c", cookie, "-e"],
            env=self._environment(),
            input=f"{expression}.\n",
            stdout=subprocess.PIPE,
            check=True,
            text=True,
        ).stdout
        assert answer.startswith("{ok, ") and answer.endswith("}"), answer
        return answer.removeprefix("{ok, ").removesuffix("}")

    def stop(self) -> None:
        """End it in good order; :meth:`start` starts it again."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a power cut does: nothing more is written.

        The list of its queues is, before: one that it confirms may still be lost to a power cut in
        the very next moment, which is for nobody here to mend.
        """
        self.evaluate("mnesia:dump_log()")
        self._end(signal.SIGKILL)

    def _end(self, number: int) -> None:
        if self.process is not None:
            self.thaw()
            self.process.send_signal(number)
            self.process.wait(60)
            self.process = None
            self._tell_guard()

    def end(self) -> None:
        """Leave nothing running, and no files."""
        self._end(signal.SIGKILL)
        self._names.stop()
        self.guard.watch([])
        self.guard.let_go()
        self.guard.process.wait(30)


class Guard:
    """A process that ends others when nobody holds it any more, however the holders died.

    Each holder has a named pipe open for writing, and the kernel counts them: the guard, which
    reads the pipe, comes to its end when the last of them has closed it.
    """

    #: The last line it has read names the process groups to end.
    SCRIPT = """
        exec <"$1"
        while read -r line; do groups=$line; done
        exec </dev/null
        for group in $groups; do kill -s KILL -- "-$group"; done
        rm -rf "$2"
    """

    def __init__(self, directory: Path) -> None:
        self.pipe = directory / "guard"
        os.mkfifo(self.pipe)
        command = ["sh", "-c", self.SCRIPT, "guard", str(self.pipe), str(directory)]
        self.process = subprocess.Popen(
            command, stderr=subprocess.DEVNULL, cwd="/", start_new_session=True
        )
        self.held = os.open(self.pipe, os.O_WRONLY)

    def watch(self, groups: list[int]) -> None:
        os.write(self.held, f"{' '.join(map(str, groups))}\n".encode())

    def let_go(self) -> None:
        os.close(self.held)


def shakes_hands(host: str, port: int) -> bool:
    """Whether a RabbitMQ begins the handshake: its port is open a while before that."""
    try:
        with socket.create_connection((host, port), 5) as probe:
            probe.sendall(b"AMQP\x00\x00\x09\x01")
            return probe.recv(1) == b"\x01"  # a method: Connection.Start
    except OSError:
        return False


class NameServer:
    """Erlang's ``epmd``, which RabbitMQ would start by itself, and leave behind for ever.

    Args:
        environment: variables that it needs in addition to those of this process.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._more_environment = {**os.environ, **environment}
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        return {"ERL_EPMD_PORT": str(self.port), "ERL_EPMD_ADDRESS": "127.0.0.1"}

    def start(self) -> None:
        if self.process is not None:
            return
        self.process = subprocess.Popen(
            [self._binary()],
            env={**self._more_environment, **self.environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 5).close()
                return
            except OSError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise
                time.sleep(0.02)

    def _binary(self) -> str:
        path = self._more_environment["PATH"]
        found = shutil.which("epmd", path=path)
        if found is None:  # it is always there, but some packages show only ``erl``
            root = Path(shutil.which("erl", path=path) or "").resolve().parent.parent
            found = str(next(root.glob("**/erts-*/bin/epmd"), "epmd"))
        return found

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(30)
            self.process = None


def rabbit_script() -> str | None:
    real = RABBIT_SCRIPTS / "rabbitmq-server"
    return str(real) if real.exists() else shutil.which("rabbitmq-server")


@contextmanager
def own_rabbit(*rabbit: str, port: int | None = None) -> Iterator[RabbitServer]:
    """Start a server that only one test, or one file of tests, uses.

    Args:
        rabbit: its settings, such as ``{consumer_timeout, 2000}``.
        port: where it has to listen, if that matters.
    """
    script = rabbit_script()
    if script is None:
        raise RuntimeError(f"This test stops its own RabbitMQ, and needs its binary. {_HOW_RABBIT}")
    directory = Path(tempfile.mkdtemp(prefix="dagster-taskiq-rabbitmq-"))
    server = RabbitServer(script, directory, rabbit, port)
    try:
        server.start()
        yield server
    finally:
        server.end()


@contextmanager
def any_rabbit(meeting_place: Path) -> Iterator[str]:
    """Yield the URL of a RabbitMQ: the environment's, our own, or a container's.

    Args:
        meeting_place: the directory that is shared by all processes of one run of the tests.
    """
    script = rabbit_script()
    if RABBIT_ENV in os.environ:
        yield os.environ[RABBIT_ENV]
    elif script is not None:
        with shared_rabbit(script, meeting_place) as url:
            yield url
    elif shutil.which("docker"):
        with rabbit_container() as url:
            yield url
    else:
        raise RuntimeError(f"No RabbitMQ for the tests. {_HOW_RABBIT}")


@contextmanager
def rabbit_container(port: int | None = None, image: str = "rabbitmq:3") -> Iterator[str]:
    """Start one with Docker, on a port of this machine or any that is free there."""
    from testcontainers.core.container import DockerContainer

    # The library's own class for it looks whether it is ready by yet another client of AMQP.
    with DockerContainer(image).with_bind_ports(5672, port) as container:
        host, mapped = container.get_container_host_ip(), int(container.get_exposed_port(5672))
        deadline = time.monotonic() + 120
        while not shakes_hands(host, mapped) and time.monotonic() < deadline:
            time.sleep(0.1)
        yield f"amqp://guest:guest@{host}:{mapped}/"


@contextmanager
def default_rabbit() -> Iterator[str]:
    """Yield the URL of a RabbitMQ where clients look for one by default, as the user guest.

    It is one that runs already, on this machine or on that of ``DAGSTER_CELERY_BROKER_HOST``, or
    our own. Only one process has it at a time, since all would use the same queues.
    """
    host = os.environ.get(HOST_ENV, "localhost")
    url = f"amqp://guest:guest@{host}:{DEFAULT_PORT}/"
    lock = Path(tempfile.gettempdir()) / f"dagster-taskiq-rabbitmq-{os.getuid()}.lock"
    with ExitStack() as stack:
        fcntl.flock(stack.enter_context(lock.open("w")), fcntl.LOCK_EX)
        if shakes_hands(host, DEFAULT_PORT):
            asyncio.run(_log_in(url))
        elif _is_taken(host, DEFAULT_PORT):
            raise RuntimeError(
                f"Port {DEFAULT_PORT} of {host} is taken by something that is no RabbitMQ, and "
                f"tests of defaults need one there. Stop it, or name another host in {HOST_ENV}."
            )
        elif HOST_ENV in os.environ:
            raise RuntimeError(f"{HOST_ENV} is {host}, but no RabbitMQ answers there.")
        elif rabbit_script() is not None:
            stack.enter_context(own_rabbit(port=DEFAULT_PORT))
        elif shutil.which("docker"):
            stack.enter_context(rabbit_container(DEFAULT_PORT))
        else:
            raise RuntimeError(f"No RabbitMQ on port {DEFAULT_PORT}. {_HOW_RABBIT}")
        yield url


async def _log_in(url: str) -> None:
    try:
        await (await aiormq.connect(url)).close()
    except aiormq.exceptions.AMQPError as error:
        raise RuntimeError(
            f"The RabbitMQ at {url} does not let the tests in: {error!r}. They need the user "
            f"guest with the password guest. Create it, or stop the server: the tests start one."
        ) from error


def _is_taken(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), 5).close()
    except OSError:
        return False
    return True


@contextmanager
def shared_rabbit(
    script: str, meeting_place: Path, environment: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Start a server where no other process of the tests has; it ends with the last of them.

    Args:
        script: as for :class:`RabbitServer`; those with another one have other places to meet.
        meeting_place: the directory that is shared by all processes of one run of the tests.
        environment: as for :class:`RabbitServer`.
    """
    place = f"rabbitmq-{crc32(script.encode()):08x}"
    note = meeting_place / f"{place}.json"
    with (meeting_place / f"{place}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            url, pipe = json.loads(note.read_text())
            held = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:  # nobody has started one, or all who held it have gone
            directory = tempfile.mkdtemp(prefix="rabbitmq-", dir=meeting_place)
            server = RabbitServer(script, Path(directory), environment=environment)
            try:
                server.start()
            except BaseException:
                server.end()
                raise
            note.write_text(json.dumps([server.url, str(server.guard.pipe)]))
            url, held = server.url, server.guard.held
    try:
        yield url
    finally:
        os.close(held)


class PostgresServer:
    """A PostgreSQL cluster of the tests' own.

    Args:
        binaries: the directory of ``initdb`` and ``postgres``.
        directory: a new one, for everything the server writes.
        max_connections: how many connections the server accepts at a time.
    """

    #: Nothing has to outlive a crash of the machine.
    OPTIONS = ("fsync=off", "full_page_writes=off", "shared_buffers=32MB")

    def __init__(self, binaries: Path, directory: Path, max_connections: int = 300) -> None:
        self.binaries = binaries
        self.directory = directory
        self.max_connections = max_connections
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.guard = Guard(directory)

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """Make the cluster, unless it is there; start its server and wait until it answers."""
        output = self.directory / "output.log"
        data = self.directory / "data"
        if not data.exists():
            create = [self.binaries / "initdb", "-D", data, "-U", "postgres", "--auth=trust"]
            create += ["--no-sync", "--no-locale", "-E", "UTF8"]
            if _as_no_root(create, self.directory, output).wait(120) != 0:
                raise RuntimeError(f"initdb failed:\n{output.read_text(errors='replace')}")
        options = [*self.OPTIONS, f"max_connections={self.max_connections}"]
        options += [f"port={self.port}", "listen_addresses=127.0.0.1"]
        options += ["unix_socket_directories="]
        arguments = [word for option in options for word in ("-c", option)]
        command = [self.binaries / "postgres", "-D", data, *arguments]
        self.process = _as_no_root(command, self.directory, output)
        self.guard.watch([self.process.pid])
        _wait_for_postgres(self.url, self.process, output)

    def stop(self) -> None:
        """Stop the server as ``pg_ctl stop -m fast`` does: whoever is connected is cut off."""
        self._end(signal.SIGINT)

    def end(self) -> None:
        """End the server, whoever is connected, and leave no files."""
        self._end(signal.SIGQUIT)  # "immediate shutdown"
        self.guard.watch([])
        self.guard.let_go()
        self.guard.process.wait(30)

    def _end(self, number: signal.Signals) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(30)
            self.process = None


def postgres_binaries() -> Path | None:
    """Return the directory of the newest PostgreSQL here that can make a cluster and serve it."""
    on_path = shutil.which("initdb")
    found = [Path(on_path).resolve().parent] if on_path else []
    for pattern in POSTGRES_DIRECTORIES:
        matches = Path("/").glob(pattern.lstrip("/"))
        found += sorted(matches, key=_version_in, reverse=True)
    return next((each for each in found if (each / "postgres").exists()), None)


def _version_in(directory: Path) -> float:
    number = re.search(r"\d+(\.\d+)?", str(directory))
    return float(number.group()) if number else 0.0


def _user_for_postgres() -> pwd.struct_passwd | None:
    """Return the user that PostgreSQL has to run as; ``None`` for the one who runs the tests."""
    if os.geteuid() != 0:
        return None
    for name in POSTGRES_USERS:
        with suppress(KeyError):
            return pwd.getpwnam(name)
    raise RuntimeError(f"PostgreSQL needs a user other than root; none of {POSTGRES_USERS} exists.")


@contextmanager
def own_postgres(max_connections: int = 300) -> Iterator[PostgresServer]:
    """Start a server that nobody else uses, which accepts so many connections at a time."""
    binaries = postgres_binaries()
    if binaries is None:
        raise RuntimeError(f"This test needs a PostgreSQL of its own. {_HOW_POSTGRES}")
    directory = Path(tempfile.mkdtemp(prefix="dagster-taskiq-postgres-"))
    server = PostgresServer(binaries, directory, max_connections)
    try:
        server.start()
        yield server
    finally:
        server.end()


@contextmanager
def any_postgres() -> Iterator[str]:
    """Yield the URL of a PostgreSQL: the environment's, our own, or a container's."""
    if POSTGRES_ENV in os.environ:
        yield os.environ[POSTGRES_ENV]
    elif postgres_binaries():
        with own_postgres() as server:
            yield server.url
    elif shutil.which("docker"):
        from testcontainers.postgres import PostgresContainer

        with PostgresContainer("postgres:16", driver=None) as container:
            yield container.get_connection_url()
    else:
        raise RuntimeError(f"No PostgreSQL for the tests. {_HOW_POSTGRES}")


@contextmanager
def new_database(server_url: str) -> Iterator[str]:
    """Make a database on a PostgreSQL; yield its URL, and drop it with all that is in it."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    _execute(server_url, f"CREATE DATABASE {name}")
    try:
        yield urlsplit(server_url)._replace(path=f"/{name}").geturl()
    finally:
        _execute(server_url, f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def own_pgbouncer(database_url: str) -> Iterator[str]:
    """Yield the URL of a database behind a PgBouncer of the tests' own, in transaction mode."""
    binary = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if binary is None:
        raise RuntimeError("This test needs PgBouncer. Run `apt-get install pgbouncer`.")
    server = urlsplit(database_url)
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="dagster-taskiq-pgbouncer-") as name:
        directory = Path(name)
        config, output = directory / "pgbouncer.ini", directory / "output.log"
        user = f"user={server.username}"
        if server.password:
            user += f" password={server.password}"
        config.write_text(
            f"[databases]\n* = host={server.hostname} port={server.port} {user}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nauth_type = any\n"
            "pool_mode = transaction\ndefault_pool_size = 4\nmax_client_conn = 200\n"
            "unix_socket_dir =\n"
        )
        process = _as_no_root([binary, config], directory, output)
        try:
            url = server._replace(netloc=f"{server.username}@127.0.0.1:{port}").geturl()
            _wait_for_postgres(url, process, output)
            yield url
        finally:
            process.kill()
            process.wait(30)


def _as_no_root(
    command: list[str | Path], directory: Path, output: Path
) -> "subprocess.Popen[bytes]":
    """Start a server that refuses to run as root, which gets a directory of its own."""
    user = _user_for_postgres()
    drop: dict[str, Any] = {}
    if user is not None:
        drop = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
        shutil.chown(directory, user.pw_uid, user.pw_gid)
    with output.open("ab") as log:
        # In a session of its own: Ctrl-C is for the tests alone, and they end the server.
        return subprocess.Popen(
            command,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **drop,
        )


def _wait_for_postgres(url: str, process: "subprocess.Popen[bytes]", output: Path) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            psycopg2.connect(url).close()
            return
        except psycopg2.OperationalError:
            if process.poll() is not None or time.monotonic() > deadline:
                text = output.read_text(errors="replace")
                raise RuntimeError(f"The server does not come up:\n{text}") from None
            time.sleep(0.02)


def _execute(url: str, statement: str) -> None:
    # Without `with`, which would begin a transaction: neither statement may be in one.
    connection = psycopg2.connect(url)
    connection.autocommit = True
    connection.cursor().execute(statement)
    connection.close()


_HOW_POSTGRES = f"Run `apt-get install postgresql`, or set {POSTGRES_ENV}, or install Docker."
_HOW_RABBIT = f"Run `apt-get install rabbitmq-server`, or set {RABBIT_ENV}, or install Docker."
_HOW = f"Run `apt-get install redis-server`, or set {REDIS_ENV}, or install Docker."
