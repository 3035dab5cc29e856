"""The broker that keeps its messages in an SQL table."""

from collections.abc import Sequence
from typing import ClassVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.transport.broker import QueueBroker
from dagster_taskiq.transport.messages import Delivery, Outgoing
from dagster_taskiq.transport.sql.conditions import is_free
from dagster_taskiq.transport.sql.database import SqlDatabase
from dagster_taskiq.transport.sql.sending import SqlSender
from dagster_taskiq.transport.sql.tables import messages as table
from dagster_taskiq.wire.queues import QueueDepth

#: What a claim looks for, of those who look into the database.
_CLAIM = "claim"
#: How many rejected messages are kept.
REJECTED_LIMIT = 1000


class SqlBroker(QueueBroker):
    """Messages are rows; a claim is an update of the first row that is free.

    What differs between kinds of databases is in ``SqlDatabase`` and its dialect; a subclass names
    its own.
    """

    database_class: ClassVar[type[SqlDatabase]]

    def __init__(self, settings: Settings, connection: SqlDatabase | None = None) -> None:
        super().__init__(settings)
        self.connection: SqlDatabase = connection or self.database_class(
            settings.broker, settings.broker_options, settings.connect_timeout
        )
        self._dialect = self.connection.dialect
        self._claims = self.connection.claims(settings)
        self._mark = 0
        self._sender = SqlSender(self._dialect, settings.prefix)

    async def ping(self) -> None:
        """Run one statement."""
        await self.connection.ping()

    async def put_all(self, messages: Sequence[Outgoing]) -> None:
        """Insert rows; on return they are in the database, or in SQLite's log."""
        await self.connection.run(lambda connection: self._sender.put(connection, messages))

    async def claim(self) -> Delivery | None:
        """Record the claim of this consumer on the first free row."""
        self._mark = self.connection.mark()
        queues = self.open_queues
        if not self._claims.may_find(queues):
            return None
        delivery = await self.connection.run(lambda connection: self._take(connection, queues))
        if delivery is not None:
            self.connection.note_found()
        else:
            self.connection.note_empty(_CLAIM, self._sender.topics(queues), self._mark)
        return delivery

    async def claim_next(self) -> Delivery | None:
        """Claim, unless the last claim found nothing and nothing has been announced since."""
        mark = self.connection.mark()
        if self.connection.is_unchanged(_CLAIM, self._sender.topics(self.open_queues)):
            self._mark = mark
            return None
        return await self.claim()

    async def wait_for_work(self, timeout: float) -> None:
        """Return when something may have come into an open queue since the last claim."""
        topics = self._sender.topics(self.open_queues)
        await self.connection.wait_beyond(self._mark, topics, timeout)

    async def acknowledge(self, delivery: Delivery) -> None:
        """Delete the row."""
        mine = table.c.id == int(delivery.handle)
        await self.connection.run(lambda connection: connection.execute(table.delete().where(mine)))

    async def release(self, delivery: Delivery) -> None:
        """Clear the claim; the row keeps its place."""
        mine = (table.c.id == int(delivery.handle)) & (table.c.claimed_by == self.consumer)
        free = (
            table.update()
            .where(mine)
            .values(claimed_by=None, claimed_at=None, attempts=table.c.attempts - 1)
        )

        def work(connection: Connection) -> None:
            connection.execute(free)
            self._sender.announce(connection, [delivery.queue])

        await self.connection.run(work)

    async def reject(self, delivery: Delivery, reason: str) -> None:
        """Keep the row, with the reason in it, as one of the last thousand."""
        aside = (
            table.update()
            .where(table.c.id == int(delivery.handle))
            .values(rejected=reason, claimed_by=None, claimed_at=None)
        )
        all_aside = (table.c.prefix == self.settings.prefix) & table.c.rejected.is_not(None)
        last = (
            sa.select(table.c.id)
            .where(all_aside)
            .order_by(table.c.id.desc())
            .offset(REJECTED_LIMIT)
            .limit(1)
            .scalar_subquery()
        )

        def work(connection: Connection) -> None:
            connection.execute(aside)
            connection.execute(table.delete().where(all_aside, table.c.id <= last))

        await self.connection.run(work)

    async def discard(self, task_ids: Sequence[str]) -> int:
        """Delete the rows of these tasks that are not claimed."""
        free = sa.and_(
            table.c.task_id.in_(task_ids),
            table.c.prefix == self.settings.prefix,
            self._is_free,
        )
        delete, clock = table.delete().where(free), self._dialect.clock_values()
        return await self.connection.run(
            lambda connection: connection.execute(delete, clock).rowcount
        )

    async def depths(self) -> list[QueueDepth]:
        """Count the rows of each queue."""
        free, sent, due = self._is_free, table.c.created_at, table.c.due_at
        query = (
            sa.select(
                table.c.queue,
                sa.func.count(sa.case((free, 1))),
                sa.func.count(sa.case((sa.not_(free), 1))),
                self._dialect.clock - sa.func.min(sa.case((due > 0, due), else_=sent)),
            )
            .where(table.c.prefix == self.settings.prefix, table.c.rejected.is_(None))
            .group_by(table.c.queue)
            .order_by(table.c.queue)
        )
        clock = self._dialect.clock_values()
        rows = await self.connection.read(lambda connection: connection.execute(query, clock).all())
        return [QueueDepth(row[0], row[1], row[2], max(0.0, row[3])) for row in rows]

    async def is_empty(self, queue: str) -> bool:
        """Look for one row. On PostgreSQL, each of the conditions is that of an index."""
        row = table.c
        its = (row.prefix == self.settings.prefix, row.queue == queue, row.rejected.is_(None))
        waits = row.claimed_at.is_(None) & (row.due_at == 0)
        conditions = (waits, row.due_at > 0, row.claimed_at.is_not(None))
        found = [sa.exists().where(*its, each) for each in conditions]
        query = sa.select(sa.or_(*found))
        return not await self.connection.read(lambda connection: connection.scalar(query))

    async def rejected(self) -> int:
        """Count the rows that carry a reason."""
        query = (
            sa.select(sa.func.count())
            .select_from(table)
            .where(table.c.prefix == self.settings.prefix, table.c.rejected.is_not(None))
        )
        return await self.connection.read(lambda connection: connection.execute(query).scalar_one())

    @property
    def _is_free(self) -> "sa.ColumnElement[bool]":
        """The condition that a row may be claimed now; has the parameters of the clock."""
        return is_free(self._dialect.clock - self.settings.lease)

    def _take(self, connection: Connection, queues: Sequence[str]) -> Delivery | None:
        row = self._claims.take(connection, queues, self.consumer)
        if row is None:
            return None
        return Delivery(str(row.id), row.task_id, row.queue, row.body, row.attempts)
