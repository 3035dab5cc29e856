"""What is known of each task and worker. The registry below says which class serves which URL."""

from typing import TYPE_CHECKING

from dagster_taskiq.registry import Entry, Registry
from dagster_taskiq.settings import Settings

# Whoever only asks which schemes there are has no use for taskiq, which takes its time to import.
if TYPE_CHECKING:
    from dagster_taskiq.backends.base import StateBackend
    from dagster_taskiq.brokers.base import QueueBroker

_REDIS = Entry("dagster_taskiq.backends.redis", "RedisBackend")
_RABBIT = Entry("dagster_taskiq.backends.rabbitmq", "RabbitBackend")
_SQL = Entry("dagster_taskiq.backends.sql", "SqlBackend")

#: URL scheme of a backend, and what serves it. A new backend is one row here.
BACKENDS: "Registry[StateBackend]" = Registry(
    "backend",
    {
        "embedded": _SQL,
        "sqlite": _SQL,
        "redis": _REDIS,
        "rediss": _REDIS,
        "unix": _REDIS,
        "redis+sentinel": _REDIS,
        "rediss+sentinel": _REDIS,
        "amqp": _RABBIT,
        "amqps": _RABBIT,
        "pyamqp": _RABBIT,
        # The broker's own server, whatever it is: see Settings.backend_url.
        "rpc": _RABBIT,
        "memory": Entry("dagster_taskiq.backends.memory", "MemoryBackend"),
    },
)


def make_backend(settings: Settings, beside: "QueueBroker | None" = None) -> "StateBackend":
    """Return the backend for ``settings``; nothing is connected yet.

    Args:
        settings: whose ``backend_url`` says where it is.
        beside: a broker made from the same settings, whose connection is shared where the
            backend is on the same server.

    Raises:
        ConfigError: nothing serves the URL; the text lists what is served.
        MissingExtraError: what serves it is not installed; the text has the pip line.
    """
    make = BACKENDS.find(settings.backend_url)
    same = settings.backend_url == settings.broker
    shares = same and settings.options_of_backend == settings.broker_options
    backend: StateBackend = make(settings, beside.connection if beside and shares else None)
    return backend
