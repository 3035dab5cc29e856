"""The schedules on Redis or Valkey: one hash for all of them, and one for each claimed firing.

taskiq-redis keeps schedules as well (``ListRedisScheduleSource``), but asks for all keys of the
server at each look, loses one-off schedules that are past if its prefix has a colon, and knows no
sentinels. It can be used beside this.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dagster_taskiq.transport.redis.connection import RedisConnection, Script
from dagster_taskiq.transport.redis.keys import Keys
from dagster_taskiq.transport.schedule_store import ScheduleStore
from dagster_taskiq.wire.firings import CLAIM_SECONDS, Claim, Firing

_LUA = Path(__file__).with_name("lua") / "schedules"
#: The file of each script.
SCRIPTS = {file.stem: Script(file) for file in sorted(_LUA.glob("*.lua"))}


class RedisScheduleStore(ScheduleStore):
    """Two hashes, and two scripts that decide who sends a firing."""

    def __init__(self, connection: RedisConnection, keys: Keys) -> None:
        self._connection = connection
        self._keys = keys

    async def put(self, schedule_id: str, body: str) -> None:
        """Set the field."""
        with self._connection.boundary:
            put: Any = self._connection.client.hset(self._keys.schedules, schedule_id, body)
            await put

    async def delete(self, schedule_id: str) -> None:
        """Delete the field."""
        with self._connection.boundary:
            delete: Any = self._connection.client.hdel(self._keys.schedules, schedule_id)
            await delete

    async def bodies(self) -> list[str]:
        """Get the fields."""
        with self._connection.boundary:
            values: Any = self._connection.client.hvals(self._keys.schedules)
            return [value.decode() for value in await values]

    async def claim(self, firing: Firing, claimant: str) -> Claim:
        """Run the script."""
        keep = int(max(1.0, firing.keep) * 1000) if firing.keep else 0
        args = [repr(firing.due), claimant, int(CLAIM_SECONDS * 1000), keep]
        answer = await self._script("claim", firing, args)
        return Claim(answer.decode())

    async def confirm(self, firing: Firing, claimant: str) -> None:
        """Run the script."""
        await self._script("confirm", firing, [repr(firing.due), claimant])

    async def _script(self, name: str, firing: Firing, args: Sequence[Any]) -> Any:
        keys = [self._keys.firing(firing.key)]
        return await self._connection.script(SCRIPTS[name], keys, list(args))
