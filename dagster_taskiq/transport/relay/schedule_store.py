"""The schedules, for a worker's child."""

from typing import NoReturn

from dagster_taskiq.transport.relay.connection import RelayConnection
from dagster_taskiq.transport.schedule_store import ScheduleStore
from dagster_taskiq.wire.firings import Claim, Firing


class RelayedScheduleStore(ScheduleStore):
    """Has the worker call its own store. A scheduler runs in no child."""

    def __init__(self, connection: RelayConnection) -> None:
        self._connection = connection

    async def put(self, schedule_id: str, body: str) -> None:
        """See the base class."""
        await self._connection.call("schedules", "put", (schedule_id, body), {})

    async def delete(self, schedule_id: str) -> None:
        """See the base class."""
        await self._connection.call("schedules", "delete", (schedule_id,), {})

    async def bodies(self) -> list[str]:
        """See the base class."""
        return list(await self._connection.call("schedules", "bodies", (), {}))

    async def claim(self, firing: Firing, claimant: str) -> Claim:
        """Raise ``RuntimeError``: a scheduler is a process of its own."""
        self._runs_no_scheduler()

    async def confirm(self, firing: Firing, claimant: str) -> None:
        """Raise ``RuntimeError``: a scheduler is a process of its own."""
        self._runs_no_scheduler()

    def _runs_no_scheduler(self) -> NoReturn:
        raise RuntimeError("A child of a worker runs no scheduler: that is a process of its own.")
