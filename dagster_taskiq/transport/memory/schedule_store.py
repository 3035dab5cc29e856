"""The schedules in this process's memory."""

import time
from dataclasses import dataclass

from dagster_taskiq.transport.schedule_store import ScheduleStore
from dagster_taskiq.wire.firings import CLAIM_SECONDS, Claim, Firing


@dataclass
class MemoryClaim:
    """The last firing of a schedule, and who has claimed it."""

    due: float
    claimant: str
    claimed_at: float
    #: When the claim is forgotten, in seconds since the epoch; 0 for never.
    forget_at: float
    is_sent: bool = False


@dataclass
class MemorySchedules:
    """The data of the schedulers of one memory server."""

    bodies: dict[str, str]
    claims: dict[str, MemoryClaim]


class MemoryScheduleStore(ScheduleStore):
    """Dictionaries; every call is atomic because nothing in it awaits."""

    def __init__(self, schedules: MemorySchedules) -> None:
        self._schedules = schedules

    async def put(self, schedule_id: str, body: str) -> None:
        """Set the item."""
        self._schedules.bodies[schedule_id] = body

    async def delete(self, schedule_id: str) -> None:
        """Delete the item."""
        self._schedules.bodies.pop(schedule_id, None)

    async def bodies(self) -> list[str]:
        """List the items."""
        return list(self._schedules.bodies.values())

    async def claim(self, firing: Firing, claimant: str) -> Claim:
        """Decide by the last claim."""
        now, claims = time.time(), self._schedules.claims
        for key in [key for key, each in claims.items() if 0 < each.forget_at < now]:
            del claims[key]
        last = claims.get(firing.key)
        if last is not None and last.due >= firing.due:
            if last.due > firing.due or last.is_sent:
                return Claim.SENT
            if last.claimant != claimant and now < last.claimed_at + CLAIM_SECONDS:
                return Claim.OTHERS
        forget_at = now + firing.keep if firing.keep else 0.0
        claims[firing.key] = MemoryClaim(firing.due, claimant, now, forget_at)
        return Claim.MINE

    async def confirm(self, firing: Firing, claimant: str) -> None:
        """Mark the claim."""
        last = self._schedules.claims.get(firing.key)
        if last is not None and (last.due, last.claimant) == (firing.due, claimant):
            last.is_sent = True
