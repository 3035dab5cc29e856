"""The schedules in SQL tables."""

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dagster_taskiq.transport.schedule_store import ScheduleStore
from dagster_taskiq.transport.sql.database import SqlDatabase
from dagster_taskiq.transport.sql.tables import firings, schedules
from dagster_taskiq.wire.firings import CLAIM_SECONDS, Claim, Firing


class SqlScheduleStore(ScheduleStore):
    """A row for each schedule, and one for the last firing of each that was claimed."""

    def __init__(self, connection: SqlDatabase, prefix: str) -> None:
        self._connection = connection
        self._dialect = connection.dialect
        self._prefix = prefix

    async def put(self, schedule_id: str, body: str) -> None:
        """Insert the row, or update it."""
        row = {"prefix": self._prefix, "id": schedule_id, "body": body}
        insert = self._dialect.insert_missing(schedules).values(row)
        update = schedules.update().where(self._is(schedule_id)).values(body=body)

        def work(connection: Connection) -> None:
            if not connection.execute(update).rowcount:
                connection.execute(insert)

        await self._connection.write(work)

    async def delete(self, schedule_id: str) -> None:
        """Delete the row."""
        delete = schedules.delete().where(self._is(schedule_id))
        await self._connection.run(lambda connection: connection.execute(delete))

    async def bodies(self) -> list[str]:
        """Select the rows."""
        query = sa.select(schedules.c.body).where(schedules.c.prefix == self._prefix)
        ordered = query.order_by(schedules.c.id)
        found = await self._connection.read(lambda each: each.execute(ordered).scalars().all())
        return list(found)

    async def claim(self, firing: Firing, claimant: str) -> Claim:
        """Insert the row of the schedule, or lock and update it; delete rows that have expired."""
        clock, values = self._dialect.clock, self._dialect.clock_values()
        columns = {
            "due": firing.due,
            "claimant": claimant,
            "claimed_at": clock,
            "is_sent": False,
            "forget_at": clock + firing.keep if firing.keep else 0.0,
        }
        insert = self._dialect.insert_missing(firings)
        insert = insert.values(prefix=self._prefix, schedule=firing.key, **columns)
        its = self._of(firing)
        is_old = (clock - firings.c.claimed_at > CLAIM_SECONDS).label("is_old")
        lock = sa.select(firings, is_old).where(its).with_for_update()
        expired = firings.delete().where(firings.c.forget_at > 0, firings.c.forget_at < clock)

        def work(connection: Connection) -> Claim:
            connection.execute(expired, values)
            if connection.execute(insert, values).rowcount:
                return Claim.MINE
            last = connection.execute(lock, values).one()
            if last.due > firing.due or (last.due == firing.due and last.is_sent):
                return Claim.SENT
            if last.due == firing.due and last.claimant != claimant and not last.is_old:
                return Claim.OTHERS
            connection.execute(firings.update().where(its).values(columns), values)
            return Claim.MINE

        return await self._connection.write(work)

    async def confirm(self, firing: Firing, claimant: str) -> None:
        """Update the row."""
        mine = (firings.c.due == firing.due) & (firings.c.claimant == claimant)
        update = firings.update().where(self._of(firing), mine).values(is_sent=True)
        await self._connection.run(lambda connection: connection.execute(update))

    def _is(self, schedule_id: str) -> "sa.ColumnElement[bool]":
        return sa.and_(schedules.c.prefix == self._prefix, schedules.c.id == schedule_id)

    def _of(self, firing: Firing) -> "sa.ColumnElement[bool]":
        return sa.and_(firings.c.prefix == self._prefix, firings.c.schedule == firing.key)
