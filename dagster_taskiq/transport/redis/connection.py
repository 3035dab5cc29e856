"""The connection to Redis or Valkey: URL, TLS options, pool, and the scripts that run there."""

import asyncio
import hashlib
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from redis.asyncio import Redis, Sentinel
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import MasterNotFoundError
from redis.backoff import ExponentialBackoff
from redis.exceptions import ConnectionError, NoScriptError, ResponseError

from dagster_taskiq.errors import ConfigError
from dagster_taskiq.settings.urls import scheme_of
from dagster_taskiq.transport.eviction import Eviction
from dagster_taskiq.transport.redis.blocking import Blocking
from dagster_taskiq.transport.redis.errors import REFUSALS, RedisErrors
from dagster_taskiq.transport.redis.pipelined import Pipelined
from dagster_taskiq.transport.redis.replies import Packed
from dagster_taskiq.transport.redis.sentinel_urls import read_sentinel_url

#: How long one command may take.
SOCKET_TIMEOUT_SECONDS = 8.0
#: The longest that a blocking read asks the server to wait, and how much longer its answer is
#: waited for, in seconds.
LONG_BLOCK_SECONDS, ANSWER_SECONDS = 20.0, 3.0
#: The longest where an option sets ``socket_timeout``, which is then the time limit of these reads
#: too, in seconds.
BLOCK_SECONDS = 5.0
#: When a connection is given up that is cut without a word, while nothing is sent on it: after so
#: many seconds without data, so many seconds between two probes, so many probes. Together they take
#: as long as a command that is not answered.
KEEPALIVE = (5, 1, 3)
#: How many commands of a process are sent at once; others wait. Scripts share one connection, and
#: each other command has one of its own, as has a script with large arguments. Those with which a
#: listener waits do not count.
COMMANDS_AT_ONCE = 50
#: How many connections there may be if no option says otherwise. redis-py 8 has a limit of 100, and
#: raises an error beyond.
MOST_CONNECTIONS = 2**31
#: Options of redis-py that change what replies or names are, which are bytes and UTF-8 here.
#: By name, with the values that change nothing.
_REFUSED_OPTIONS: Mapping[str, Sequence[str]] = {
    "decode_responses": (),
    "encoding": ("utf-8", "utf8"),
    "encoder_class": (),
    "parser_class": (),
}
#: A connection that was idle for so many seconds is checked before it is used, or made anew.
HEALTH_CHECK_SECONDS = 30

_UNREADABLE = (
    "its host or port cannot be read. In a user name or password, special characters have to be "
    "percent-encoded, such as %2F for a slash"
)


class Script:
    """A Lua script that is made up of several files, those with shared functions first."""

    def __init__(self, *files: Path) -> None:
        """Read the files."""
        self.text = "\n".join(each.read_text() for each in files)
        #: By which the server knows it.
        self.sha = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


