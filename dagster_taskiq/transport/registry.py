"""The broker and backend classes by URL scheme. A new server is one row in each table."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from dagster_taskiq.bulk_imports import bulk_imports
from dagster_taskiq.errors import ConfigError, MissingExtraError
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.settings.urls import redact, scheme_of

# The facade only reads the tables, and must not import taskiq for that, which is slow.
if TYPE_CHECKING:
    from dagster_taskiq.transport.backend import StateBackend
    from dagster_taskiq.transport.broker import QueueBroker

T = TypeVar("T")


@dataclass(frozen=True)
class Entry:
    """A class by module and name, and the pip extra that brings what its module imports."""

    module: str
    name: str
    extra: str = ""


class Registry(Generic[T]):
    """A table from URL scheme to the class that serves it, which is imported on first use."""

    def __init__(self, kind: str, entries: Mapping[str, Entry]) -> None:
        """Make the table.

        Args:
            kind: what its classes are (``broker`` or ``backend``), for error messages.
            entries: the class for each scheme.
        """
        self.kind = kind
        self.entries = entries

    def find(self, url: str) -> Any:
        """Return the class that serves ``url``.

        Raises:
            ConfigError: the URL has no scheme, or one that nothing serves.
            MissingExtraError: its module cannot be imported.
        """
        scheme = scheme_of(url)
        entry = self.entries.get(scheme)
        if entry is None:
            problem = (
                f"nothing serves the scheme {scheme!r}"
                if scheme
                else "it has no scheme, such as redis://"
            )
            served = ", ".join(f"{each}://" for each in self.entries)
            raise ConfigError(
                f"Cannot use {redact(url)!r} as {self.kind}: {problem}. Served are: {served}."
            )
        try:
            with bulk_imports():
                module = import_module(entry.module)
        except ImportError as error:
            extra = f"dagster-taskiq[{entry.extra}]" if entry.extra else "dagster-taskiq"
            raise MissingExtraError(
                f"The {self.kind} {redact(url)!r} needs a package that is not installed "
                f"({error}). Run: pip install '{extra}'"
            ) from error
        return getattr(module, entry.name)


_HERE = "dagster_taskiq.transport"
_MEMORY_BROKER = Entry(f"{_HERE}.memory.broker", "MemoryBroker")
_MEMORY_BACKEND = Entry(f"{_HERE}.memory.backend", "MemoryBackend")
_POSTGRESQL_BROKER = Entry(f"{_HERE}.sql.postgresql.transport", "PostgresqlBroker", "postgres")
_POSTGRESQL_BACKEND = Entry(f"{_HERE}.sql.postgresql.transport", "PostgresqlBackend", "postgres")
_RABBIT_BROKER = Entry(f"{_HERE}.rabbitmq.broker", "RabbitBroker")
_RABBIT_BACKEND = Entry(f"{_HERE}.rabbitmq.backend", "RabbitBackend")
_REDIS_BROKER = Entry(f"{_HERE}.redis.broker", "RedisBroker")
_REDIS_BACKEND = Entry(f"{_HERE}.redis.backend", "RedisBackend")
_SQLITE_BROKER = Entry(f"{_HERE}.sql.sqlite.transport", "SqliteBroker")
_SQLITE_BACKEND = Entry(f"{_HERE}.sql.sqlite.transport", "SqliteBackend")
_SQS_BROKER = Entry(f"{_HERE}.sqs.broker", "SqsBroker", "sqs")

BROKERS: "Registry[QueueBroker]" = Registry(
    "broker",
    {
        "embedded": _SQLITE_BROKER,
        "sqlite": _SQLITE_BROKER,
        "postgresql": _POSTGRESQL_BROKER,
        "postgresql+psycopg2": _POSTGRESQL_BROKER,
        "postgres": _POSTGRESQL_BROKER,
        "redis": _REDIS_BROKER,
        "rediss": _REDIS_BROKER,
        "unix": _REDIS_BROKER,
        "redis+sentinel": _REDIS_BROKER,
        "rediss+sentinel": _REDIS_BROKER,
        "amqp": _RABBIT_BROKER,
        "amqps": _RABBIT_BROKER,
        "pyamqp": _RABBIT_BROKER,
        "sqs": _SQS_BROKER,
        "memory": _MEMORY_BROKER,
    },
)

BACKENDS: "Registry[StateBackend]" = Registry(
    "backend",
    {
        "embedded": _SQLITE_BACKEND,
        "sqlite": _SQLITE_BACKEND,
        "postgresql": _POSTGRESQL_BACKEND,
        "postgresql+psycopg2": _POSTGRESQL_BACKEND,
        "postgres": _POSTGRESQL_BACKEND,
        "redis": _REDIS_BACKEND,
        "rediss": _REDIS_BACKEND,
        "unix": _REDIS_BACKEND,
        "redis+sentinel": _REDIS_BACKEND,
        "rediss+sentinel": _REDIS_BACKEND,
        "amqp": _RABBIT_BACKEND,
        "amqps": _RABBIT_BACKEND,
        "pyamqp": _RABBIT_BACKEND,
        # The broker's own server, by Celery's name: see Settings.backend_url.
        "rpc": _RABBIT_BACKEND,
        "memory": _MEMORY_BACKEND,
    },
)


def make_broker(settings: Settings) -> "QueueBroker":
    """Return the broker for ``settings.broker``; nothing is connected yet.

    Raises:
        ConfigError: nothing serves the URL; the text lists what is served.
        MissingExtraError: what serves it is not installed; the text has the pip line.
    """
    broker: QueueBroker = BROKERS.find(settings.broker)(settings)
    return broker


def make_backend(settings: Settings, shared_with: "QueueBroker | None" = None) -> "StateBackend":
    """Return the backend for ``settings``; nothing is connected yet.

    Args:
        settings: whose ``backend_url`` names its server.
        shared_with: a broker made from the same settings, whose connection is used if the backend
            is on the same server.

    Raises:
        ConfigError: nothing serves the URL; the text lists what is served.
        MissingExtraError: what serves it is not installed; the text has the pip line.
    """
    make_one = BACKENDS.find(settings.backend_url)
    same = settings.backend_url == settings.broker
    shares = same and settings.options_of_backend == settings.broker_options
    connection = shared_with.connection if shared_with and shares else None
    backend: StateBackend = make_one(settings, connection)
    return backend


def make(settings: Settings) -> "QueueBroker":
    """Return a new broker with its backend; nothing is connected.

    Raises:
        ConfigError: the settings name a broker or backend that nothing serves.
        MissingExtraError: as :func:`make_broker`.
    """
    settings = settings.resolved()
    broker = make_broker(settings)
    broker.result_backend = make_backend(settings, shared_with=broker)
    return broker
