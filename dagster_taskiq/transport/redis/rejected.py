"""The messages that were set aside: a stream with the last thousand of them, and why."""

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from dagster_taskiq.transport.message_queues import Prepare
from dagster_taskiq.transport.redis.connection import RedisConnection
from dagster_taskiq.transport.redis.keys import Keys
from dagster_taskiq.wire.rejected_messages import (
    LISTED_BYTES,
    PREVIEW_BYTES,
    RejectedMessage,
    preview_of,
)

#: What an id looks like, which comes from a user: milliseconds since the epoch, and a number.
_ID = re.compile("([0-9]{1,15})-[0-9]{1,15}")


class Rejected:
    """Those of one prefix. The script ``delete`` adds them, as it deletes their messages."""

    def __init__(
        self,
        connection: RedisConnection,
        keys: Keys,
        run_script: Callable[[str, list[Any]], Awaitable[Any]],
    ) -> None:
        """Read nothing yet.

        Args:
            connection: the server.
            keys: the names of all keys.
            run_script: runs one of the broker's scripts, by its name, with arguments.
        """
        self._connection = connection
        self._key = keys.rejected
        self._run_script = run_script

    async def count(self) -> int:
        """Return the length of the stream."""
        return int(await self._connection.command("XLEN", self._key))

    async def first(self, limit: int) -> list[RejectedMessage]:
        """Return them, without their whole bodies."""
        found = await self._run_script("list_rejected", [limit, PREVIEW_BYTES, LISTED_BYTES])
        rows = []
        for *texts, size, body in found:
            message_id, task_id, queue, reason = (text.decode(errors="replace") for text in texts)
            at = int(message_id.partition("-")[0]) / 1000
            rows.append(
                RejectedMessage(
                    id=message_id,
                    task_id=task_id,
                    queue=queue,
                    reason=reason,
                    rejected_at=at,
                    size=size,
                    preview=preview_of(body),
                )
            )
        return rows

    async def requeue(self, ids: Sequence[str], prepare: Prepare) -> list[str]:
        """Move them into the streams of their queues, in one step."""
        known = await self._run_script("rejected_tasks", _valid(ids))
        if not known:
            return []
        await prepare([task_id.decode() for _, task_id in known])
        requeued = await self._run_script("requeue", [message_id for message_id, _ in known])
        return [each.decode() for each in requeued]

    async def delete(self, ids: Sequence[str]) -> list[str]:
        """Delete them from the stream."""
        valid = _valid(ids)
        async with self._connection.pipeline() as pipeline:
            for each in valid:
                pipeline.xdel(self._key, each)
            deleted = await pipeline.execute()
        return [each for each, count in zip(valid, deleted, strict=True) if count]


def _valid(ids: Sequence[str]) -> list[str]:
    return [each for each in ids if _ID.fullmatch(each)]