class RedisConnection:
    """The connection to one server, or to a sentinel's master; broker and backend may share it."""

    def __init__(self, url: str, options: Mapping[str, Any], timeout: float) -> None:
        self.url = url
        self.boundary = RedisErrors(url)
        self._options = {
            "socket_timeout": SOCKET_TIMEOUT_SECONDS,
            "socket_connect_timeout": min(timeout, SOCKET_TIMEOUT_SECONDS),
            "health_check_interval": HEALTH_CHECK_SECONDS,
            "max_connections": MOST_CONNECTIONS,
            # Otherwise a connection that a firewall has dropped is noticed only by a timeout.
            **({} if scheme_of(url) == "unix" else _keepalive()),
            **options,
        }
        self._users = 0
        self._client: Redis | None = None
        #: On which scripts are run.
        self._pipelined: Pipelined | None = None
        #: Sends the commands with which the server waits.
        self._blocking: Blocking | None = None
        self._turns = asyncio.Semaphore(COMMANDS_AT_ONCE)

    @property
    def client(self) -> "Redis":
        """The client; its commands may be called by any coroutine of the loop that opened it.

        redis-py declares that a command returns its reply or an awaitable, since its two clients
        share these declarations; here it is always an awaitable.

        Raises:
            RuntimeError: the connection is not open.
        """
        if self._client is None:
            raise self._not_open()
        return self._client

    async def open(self) -> None:
        """Make the client, without connecting. Each of those that share the connection calls it.

        Raises:
            ConfigError: the client library does not know the URL or an option.
        """
        self._users += 1
        if self._users > 1:
            return
        self._turns = asyncio.Semaphore(COMMANDS_AT_ONCE)
        try:
            self._client = _checked(self._make_client())
        except (TypeError, ValueError) as error:
            self._users -= 1
            raise ConfigError(
                f"Cannot use the broker or backend {self.boundary.shown}: {error}."
            ) from None
        self._pipelined = Pipelined(self._client)
        self._blocking = _blocking(self._client)

    async def close(self) -> None:
        """Disconnect, at the call of the last of those that share the connection."""
        if self._users == 0:
            return
        self._users -= 1
        if self._users == 0 and self._client is not None:
            await self._client.aclose()
            self._client = self._pipelined = self._blocking = None

    async def ping(self) -> None:
        """Return when the server has answered, and can be used.

        Raises:
            ConfigError: it refuses user or password, an option is wrong, or it is a node of a
                cluster.
            ServerUnavailableError: it did not answer, or cannot serve now.
        """
        with self.boundary:
            try:
                ping: Any = self.client.ping()
                await ping
            except (ConnectionError, ResponseError) as error:
                raise self.boundary.refusal(error) or error from None
            except (TypeError, FileNotFoundError) as error:
                if isinstance(error, FileNotFoundError) and self.url.startswith("unix"):
                    raise
                raise ConfigError(
                    f"An option for {self.boundary.shown} is wrong: {error}. Options are passed to "
                    "redis-py's connection, see its documentation for their names."
                ) from None
        if (await self._info("cluster")).get("cluster_enabled"):
            raise self.boundary.is_cluster()

    async def eviction(self) -> Eviction | None:
        """Return how the server deletes our keys when it is full; ``None`` if it does not.

        A policy ``volatile-...`` deletes only keys that may expire, and losing those does no harm.
        """
        memory = await self._info("memory")
        policy, max_memory = str(memory.get("maxmemory_policy", "")), memory.get("maxmemory", 0)
        if not policy.startswith("allkeys") or not max_memory:
            return None
        evicted = (await self._info("stats")).get("evicted_keys", 0)
        return Eviction(self.boundary.shown, policy, int(max_memory), int(evicted))

    async def _info(self, section: str) -> dict[str, Any]:
        """Return a section of the server's ``INFO``; empty if the server does not permit that."""
        try:
            with self.boundary:
                info: Any = self.client.info(section)
                return dict(await info)
        except (ResponseError, ConfigError):  # a managed server, a proxy, a user who may not
            return {}

    @asynccontextmanager
    async def pipeline(self, *, transaction: bool = False) -> AsyncIterator[Any]:
        """Collect commands, which the caller sends together with ``execute()``.

        Args:
            transaction: no other client's commands come between them.
        """
        with self.boundary:
            async with self._turns, self.client.pipeline(transaction=transaction) as pipeline:
                yield pipeline

    async def command(self, name: str, *args: Any) -> Any:
        """Send one command, and return its reply."""
        with self.boundary:
            async with self._turns:
                execute: Any = self.client.execute_command
                return await execute(name, *args)

    async def script(
        self, script: Script, keys: Sequence[str | bytes] | Packed, args: Sequence[Any]
    ) -> Any:
        """Run a Lua script; the server keeps it after the first time.

        Args:
            script: the script.
            keys: its ``KEYS``.
            args: its ``ARGV``.
        """
        if self._pipelined is None:
            raise self._not_open()
        run = self._pipelined.run
        rest = (keys, *args) if isinstance(keys, Packed) else (*keys, *args)
        with self.boundary:
            async with self._turns:
                try:
                    return await run("EVALSHA", script.sha, len(keys), *rest)
                except NoScriptError:
                    return await run("EVAL", script.text, len(keys), *rest)

    async def any_exists(self, keys: Sequence[str]) -> bool:
        """Return whether any of these keys is there, with one command that is cheap to send."""
        if self._pipelined is None:
            raise self._not_open()
        with self.boundary:
            async with self._turns:
                return bool(await self._pipelined.run("EXISTS", *keys))

    async def read_stream(self, stream: str, after: str, seconds: float) -> list[Any]:
        """Return the entries of a stream after an id, each as id and fields; wait for the first.

        Args:
            stream: its name.
            after: the id.
            seconds: how long to wait at most; it may be less if that is long.
        """
        if self._blocking is None:
            raise self._not_open()
        with self.boundary:
            return await self._blocking.read(stream, after, seconds)

    async def pop(self, lists: Sequence[str], seconds: float) -> bool:
        """Remove the first entry of the first list that has any; wait for one.

        Args:
            lists: the names of the lists.
            seconds: how long to wait at most; it may be less if that is long.

        Returns:
            Whether there was one.
        """
        if self._blocking is None:
            raise self._not_open()
        with self.boundary:
            return await self._blocking.pop(list(lists), seconds)

    def _not_open(self) -> RuntimeError:
        return RuntimeError(f"The connection to {self.boundary.shown} is not open.")

    def _make_client(self) -> "Redis":
        # The client itself retries once if a connection is lost. Longer outages are left to
        # callers, of which some wait (a worker) and some report an error (a submit). A timeout is
        # not retried: connecting and each command would be, and a frozen server would be noticed
        # only after four times the timeout, which is longer than a lease.
        retry = Retry(ExponentialBackoff(cap=0.5, base=0.05), 1, (ConnectionError,))
        if "+sentinel" not in scheme_of(self.url):
            self._check_url()
            return Redis.from_url(self.url, retry=retry, **self._options)
        return self._sentinel_master(retry)

    def _check_url(self) -> None:
        """Refuse a URL that cannot be read, without quoting it: it may hold a password."""
        try:
            parts = urlsplit(self.url)
            _ = parts.port
            readable = parts.scheme == "unix" or "@" not in parts.path
        except ValueError:
            readable = False
        if not readable:
            raise ValueError(_UNREADABLE)

    def _sentinel_master(self, retry: Retry) -> "Redis":
        url = read_sentinel_url(self.url)
        sentinel = _Sentinels(  # type: ignore[no-untyped-call] # redis-py leaves it so
            url.sentinels,
            sentinel_kwargs={
                "socket_timeout": self._options["socket_connect_timeout"],
                # With the client library's own retries, a sentinel that is down costs seconds.
                "retry": retry,
                **url.sentinel_options,
            },
            **{**self._options, "retry": retry, **url.options},
        )
        master: Redis = sentinel.master_for(url.master)
        return master


