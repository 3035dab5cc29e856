"""The broker on Redis or Valkey: a stream for each queue and priority level.

taskiq-redis's own stream broker reads one queue without priorities, claims a hundred messages at a
time, and delivers again what is not acknowledged within ten minutes, running or not. Here a script
claims exactly one message: of the highest priority level that has any, the oldest. A message is
deleted when its task has started, so memory does not grow with the number of tasks. Delayed
messages wait in a sorted set of their queue; each claim first moves those that are due to their
streams.
"""

import asyncio
import json
import math
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from dagster_taskiq.errors import ServerUnavailableError
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.transport.backend import UNFINISHED_SECONDS
from dagster_taskiq.transport.background import look_at
from dagster_taskiq.transport.broker import QueueBroker
from dagster_taskiq.transport.connection import Connection
from dagster_taskiq.transport.eviction import Eviction
from dagster_taskiq.transport.late_deletions import LateDeletions
from dagster_taskiq.transport.message_queues import Prepare
from dagster_taskiq.transport.messages import NO_MESSAGE, Delivery, Outgoing
from dagster_taskiq.transport.redis.connection import RedisConnection, Script
from dagster_taskiq.transport.redis.keys import Keys
from dagster_taskiq.transport.redis.rejected import Rejected
from dagster_taskiq.transport.redis.replies import Packed
from dagster_taskiq.wire.queues import QueueDepth
from dagster_taskiq.wire.records import TaskState
from dagster_taskiq.wire.rejected_messages import RejectedMessage

_LUA = Path(__file__).with_name("lua") / "broker"
_KEYS, _ARRIVE, _CLAIMS = _LUA / "keys.lua", _LUA / "arrive.lua", _LUA / "claims.lua"
_REMOVE, _REJECTED = _LUA / "remove.lua", _LUA / "rejected.lua"
#: What a script begins with that adds messages.
SENDING = (_KEYS, _ARRIVE)
#: What a script begins with that starts tasks.
START_TASK = _LUA.with_name("start_task.lua")
#: The files of each script: all name their keys alike; some add or delete messages, wake listeners,
#: look at claims or rejected messages, or start tasks.
SCRIPTS = {
    "put": Script(*SENDING, _LUA / "put.lua"),
    "claim": Script(*SENDING, _CLAIMS, _REMOVE, START_TASK, _LUA / "claim.lua"),
    "release": Script(*SENDING, _REMOVE, _LUA / "release.lua"),
    "delete": Script(_KEYS, _REMOVE, _LUA / "delete.lua"),
    "depths": Script(_KEYS, _CLAIMS, _LUA / "depths.lua"),
    "list_rejected": Script(_KEYS, _CLAIMS, _REJECTED, _LUA / "list_rejected.lua"),
    "rejected_tasks": Script(_KEYS, _REJECTED, _LUA / "rejected_tasks.lua"),
    "requeue": Script(*SENDING, _REJECTED, _LUA / "requeue.lua"),
}

#: How the answer of a claim names the state that forbids a start.
_REFUSED = "REFUSED "


