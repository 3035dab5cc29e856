"""The messages that were set aside: rows of the table of messages that carry a reason."""

import re
from collections.abc import Iterable, Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dagster_taskiq.transport.message_queues import Prepare
from dagster_taskiq.transport.messages import Delivery
from dagster_taskiq.transport.sql.database import SqlDatabase
from dagster_taskiq.transport.sql.sending import SqlSender
from dagster_taskiq.transport.sql.tables import messages as table
from dagster_taskiq.wire.rejected_messages import PREVIEW_BYTES, RejectedMessage, preview_of

#: How many are kept: the last ones.
REJECTED_LIMIT = 1000
#: What an id looks like, which comes from a user.
_ID = re.compile("[0-9]{1,18}")


class Rejected:
    """Those of one prefix."""

    def __init__(self, connection: SqlDatabase, sender: SqlSender, prefix: str) -> None:
        self._connection = connection
        self._dialect = connection.dialect
        self._sender = sender
        self._mine = (table.c.prefix == prefix) & table.c.rejected.is_not(None)

    async def add(self, delivery: Delivery, reason: str) -> None:
        """Keep the row of a message, with the reason in it, as one of the last thousand."""
        aside = (
            table.update()
            .where(table.c.id == int(delivery.handle))
            .values(
                rejected=reason, created_at=self._dialect.clock, claimed_by=None, claimed_at=None
            )
        )
        last = (
            sa.select(table.c.id)
            .where(self._mine)
            .order_by(table.c.id.desc())
            .offset(REJECTED_LIMIT)
            .limit(1)
            .scalar_subquery()
        )

        def work(connection: Connection) -> None:
            connection.execute(aside, self._dialect.clock_values())
            connection.execute(table.delete().where(self._mine, table.c.id <= last))

        await self._connection.run(work)

    async def count(self) -> int:
        """Return how many there are."""
        query = sa.select(sa.func.count()).select_from(table).where(self._mine)
        return await self._connection.read(
            lambda connection: connection.execute(query).scalar_one()
        )

    async def first(self, limit: int) -> list[RejectedMessage]:
        """Return them, without their whole bodies."""
        row = table.c
        beginning = sa.func.substr(row.body, 1, PREVIEW_BYTES, type_=sa.LargeBinary)
        size = sa.func.length(row.body, type_=sa.Integer)
        query = (
            sa.select(row.id, row.task_id, row.queue, row.rejected, row.created_at, size, beginning)
            .where(self._mine)
            .order_by(row.created_at, row.id)
            .limit(limit)
        )
        rows = await self._connection.read(lambda connection: connection.execute(query).all())
        return [
            RejectedMessage(
                id=str(number),
                task_id=task_id,
                queue=queue,
                reason=reason,
                rejected_at=at,
                size=length,
                preview=preview_of(bytes(body or b"")),  # of nothing, SQLite makes NULL
            )
            for number, task_id, queue, reason, at, length, body in rows
        ]

    async def requeue(self, ids: Sequence[str], prepare: Prepare) -> list[str]:
        """Take the reasons out of the rows, which are back at their old places then."""
        row, chosen = table.c, self._chosen(ids)
        query = sa.select(row.id, row.task_id, row.queue).where(chosen)
        rows = await self._connection.read(lambda connection: connection.execute(query).all())
        if not rows:
            return []
        await prepare([each.task_id for each in rows])
        back = (
            table.update()
            .where(chosen)
            .values(rejected=None, attempts=0, due_at=0.0, created_at=self._dialect.clock)
        )

        def work(connection: Connection) -> None:
            connection.execute(back, self._dialect.clock_values())
            self._sender.announce(connection, sorted({each.queue for each in rows}))

        await self._connection.run(work)
        return [str(each.id) for each in rows]

    async def delete(self, ids: Sequence[str]) -> list[str]:
        """Delete the rows."""
        chosen = self._chosen(ids)

        def work(connection: Connection) -> list[int]:
            found = connection.execute(sa.select(table.c.id).where(chosen)).scalars().all()
            connection.execute(table.delete().where(chosen))
            return list(found)

        return [str(each) for each in await self._connection.run(work)]

    def _chosen(self, ids: Iterable[str]) -> "sa.ColumnElement[bool]":
        numbers = [int(each) for each in ids if _ID.fullmatch(each)]
        return self._mine & table.c.id.in_(numbers)
