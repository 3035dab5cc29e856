"""The kinds of server that take different options."""

from enum import Enum

from dagster_taskiq.settings.urls import scheme_of


class Server(Enum):
    """A kind of server; its value is its name in sentences."""

    RABBITMQ = "RabbitMQ"
    REDIS = "Redis"
    SENTINEL = "Redis with sentinels"
    #: A Redis behind a socket takes no options of TCP.
    SOCKET = "Redis behind a unix socket"
    SQS = "SQS"
    #: No server, or one that takes no options.
    NONE = "no server"


_SERVERS = {
    "amqp": Server.RABBITMQ,
    "amqps": Server.RABBITMQ,
    "pyamqp": Server.RABBITMQ,
    "redis": Server.REDIS,
    "rediss": Server.REDIS,
    "redis+sentinel": Server.SENTINEL,
    "rediss+sentinel": Server.SENTINEL,
    "unix": Server.SOCKET,
    "sqs": Server.SQS,
}


def server_of(engine_url: str) -> Server:
    """Return the kind of server of an engine's URL."""
    return _SERVERS.get(scheme_of(engine_url), Server.NONE)
