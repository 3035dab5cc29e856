"""Celery's queues on a Redis: lists, one for each priority, and a hash of what was taken."""

import json
import re
import uuid
from base64 import b64encode
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from anyio.from_thread import BlockingPortal

from dagster_celery._upgrade.left_queues import KEPT, LeftMessage, QueueCount
from dagster_celery._upgrade.messages import JSON_TYPE, CeleryMessage, from_mapping, read_redis
from dagster_celery._upgrade.servers import CeleryServers
from dagster_taskiq.errors import ConfigError
from dagster_taskiq.transport.redis.connection import RedisConnection, Script

T = TypeVar("T")

_KEEP = Script(Path(__file__).with_name("lua") / "keep.lua")

#: The channel, behind the number of the database, to which Celery's remote control is published.
_PIDBOX = "celery.pidbox"
#: The state of a client that waits in BRPOP, as kombu's consumers do; the engine uses BLPOP.
_CONSUMING = "brpop"


class RedisQueues:
    """Celery's queues on one Redis; see :class:`LeftQueues`."""

    def __init__(self, servers: CeleryServers, portal: BlockingPortal) -> None:
        """Connect to nothing yet.

        Args:
            servers: where the queues are, and how their keys are named.
            portal: runs coroutines.
        """
        settings = servers.settings
        self.keys = servers.keys
        self.kept_key = f"{settings.prefix}:{KEPT}"
        self.connection = RedisConnection(
            settings.broker, settings.broker_options, settings.connect_timeout
        )
        self._portal = portal

    def open(self) -> None:
        """Connect.

        Raises:
            ServerUnavailableError: it does not answer.
            ConfigError: it does not let us in, or an option is wrong.
        """
        self._portal.call(self.connection.open)
        self._portal.call(self.connection.ping)

    def close(self) -> None:
        """Disconnect."""
        self._portal.call(self.connection.close)

    def call(self, work: Callable[[], Awaitable[T]]) -> T:
        """Return what a coroutine of the connection returns, with the engine's errors."""

        async def within() -> T:
            with self.connection.boundary:
                return await work()

        return self._portal.call(within)

    def command(self, *words: str | bytes | int) -> object:
        """Send one command, and return the answer as redis-py has it."""
        return self.call(lambda: self.connection.client.execute_command(*words))

    def count(self, queues: Sequence[str]) -> list[QueueCount]:
        """See :meth:`LeftQueues.count`."""
        taken = [entry.message.queue for entry in self._taken()]
        return [
            QueueCount(
                queue,
                sum(_number(self.command("LLEN", key)) for key in self.keys.lists(queue)),
                taken.count(queue),
                None,
            )
            for queue in queues
        ]

    def consumers(self, queues: Sequence[str]) -> str:
        """See :meth:`LeftQueues.consumers`.

        A Redis does not show which list a client waits for: every worker of Celery's in this
        database counts. Celery's workers listen for remote control, and a message for a worker of
        another name reaches all of them, and is ignored. One without remote control shows by its
        ``BRPOP``.
        """
        del queues
        listening = self._count_listening()
        blocked = self._count_blocked()
        workers = max(listening, blocked)
        return f"{workers} of Celery's workers" if workers else ""

    def traces(self, queues: Sequence[str]) -> bool:
        """See :meth:`LeftQueues.traces`: kombu's table of bindings stays for ever."""
        keys = [f"{self.keys.prefix}_kombu.binding.{queue}" for queue in queues]
        return bool(keys) and _number(self.command("EXISTS", *keys)) > 0

    @contextmanager
    def scan(self, queue: str) -> Iterator[Iterator[LeftMessage]]:
        """See :meth:`LeftQueues.scan`."""
        yield self._scan(queue)

    def kept(self) -> list[CeleryMessage]:
        """See :meth:`LeftQueues.kept`."""
        found = self.command("HGETALL", self.kept_key)
        records = found.values() if isinstance(found, dict) else ()
        messages = []
        for record in records:
            queue, payload = json.loads(record)
            messages.append(read_redis(payload.encode(), queue))
        return messages

    def forget(self, messages: Collection[CeleryMessage]) -> None:
        """See :meth:`LeftQueues.forget`."""
        if messages:
            self.command("HDEL", self.kept_key, *(each.id for each in messages))

    def keep(self, entry: "_Entry") -> bool:
        """Move a message to our hash; see :meth:`LeftMessage.keep`."""
        record = json.dumps([entry.message.queue, entry.payload.decode()])
        keys = [entry.key, self.kept_key, self.keys.unacked_index]
        arguments = ["taken" if entry.tag else "list", entry.tag or entry.payload]
        arguments += [entry.message.id, record]
        return bool(self._portal.call(self.connection.script, _KEEP, keys, arguments))

    def drop(self, entry: "_Entry") -> None:
        """Delete a message; see :meth:`LeftMessage.drop`."""
        if entry.tag:
            self.command("HDEL", entry.key, entry.tag)
            self.command("ZREM", self.keys.unacked_index, entry.tag)
        else:
            self.command("LREM", entry.key, -1, entry.payload)

    def _scan(self, queue: str) -> Iterator[LeftMessage]:
        for key in self.keys.lists(queue):
            # The oldest is at the end; what is sent meanwhile comes to the other one.
            left = 0
            while isinstance(payload := self.command("LINDEX", key, -1 - left), bytes):
                entry = _Entry(self, read_redis(payload, queue), key, payload)
                yield entry
                left += not entry.is_gone
        yield from (entry for entry in self._taken() if entry.message.queue == queue)

    def _taken(self) -> list["_Entry"]:
        """Return what workers have taken and not acknowledged, of all queues."""
        found = self.command("HGETALL", self.keys.unacked)
        entries = []
        for tag, value in (found if isinstance(found, dict) else {}).items():
            try:
                document, exchange, routing_key = json.loads(value)
            except (ValueError, TypeError):
                continue  # not kombu's
            queue = self._queue_of(str(exchange), str(routing_key))
            payload = json.dumps(document).encode()
            message = from_mapping(document, queue)
            entries.append(_Entry(self, message, self.keys.unacked, payload, tag))
        return entries

    def _queue_of(self, exchange: str, routing_key: str) -> str:
        """Return the queue that a message was taken from: dagster-celery names it as the key."""
        if not exchange:
            return routing_key
        members = self.command("SMEMBERS", f"{self.keys.prefix}_kombu.binding.{exchange}")
        for member in members if isinstance(members, set | list) else ():
            pattern, *_, queue = member.decode().split(self.keys.separator)
            words = re.escape(pattern).replace(r"\#", ".*").replace(r"\*", "[^.]*")
            if re.fullmatch(words, routing_key):
                return str(queue)
        return routing_key

    def _count_listening(self) -> int:
        number = self.connection.client.connection_pool.connection_kwargs.get("db", 0)
        channel = f"{self.keys.prefix}/{number}.{_PIDBOX}"
        return _number(self.command("PUBLISH", channel, _for_nobody()))

    def _count_blocked(self) -> int:
        """Return how many clients wait in BRPOP in this database; 0 if the server does not say."""
        try:
            text = self.call(self.connection.client.client_list)
        except ConfigError:
            return 0
        number = str(self.connection.client.connection_pool.connection_kwargs.get("db", 0))
        return sum(each.get("cmd") == _CONSUMING and each.get("db") == number for each in text)


