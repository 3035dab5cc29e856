"""Answering run loops of dagster-celery that wait for steps, in Celery's result backend."""

import json
import uuid
from base64 import b64encode
from typing import Protocol

from anyio.from_thread import BlockingPortal

from dagster_celery._upgrade.amqp_queues import AmqpQueues
from dagster_celery._upgrade.messages import JSON_TYPE, CeleryMessage
from dagster_celery._upgrade.redis_queues import RedisQueues
from dagster_celery._upgrade.servers import CeleryServers, scheme_of_backend
from dagster_taskiq.errors import ConfigError
from dagster_taskiq.transport.rabbitmq.channel import Channel
from dagster_taskiq.transport.rabbitmq.errors import UnroutableError
from dagster_taskiq.transport.redis.connection import RedisConnection

#: How Celery names the key of a result, and the channel on which it is published.
RESULT_KEY = "celery-task-meta-"


class Replies(Protocol):
    """Where results go."""

    def answer(self, message: CeleryMessage, result: bytes) -> bool:
        """Send a result, again if need be; return ``False`` if it can be read by nobody now."""

    def close(self) -> None:
        """Disconnect."""


def open_replies(
    servers: CeleryServers, queues: AmqpQueues | RedisQueues, portal: BlockingPortal
) -> Replies:
    """Return the place for the results of these servers, connected.

    Args:
        servers: where results are expected.
        queues: the connection to the broker.
        portal: runs coroutines.

    Raises:
        ConfigError: results are kept where, or as, nothing here can write them.
        ServerUnavailableError: the backend does not answer.
    """
    if servers.result_serializer != "json":
        raise ConfigError(
            f'Run loops of dagster-celery expect results as "{servers.result_serializer}" '
            "(result_serializer), and only JSON is written here. Let Celery's own workers finish "
            "what waits, and see with `dagster-celery drain --wait` when they have."
        )
    scheme = scheme_of_backend(servers)
    if scheme in ("redis", "rediss", "sentinel"):
        return RedisReplies(servers, portal)
    if scheme != "rpc":
        raise ConfigError(
            f'The result backend "{scheme}://" cannot be answered from here: run loops of '
            "dagster-celery that wait for steps would never hear of them. Let Celery's own workers "
            "finish what waits, and see with `dagster-celery drain --wait` when they have."
        )
    if isinstance(queues, AmqpQueues):
        return AmqpReplies(queues)
    return ListReplies(queues)


class RedisReplies:
    """Results as keys of a Redis, published as well.

    A run loop subscribes to what it expects, and gets the key every second, so that it also finds
    the result if its subscription was lost.
    """

    def __init__(self, servers: CeleryServers, portal: BlockingPortal) -> None:
        """Connect.

        Args:
            servers: where results are kept, and for how long.
            portal: runs coroutines.
        """
        settings = servers.settings
        self._prefix = f"{servers.result_prefix}{RESULT_KEY}"
        self._seconds = servers.result_seconds
        self._portal = portal
        self._connection = RedisConnection(
            settings.backend_url, settings.options_of_backend, settings.connect_timeout
        )
        portal.call(self._connection.open)
        portal.call(self._connection.ping)

    def answer(self, message: CeleryMessage, result: bytes) -> bool:
        """See :meth:`Replies.answer`."""
        key = f"{self._prefix}{message.id}"

        async def write() -> None:
            async with self._connection.pipeline(transaction=True) as pipeline:
                pipeline.set(key, result, ex=int(self._seconds) if self._seconds else None)
                pipeline.publish(key, result)
                await pipeline.execute()

        self._portal.call(write)
        return True

    def close(self) -> None:
        """See :meth:`Replies.close`."""
        self._portal.call(self._connection.close)


class AmqpReplies:
    """Results as messages in the queue of the process that waits (``rpc://``), on a RabbitMQ.

    Such a queue stays for a day when its process has ended, and has no consumer while that process
    lives: a run loop declares it every second, and takes what is in it. So a queue that is not
    there may come again, as after a restart of the server.
    """

    def __init__(self, queues: AmqpQueues) -> None:
        """Use the connection of the broker."""
        self._connection = queues.connection
        self._portal = queues.portal

    def answer(self, message: CeleryMessage, result: bytes) -> bool:
        """See :meth:`Replies.answer`."""

        async def send() -> bool:
            async with self._connection.channel() as channel:
                try:
                    await _publish(channel, message, result)
                except UnroutableError:
                    return False
            return True

        return bool(message.reply_to) and self._portal.call(send)

    def close(self) -> None:
        """See :meth:`Replies.close`: the connection is that of the queues."""


class ListReplies:
    """Results as messages in the queue of the process that waits (``rpc://``), on a Redis."""

    def __init__(self, queues: RedisQueues) -> None:
        """Use the connection of the broker."""
        self._queues = queues

    def answer(self, message: CeleryMessage, result: bytes) -> bool:
        """See :meth:`Replies.answer`: a list takes anything, whether anybody reads it or not."""
        self._queues.command("LPUSH", self._key(message), _as_kombus(message, result))
        return True

    def close(self) -> None:
        """See :meth:`Replies.close`: the connection is that of the queues."""

    def _key(self, message: CeleryMessage) -> str:
        return f"{self._queues.keys.prefix}{message.reply_to}"


async def _publish(channel: Channel, message: CeleryMessage, result: bytes) -> None:
    await channel.publish(
        message.reply_to,
        result,
        durable=False,
        content_type=JSON_TYPE,
        content_encoding="utf-8",
        correlation_id=message.correlation_id or message.id,
        priority=0,
    )


def _as_kombus(message: CeleryMessage, result: bytes) -> str:
    return json.dumps(
        {
            "body": b64encode(result).decode(),
            "content-encoding": "utf-8",
            "content-type": JSON_TYPE,
            "headers": {},
            "properties": {
                "correlation_id": message.correlation_id or message.id,
                "delivery_mode": 1,
                "delivery_info": {"exchange": "", "routing_key": message.reply_to},
                "priority": 0,
                "body_encoding": "base64",
                "delivery_tag": str(uuid.uuid4()),
            },
        }
    )
