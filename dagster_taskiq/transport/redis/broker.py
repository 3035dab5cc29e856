"""The broker on Redis or Valkey: a stream for each queue and priority level.

taskiq-redis's own stream broker reads one queue without priorities, claims a hundred messages at a
time, and delivers again what is not acknowledged within ten minutes, running or not. Here a script
claims exactly one message: of the highest priority level that has any, the oldest. A message is
deleted when its task has started, so memory does not grow with the number of tasks. Delayed
messages wait in a sorted set of their queue; each claim first moves those that are due to their
streams.
"""

import json
import math
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.transport.broker import Delivery, Outgoing, QueueBroker
from dagster_taskiq.transport.eviction import Eviction
from dagster_taskiq.transport.redis.connection import RedisConnection
from dagster_taskiq.transport.redis.keys import Keys
from dagster_taskiq.wire.queues import QueueDepth

_LUA = Path(__file__).with_name("lua") / "broker"
_KEYS, _ARRIVE, _CLAIMS = _LUA / "keys.lua", _LUA / "arrive.lua", _LUA / "claims.lua"
#: What a script begins with that adds messages.
SENDING = (_KEYS, _ARRIVE)
#: The files of each script: all name their keys alike; some add messages, wake listeners, or look
#: at claims.
SCRIPTS = {
    "put": (*SENDING, _LUA / "put.lua"),
    "claim": (*SENDING, _CLAIMS, _LUA / "claim.lua"),
    "release": (*SENDING, _LUA / "release.lua"),
    "delete": (_KEYS, _LUA / "delete.lua"),
    "depths": (_KEYS, _CLAIMS, _LUA / "depths.lua"),
}


def milliseconds(seconds: float) -> int:
    """Return a delay as the scripts take it, rounded up."""
    return math.ceil(seconds * 1000)


class RedisBroker(QueueBroker):
    """Streams, claimed one message at a time; a listener blocks on the wake-ups of its queues."""

    def __init__(self, settings: Settings, connection: RedisConnection | None = None) -> None:
        super().__init__(settings)
        self.connection: RedisConnection = connection or RedisConnection(
            settings.broker, settings.broker_options, settings.connect_timeout
        )
        self._keys = Keys(settings.prefix)
        # The number of the claim that is not answered yet. If its answer is lost, the next call has
        # the same number, and gets the same message.
        self._claims = 1
        self._claim_key = self._keys.claim(uuid.uuid4().hex)

    async def ping(self) -> None:
        """Ask the server."""
        await self.connection.ping()

    async def eviction(self) -> Eviction | None:
        """Ask the server."""
        return await self.connection.eviction()

    async def put_all(self, messages: Sequence[Outgoing]) -> None:
        """Add to the streams in one step; as durable as the server's own settings make it."""
        args: list[Any] = []
        for each in messages:
            delay = milliseconds(each.delay)
            args += [each.queue, each.priority, each.task_id, each.body, delay]
        await self._script("put", args)

    async def claim(self) -> Delivery | None:
        """Run the claim script; after a lost answer, once more for the same message."""
        args = [self.consumer, self._stale, str(self._claims), *self.open_queues]
        found = await self._script("claim", args, self._claim_key)
        self._claims += 1
        if not found:
            return None
        queue, level, message_id, task_id, body, attempt = found
        handle = json.dumps([queue.decode(), level.decode(), message_id.decode()])
        return Delivery(handle, task_id.decode(), queue.decode(), bytes(body), int(attempt))

    async def wait_for_work(self, timeout: float) -> None:
        """Block until a wake-up comes; returns at once if one has come since the last claim.

        Each wake-up is for one listener: otherwise every listener would try to claim each message.
        """
        await self.connection.pop(
            [self._keys.wakeups(queue) for queue in self.open_queues], timeout
        )

    async def acknowledge(self, delivery: Delivery) -> None:
        """Delete the message."""
        await self._delete([delivery])

    async def release(self, delivery: Delivery) -> None:
        """Make the claim look older than the lease, so that the next claim takes the message."""
        args = [self.consumer, *json.loads(delivery.handle)]
        await self._script("release", args)

    async def reject(self, delivery: Delivery, reason: str) -> None:
        """Move the message to the stream of rejected ones, which keeps the last thousand."""
        await self._delete([delivery], reason=reason)

    async def discard(self, task_ids: Sequence[str]) -> int:
        """Look up where the messages are, and delete those that are not claimed."""
        if not task_ids:
            return 0
        with self.connection.boundary:
            read: Any = self.connection.client.hmget(self._keys.places, list(task_ids))
            places = await read
        found = []
        for task_id, place in zip(task_ids, places, strict=True):
            if place is not None:
                queue, level, message_id = json.loads(place)
                handle = json.dumps([queue, level, message_id])
                found.append(Delivery(handle, task_id, queue, b"", 0))
        return await self._delete(found, spare=str(self._stale)) if found else 0

    async def depths(self) -> list[QueueDepth]:
        """Count in a script."""
        found = await self._script("depths", [self._stale])
        now = time.time()
        rows = []
        for queue, messages, claimed, oldest in found:
            age = max(0.0, now - int(oldest) / 1000) if oldest else 0.0
            rows.append(QueueDepth(queue.decode(), messages - claimed, claimed, age))
        return sorted(rows, key=lambda row: row.queue)

    async def rejected(self) -> int:
        """Return the length of their stream."""
        with self.connection.boundary:
            return int(await self.connection.client.xlen(self._keys.rejected))

    @property
    def _stale(self) -> int:
        """Milliseconds after which a claim does not count any more."""
        return int(self.settings.lease * 1000)

    async def _delete(
        self, deliveries: Sequence[Delivery], reason: str = "", spare: str = ""
    ) -> int:
        args: list[Any] = [reason, spare]
        for each in deliveries:
            args += [*json.loads(each.handle), each.task_id]
        return int(await self._script("delete", args))

    async def _script(self, name: str, args: list[Any], *more_keys: str) -> Any:
        keys = [*self._keys.of_broker, *more_keys]
        return await self.connection.script(SCRIPTS[name], keys, args)