@dataclass
class _Entry:
    """A message in a list, or in the hash of taken ones; see :class:`LeftMessage`."""

    queues: RedisQueues
    message: CeleryMessage
    key: str
    payload: bytes
    #: Its field in the hash of taken messages; empty for one in a list.
    tag: bytes = b""
    is_gone: bool = field(default=False, init=False)

    def drop(self) -> None:
        """See the protocol."""
        self.queues.drop(self)
        self.is_gone = True

    def keep(self) -> bool:
        """See the protocol."""
        self.is_gone = True
        return self.queues.keep(self)


def _number(answer: object) -> int:
    return answer if isinstance(answer, int) else 0


def _for_nobody() -> str:
    """Return a message of Celery's remote control for a worker that does not exist."""
    body = {"method": "ping", "arguments": {}, "destination": ["nobody@dagster-taskiq"]}
    return json.dumps(
        {
            "body": b64encode(json.dumps(body).encode()).decode(),
            "content-type": JSON_TYPE,
            "content-encoding": "utf-8",
            "headers": {},
            "properties": {
                "body_encoding": "base64",
                "delivery_info": {"exchange": _PIDBOX, "routing_key": ""},
                "delivery_mode": 2,
                "priority": 0,
                "delivery_tag": str(uuid.uuid4()),
            },
        }
    )
