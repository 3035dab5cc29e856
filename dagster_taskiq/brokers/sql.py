"""The broker that keeps its messages in a SQL table: the embedded one, on a SQLite file."""

import time
from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dagster_taskiq.brokers.base import Delivery, QueueBroker, QueueDepth
from dagster_taskiq.connections.sql import SqlConnection, messages
from dagster_taskiq.settings import Settings

#: How many messages that were set aside are kept.
REJECTED_LIMIT = 1000


class SqlBroker(QueueBroker):
    """Messages are rows; claiming one is an update of the first that is free."""

    def __init__(self, settings: Settings, connection: SqlConnection | None = None) -> None:
        super().__init__(settings)
        self.connection: SqlConnection = connection or SqlConnection(
            settings.broker, settings.broker_options, settings.connect_timeout
        )
        self.connection_errors = self.connection.errors
        self._mark = 0

    async def ping(self) -> None:
        """Run one statement."""
        await self.connection.read(lambda connection: connection.execute(sa.select(1)))

    async def put(
        self, task_id: str, queue: str, priority: int, body: bytes, delay: float = 0.0
    ) -> None:
        """Insert a row; it is on disk, or in SQLite's log of it, when this returns."""
        now = time.time()
        row = {
            "prefix": self.settings.prefix,
            "queue": queue,
            "priority": priority,
            "task_id": task_id,
            "body": body,
            "created_at": now,
            "due_at": now + delay if delay else 0.0,
        }
        await self.connection.write(lambda connection: connection.execute(messages.insert(), row))

    async def claim(self) -> Delivery | None:
        """Mark the first free row as this consumer's."""
        self._mark = self.connection.mark()
        # Most looks find nothing; they must not take the write lock from those who have work.
        lanes = self.open_lanes
        marks = ", ".join("?" * len(lanes))
        now = time.time()
        if not self.connection.exists(
            f"SELECT 1 FROM {messages.name} WHERE queue IN ({marks}) AND prefix = ? AND due_at <= ?"
            " AND rejected IS NULL AND (claimed_at IS NULL OR claimed_at < ?) LIMIT 1",
            *lanes,
            self.settings.prefix,
            now,
            now - self.settings.lease,
        ):
            return None
        return await self.connection.write(self._claim)

    async def wait_for_work(self, timeout: float) -> None:
        """Return when the database has changed since the last claim."""
        await self.connection.wait_beyond(self._mark, timeout)

    async def acknowledge(self, delivery: Delivery) -> None:
        """Delete the row."""
        mine = messages.c.id == int(delivery.handle)
        await self.connection.write(
            lambda connection: connection.execute(messages.delete().where(mine))
        )

    async def release(self, delivery: Delivery) -> None:
        """Clear the claim; the row never left its place."""
        mine = (messages.c.id == int(delivery.handle)) & (messages.c.claimed_by == self.consumer)
        free = (
            messages.update()
            .where(mine)
            .values(claimed_by=None, claimed_at=None, attempts=messages.c.attempts - 1)
        )
        await self.connection.write(lambda connection: connection.execute(free))

    async def reject(self, delivery: Delivery, reason: str) -> None:
        """Keep the row, with the reason in it, as one of the last thousand."""
        aside = (
            messages.update()
            .where(messages.c.id == int(delivery.handle))
            .values(rejected=reason, claimed_by=None, claimed_at=None)
        )
        all_aside = (messages.c.prefix == self.settings.prefix) & messages.c.rejected.is_not(None)
        last = (
            sa.select(messages.c.id)
            .where(all_aside)
            .order_by(messages.c.id.desc())
            .offset(REJECTED_LIMIT)
            .limit(1)
            .scalar_subquery()
        )

        def work(connection: Connection) -> None:
            connection.execute(aside)
            connection.execute(messages.delete().where(all_aside, messages.c.id <= last))

        await self.connection.write(work)

    async def discard(self, task_ids: Sequence[str]) -> int:
        """Delete the rows of these tasks that nobody has claimed."""
        free = sa.and_(
            messages.c.task_id.in_(task_ids),
            messages.c.prefix == self.settings.prefix,
            self._is_free(time.time()),
        )
        return await self.connection.write(
            lambda connection: connection.execute(messages.delete().where(free)).rowcount
        )

    async def depths(self) -> list[QueueDepth]:
        """Count the rows of each queue."""
        now = time.time()
        free, sent = self._is_free(now), messages.c.created_at
        query = (
            sa.select(
                messages.c.queue,
                sa.func.count(sa.case((free, 1))),
                sa.func.count(sa.case((sa.not_(free), 1))),
                sa.func.min(sa.case((messages.c.due_at > 0, messages.c.due_at), else_=sent)),
            )
            .where(messages.c.prefix == self.settings.prefix, messages.c.rejected.is_(None))
            .group_by(messages.c.queue)
            .order_by(messages.c.queue)
        )
        rows = await self.connection.read(lambda connection: connection.execute(query).all())
        return [QueueDepth(row[0], row[1], row[2], max(0.0, now - row[3])) for row in rows]

    async def rejected(self) -> int:
        """Count the rows that carry a reason."""
        query = (
            sa.select(sa.func.count())
            .select_from(messages)
            .where(messages.c.prefix == self.settings.prefix, messages.c.rejected.is_not(None))
        )
        return await self.connection.read(lambda connection: connection.execute(query).scalar_one())

    def _is_free(self, now: float) -> "sa.ColumnElement[bool]":
        stale = messages.c.claimed_at < now - self.settings.lease
        return sa.and_(
            messages.c.rejected.is_(None), sa.or_(messages.c.claimed_at.is_(None), stale)
        )

    def _first(self) -> "sa.Select[tuple[int]]":
        now = time.time()
        return (
            sa.select(messages.c.id)
            .where(
                messages.c.queue.in_(self.open_lanes),
                messages.c.prefix == self.settings.prefix,
                messages.c.due_at <= now,
                self._is_free(now),
            )
            .order_by(messages.c.priority.desc(), messages.c.id)
            .limit(1)
            .with_for_update(skip_locked=True)
        )

    def _claim(self, connection: Connection) -> Delivery | None:
        first = connection.scalar(self._first())
        if first is None:
            return None
        connection.execute(
            messages.update()
            .where(messages.c.id == first)
            .values(
                claimed_by=self.consumer,
                claimed_at=time.time(),
                attempts=messages.c.attempts + 1,
            )
        )
        row = connection.execute(sa.select(messages).where(messages.c.id == first)).one()
        return Delivery(
            handle=str(row.id),
            task_id=row.task_id,
            queue=row.queue,
            body=row.body,
            attempt=row.attempts,
        )
