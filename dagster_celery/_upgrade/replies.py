"""Answering run loops of dagster-celery that wait for steps, in Celery's result backend."""

import json
import time
import uuid
from base64 import b64decode, b64encode
from typing import Protocol

from anyio.from_thread import BlockingPortal

from dagster_celery._upgrade.amqp_queues import AmqpQueues
from dagster_celery._upgrade.messages import JSON_TYPE, CeleryMessage
from dagster_celery._upgrade.redis_queues import RedisQueues
from dagster_celery._upgrade.results import started
from dagster_celery._upgrade.servers import CeleryServers, scheme_of_backend
from dagster_taskiq.errors import ConfigError
from dagster_taskiq.transport.rabbitmq.channel import Channel
from dagster_taskiq.transport.rabbitmq.errors import UnroutableError
from dagster_taskiq.transport.rabbitmq.foreign_messages import ForeignMessage, read_foreign
from dagster_taskiq.transport.redis.connection import RedisConnection

#: How long a run loop may take to read its reply queue, in seconds. dagster-celery's reads it every
#: second, and may be held up by what it writes to a slow database.
LISTEN_SECONDS = 20.0
#: How long a run loop may take to subscribe again after its connection was lost, in seconds.
SUBSCRIBE_SECONDS = 5.0
#: How often that is looked at, in seconds.
LOOK_SECONDS = 0.3
#: How long what was found of a reply queue holds, in seconds.
KNOWN_SECONDS = 30.0

#: How Celery names the key of a result, and the channel on which it is published.
RESULT_KEY = "celery-task-meta-"


class Replies(Protocol):
    """Where results go."""

    def waits(self, message: CeleryMessage) -> bool:
        """Return whether a run loop waits for the result of a message's task."""

    def answer(self, message: CeleryMessage, result: bytes) -> bool:
        """Send a result; return ``False`` if it is certain that nobody waits for it."""

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
    """Results as keys of a Redis, published as well: a run loop subscribes to what it expects."""

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

    def waits(self, message: CeleryMessage) -> bool:
        """See :meth:`Replies.waits`."""

        async def subscribers() -> int:
            with self._connection.boundary:
                channel = f"{self._prefix}{message.id}"
                return int((await self._connection.client.pubsub_numsub(channel))[0][1])

        deadline = time.monotonic() + SUBSCRIBE_SECONDS
        while not (found := self._portal.call(subscribers)) and time.monotonic() < deadline:
            time.sleep(LOOK_SECONDS)
        return found > 0

    def answer(self, message: CeleryMessage, result: bytes) -> bool:
        """See :meth:`Replies.answer`."""
        key = f"{self._prefix}{message.id}"

        async def write() -> int:
            async with self._connection.pipeline(transaction=True) as pipeline:
                pipeline.set(key, result, ex=int(self._seconds) if self._seconds else None)
                pipeline.publish(key, result)
                return int((await pipeline.execute())[1])

        return self._portal.call(write) > 0

    def close(self) -> None:
        """See :meth:`Replies.close`."""
        self._portal.call(self._connection.close)


class AmqpReplies:
    """Results as messages in the queue of the process that waits (``rpc://``), on a RabbitMQ.

    Such a queue stays for a day when its process has ended, and has no consumer while that process
    lives: a run loop takes what is in it every second, and puts back what is not final. So a
    message that the task has started is sent there: each run loop takes it, or puts it back.
    """

    def __init__(self, queues: AmqpQueues) -> None:
        """Use the connection of the broker."""
        self._connection = queues.connection
        self._portal = queues.portal
        self._read = _Known()

    def waits(self, message: CeleryMessage) -> bool:
        """See :meth:`Replies.waits`."""
        queue = message.reply_to
        if not queue or self._portal.call(self._connection.count, queue) is None:
            return False
        known = self._read.get(queue)
        return self._read.set(queue, self._is_read(message)) if known is None else known

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

    def _is_read(self, message: CeleryMessage) -> bool:
        lent = self._connection.channel()
        with self._portal.wrap_async_context_manager(lent) as channel:
            self._portal.call(_publish, channel, message, started(message.id))
            deadline = time.monotonic() + LISTEN_SECONDS
            while True:
                time.sleep(LOOK_SECONDS)
                found = self._portal.call(_take, channel, message)
                if found is None or found.redelivered:
                    return True
                if time.monotonic() > deadline:
                    return False
                # Put back, it would count as delivered before.
                self._portal.call(_publish, channel, message, started(message.id))


class ListReplies:
    """Results as messages in the queue of the process that waits (``rpc://``), on a Redis.

    As with :class:`AmqpReplies`, a run loop takes what is in its list every second, and puts back,
    marked as delivered before, what is not final.
    """

    def __init__(self, queues: RedisQueues) -> None:
        """Use the connection of the broker."""
        self._queues = queues
        self._read = _Known()

    def waits(self, message: CeleryMessage) -> bool:
        """See :meth:`Replies.waits`."""
        if not message.reply_to:
            return False
        known = self._read.get(message.reply_to)
        return self._read.set(message.reply_to, self._is_read(message)) if known is None else known

    def answer(self, message: CeleryMessage, result: bytes) -> bool:
        """See :meth:`Replies.answer`: a list takes anything, whether anybody reads it or not."""
        self._queues.command("LPUSH", self._key(message), _as_kombus(message, result))
        return True

    def close(self) -> None:
        """See :meth:`Replies.close`: the connection is that of the queues."""

    def _is_read(self, message: CeleryMessage) -> bool:
        key, probe = self._key(message), _as_kombus(message, started(message.id))
        self._queues.command("LPUSH", key, probe)
        deadline = time.monotonic() + LISTEN_SECONDS
        while time.monotonic() < deadline:
            time.sleep(LOOK_SECONDS)
            found = self._queues.command("LRANGE", key, 0, -1)
            entries = found if isinstance(found, list) else []
            if probe.encode() not in entries:
                for each in entries:
                    if _is_start_of(message, each):
                        self._queues.command("LREM", key, 0, each)
                return True
        return not self._queues.command("LREM", key, 0, probe)

    def _key(self, message: CeleryMessage) -> str:
        return f"{self._queues.keys.prefix}{message.reply_to}"


class _Known:
    """What was found lately of each reply queue."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[bool, float]] = {}

    def get(self, queue: str) -> bool | None:
        is_read, at = self._found.get(queue, (False, 0.0))
        return is_read if at and time.monotonic() - at < KNOWN_SECONDS else None

    def set(self, queue: str, is_read: bool) -> bool:
        self._found[queue] = (is_read, time.monotonic())
        return is_read


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


async def _take(channel: Channel, message: CeleryMessage) -> ForeignMessage | None:
    """Delete what was sent to see whether a reply queue is read, and return it if it was there."""
    ours, others = None, []
    while (found := await channel.get(message.reply_to)) is not None:
        taken = read_foreign(found)
        if ours is None and _is_start(message, taken.body):
            ours = taken
        else:
            others.append(taken)
    for each in others:
        await channel.requeue(each.delivered)
    if ours is not None:
        await channel.ack(ours.delivered)
    return ours


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


def _is_start_of(message: CeleryMessage, entry: bytes) -> bool:
    try:
        return _is_start(message, b64decode(json.loads(entry)["body"]))
    except (ValueError, KeyError, TypeError):
        return False


def _is_start(message: CeleryMessage, body: bytes) -> bool:
    try:
        document = json.loads(body)
        return bool(document["status"] == "STARTED" and document["task_id"] == message.id)
    except (ValueError, KeyError, TypeError):
        return False
