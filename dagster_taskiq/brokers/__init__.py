"""Where work waits. The registry below says which class serves which URL."""

from typing import TYPE_CHECKING

from dagster_taskiq.registry import Entry, Registry
from dagster_taskiq.settings import Settings

# Whoever only asks which schemes there are has no use for taskiq, which takes its time to import.
if TYPE_CHECKING:
    from dagster_taskiq.brokers.base import QueueBroker

_REDIS = Entry("dagster_taskiq.brokers.redis", "RedisBroker")
_RABBIT = Entry("dagster_taskiq.brokers.rabbitmq", "RabbitBroker")
_SQL = Entry("dagster_taskiq.brokers.sql", "SqlBroker")

#: URL scheme of a broker, and what serves it. A new broker is one row here.
BROKERS: "Registry[QueueBroker]" = Registry(
    "broker",
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
        "memory": Entry("dagster_taskiq.brokers.memory", "MemoryBroker"),
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
