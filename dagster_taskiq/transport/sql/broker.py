"""The broker that keeps its messages in an SQL table."""

from collections.abc import Sequence
from itertools import groupby
from typing import Any, ClassVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.transport.broker import QueueBroker
from dagster_taskiq.transport.message_queues import Prepare
from dagster_taskiq.transport.messages import Delivery, Outgoing
from dagster_taskiq.transport.sql.conditions import is_free
from dagster_taskiq.transport.sql.database import SqlDatabase
from dagster_taskiq.transport.sql.rejected import Rejected
from dagster_taskiq.transport.sql.sending import SqlSender
from dagster_taskiq.transport.sql.tables import messages as table
from dagster_taskiq.wire.queues import QueueDepth
from dagster_taskiq.wire.rejected_messages import RejectedMessage

#: What a claim looks for, of those who look into the database.
_CLAIM = "claim"


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
        self._rejected = Rejected(self.connection, self._sender, settings.prefix)

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
        await self._rejected.add(delivery, reason)

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
        """Count the rows of each queue and priority."""
        row, free, clock = table.c, self._is_free, self._dialect.clock
        query = (
            sa.select(
                row.queue,
                row.priority,
                sa.func.count(sa.case((free, 1))).label("waiting"),
                sa.func.count(sa.case((free & (row.due_at <= clock), 1))).label("due"),
                sa.func.count(sa.case((sa.not_(free), 1))).label("claimed"),
                (
                    clock - sa.func.min(sa.case((row.due_at > 0, row.due_at), else_=row.created_at))
                ).label("age"),
            )
            .where(row.prefix == self.settings.prefix, row.rejected.is_(None))
            .group_by(row.queue, row.priority)
            .order_by(row.queue, row.priority.desc())
        )
        values = self._dialect.clock_values()
        rows = await self.connection.read(
            lambda connection: connection.execute(query, values).all()
        )
        return [
            _depth(queue, list(levels)) for queue, levels in groupby(rows, lambda row: row.queue)
        ]

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
        return await self._rejected.count()

    async def list_rejected(self, limit: int) -> list[RejectedMessage]:
        """Select them, without their whole bodies."""
        return await self._rejected.first(limit)

    async def requeue_rejected(self, ids: Sequence[str], prepare: Prepare) -> list[str]:
        """Take the reasons out of the rows, which are back at their old places then."""
        return await self._rejected.requeue(ids, prepare)

    async def delete_rejected(self, ids: Sequence[str]) -> list[str]:
        """Delete the rows."""
        return await self._rejected.delete(ids)

    @property
    def _is_free(self) -> "sa.ColumnElement[bool]":
        """The condition that a row may be claimed now; has the parameters of the clock."""
        return is_free(self._dialect.clock - self.settings.lease)

    def _take(self, connection: Connection, queues: Sequence[str]) -> Delivery | None:
        row = self._claims.take(connection, queues, self.consumer)
        if row is None:
            return None
        return Delivery(str(row.id), row.task_id, row.queue, row.body, row.attempts)


def _depth(queue: str, levels: Sequence[sa.Row[Any]]) -> QueueDepth:
    """Return how much waits in a queue, by its rows, one for each priority."""
    return QueueDepth(
        queue,
        sum(each.waiting for each in levels),
        sum(each.claimed for each in levels),
        max(0.0, *(each.age for each in levels)),
        {each.priority: each.due for each in levels if each.due},
    )