def own_fields(message: Outgoing) -> tuple[str, str]:
    """Return attempt and name of a user's own task as the scripts take them."""
    return (str(message.attempt), message.own_task) if message.own_task else ("", "")


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
        self._rejected = Rejected(self.connection, self._keys, self._script)
        # The number of the claim that is not answered yet. If its answer is lost, the next call has
        # the same number, and gets the same message.
        self._claims = 1
        claim_key = self._keys.claim(uuid.uuid4().hex)
        more_keys = (claim_key, self._keys.forget_times, self._keys.task(""))
        self._claim_keys = Packed([*self._keys.of_broker, *more_keys])
        # The messages of tasks that were started with their claims.
        self._deletions = LateDeletions(self._delete)
        # Whether the queues had messages that no wake-up has announced, when it was last asked.
        self._has_others = False

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
            args += [each.queue, each.priority, each.task_id, each.body, *own_fields(each), delay]
        await self._script("put", args)

    async def claim(self) -> Delivery | None:
        """Run the claim script; after a lost answer, once more for the same message."""
        return await self._claim("")

    async def claim_next(self) -> Delivery | None:
        """Claim, and start a user's own task in the same step where the records are here too."""
        keep_seconds = str(UNFINISHED_SECONDS) if self.starts_with_claim else ""
        return await self._claim(keep_seconds)

    async def claim_or_release(self) -> Delivery | None:
        """See the base class; this needs no task of asyncio for each claim."""
        try:
            return await self.claim_next()
        except asyncio.CancelledError:
            with suppress(ServerUnavailableError):
                # As after a lost answer: the next claim gets the same message.
                late = await self.claim_next()
                if late is not None and late.refused is None:
                    await self.release(late)
            raise

    def may_start_with_claim(self, backend_connection: Connection) -> bool:
        """Whether the records of the tasks are on this server."""
        return backend_connection is self.connection

    async def _claim(self, keep_seconds: str) -> Delivery | None:
        """Run the claim script.

        Args:
            keep_seconds: how long to keep the record of a task that is started; '' to start none.
        """
        deleted = self._deletions.next
        args = [self.consumer, self._stale, str(self._claims), keep_seconds, len(deleted)]
        args += [each for delivery in deleted for each in _address(delivery)]
        args += self.open_queues
        found = await self.connection.script(SCRIPTS["claim"], self._claim_keys, args)
        self._claims += 1
        self._deletions.note_deleted(deleted)
        if not found:
            return None
        about, body = found
        queue, level, message_id, task_id, attempt, start = json.loads(about)
        forbidden = start.removeprefix(_REFUSED) if start.startswith(_REFUSED) else ""
        return Delivery(
            json.dumps([queue, level, message_id]),
            task_id,
            queue,
            bytes(body),
            attempt,
            is_started=start == TaskState.STARTED.value,
            refused=TaskState(forbidden) if forbidden else None,
        )

    async def wait_for_work(self, timeout: float) -> None:
        """Block until a wake-up comes; returns at once if one has come since the last claim.

        Each wake-up is for one listener: otherwise every listener would try to claim each message.
        Meanwhile one command asks every ``timeout`` seconds whether there are messages at all: a
        claim asks a dozen things.
        """
        queues = self.open_queues
        if self._has_others:
            # A claim is the only way to learn which of them may be claimed by now.
            await self.connection.pop([*map(self._keys.wakeups, queues)], timeout)
            self._has_others = await self._has_messages(queues)
            return
        woken = asyncio.ensure_future(self._until_woken(queues))
        try:
            while not (await asyncio.wait([woken], timeout=timeout))[0]:
                if await self._has_messages(queues):
                    # A wake-up was lost, or they are delayed or claimed.
                    self._has_others = True
                    return
                if queues != self.open_queues:
                    return
            woken.result()
        finally:
            woken.cancel()
            woken.add_done_callback(look_at)

    async def _until_woken(self, queues: Sequence[str]) -> None:
        wakeups = [*map(self._keys.wakeups, queues)]
        while not await self.connection.pop(wakeups, math.inf):
            pass

    async def _has_messages(self, queues: Sequence[str]) -> bool:
        """Return whether these queues have any messages, delayed and claimed ones too."""
        of_queues = (self._keys.levels, self._keys.delayed)
        return await self.connection.any_exists([of(each) for of in of_queues for each in queues])

    async def acknowledge(self, delivery: Delivery) -> None:
        """Delete the message; that of a task that was started with its claim, in a moment.

        It is deleted with the next claim, unless that comes late. Should it come back, its task is
        not started again.
        """
        if delivery.is_started:
            self._deletions.add(delivery)
        else:
            await self._delete([delivery])

    async def release(self, delivery: Delivery) -> None:
        """Make the claim look older than the lease, so that the next claim takes the message."""
        keep = max(1, int(self.settings.result_ttl))
        started = "1" if delivery.is_started else ""
        args = [self.consumer, *_address(delivery), keep, NO_MESSAGE, started]
        record = self._keys.task(delivery.task_id)
        await self._script("release", args, record, self._keys.forget_times)

    async def stop_claiming(self) -> None:
        """Delete the messages that would have been deleted with the next claim."""
        await self._deletions.finish()

    async def reject(self, delivery: Delivery, reason: str) -> None:
        """Move the message to the stream of rejected ones, which keeps the last thousand."""
        await self._delete([delivery], reason=reason)

    async def discard(self, task_ids: Sequence[str]) -> int:
        """Look up where the messages are, and delete those that are not claimed."""
        if not task_ids:
            return 0
        places = await self.connection.command("HMGET", self._keys.places, *task_ids)
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
        for queue, messages, claimed, oldest, levels in found:
            age = max(0.0, now - int(oldest) / 1000) if oldest else 0.0
            priorities = dict(zip(map(int, levels[::2]), levels[1::2], strict=True))
            rows.append(QueueDepth(queue.decode(), messages - claimed, claimed, age, priorities))
        return sorted(rows, key=lambda row: row.queue)

    async def rejected(self) -> int:
        """Return the length of their stream."""
        return await self._rejected.count()

    async def list_rejected(self, limit: int) -> list[RejectedMessage]:
        """Read their stream, from its start."""
        return await self._rejected.first(limit)

    async def requeue_rejected(self, ids: Sequence[str], prepare: Prepare) -> list[str]:
        """Move them into the streams of their queues, in one step."""
        return await self._rejected.requeue(ids, prepare)

    async def delete_rejected(self, ids: Sequence[str]) -> list[str]:
        """Delete them from their stream."""
        return await self._rejected.delete(ids)

    @property
    def _stale(self) -> int:
        """Milliseconds after which a claim does not count any more."""
        return int(self.settings.lease * 1000)

    async def _delete(
        self, deliveries: Sequence[Delivery], reason: str = "", spare: str = ""
    ) -> int:
        args: list[Any] = [reason, spare]
        for each in deliveries:
            args += _address(each)
        return int(await self._script("delete", args))

    async def _script(self, name: str, args: list[Any], *more_keys: str) -> Any:
        keys = [*self._keys.of_broker, *more_keys]
        return await self.connection.script(SCRIPTS[name], keys, args)


def _address(delivery: Delivery) -> list[str]:
    """Return where a message is, and the id of its task."""
    return [*json.loads(delivery.handle), delivery.task_id]