def _checked(client: "Redis") -> "Redis":
    """Return the client, unless an option of its URL or its own would break everything."""
    options = client.connection_pool.connection_kwargs
    for name, harmless in _REFUSED_OPTIONS.items():
        if options.get(name) and str(options[name]).lower() not in harmless:
            raise ValueError(
                f"the option {name} changes what commands and replies are: leave it out"
            )
    return client


class _Sentinels(Sentinel):
    """The client library's sentinels, with errors that name addresses, not Python objects."""

    async def discover_master(self, service_name: str) -> tuple[str, int]:
        """Ask each sentinel in turn for the master's address (the client library's own method).

        Raises:
            MasterNotFoundError: none of them answers and knows the master.
            ConfigError: one of them is no sentinel.
        """
        try:
            host, port = await super().discover_master(service_name)
        except MasterNotFoundError as error:
            # The library's text has the repr of each client, with all options of its connection.
            text = str(error)
            for each in self.sentinels:
                text = text.replace(str(each), _address_of(each))
            raise MasterNotFoundError(text) from None
        except (*REFUSALS, ConnectionError):
            raise
        except ResponseError as error:
            asked = ", ".join(map(_address_of, self.sentinels))
            raise ConfigError(
                f"A sentinel URL names servers that are no sentinels ({asked}): "
                f"{str(error).partition(',')[0]}."
            ) from None
        return host, port


def _address_of(sentinel: "Redis") -> str:
    options = sentinel.connection_pool.connection_kwargs
    host = str(options["host"])
    return f"{f'[{host}]' if ':' in host else host}:{options['port']}"


def _blocking(client: "Redis") -> Blocking:
    if client.connection_pool.connection_kwargs.get("socket_timeout") == SOCKET_TIMEOUT_SECONDS:
        return Blocking(client, LONG_BLOCK_SECONDS, ANSWER_SECONDS)
    return Blocking(client, BLOCK_SECONDS, None)


def _keepalive() -> dict[str, Any]:
    """Return the options that have the operating system probe connections that are idle."""
    # macOS has another name for the first.
    names = ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT")
    if not hasattr(socket, names[0]):
        names = ("TCP_KEEPALIVE", *names[1:])
    options = {
        int(getattr(socket, name)): value
        for name, value in zip(names, KEEPALIVE, strict=True)
        if hasattr(socket, name)
    }
    return {"socket_keepalive": True, "socket_keepalive_options": options}
