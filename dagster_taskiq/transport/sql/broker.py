"""The broker that keeps its messages in a SQL table: the embedded one, on a SQLite file."""

import time
from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.transport.broker import Delivery, Outgoing, QueueBroker
from dagster_taskiq.transport.sql.connection import SqlConnection
from dagster_taskiq.transport.sql.tables import messages as table
from dagster_taskiq.wire.queues import QueueDepth

#: How many messages that were set aside are kept.
REJECTED_LIMIT = 1000


def _is_free(stale: "sa.ColumnElement[float]") -> "sa.ColumnElement[bool]":
    """Whether nobody has claimed a row, or so long ago that it counts for nothing."""
    free = sa.or_(table.c.claimed_at.is_(None), table.c.claimed_at < stale)
    return sa.and_(table.c.rejected.is_(None), free)


# The two statements of each claim; made here once, since that takes longer than to run them.
#: The first free row of some queues.
_FIRST = sa.select(table).where(
    table.c.id
    == sa.select(table.c.id)
    .where(
        table.c.queue.in_(sa.bindparam("lanes", expanding=True)),
        table.c.prefix == sa.bindparam("mine"),
        table.c.due_at <= sa.bindparam("now"),
        _is_free(sa.bindparam("stale")),
    )
    .order_by(table.c.priority.desc(), table.c.id)
    .limit(1)
    .with_for_update(skip_locked=True)
    .scalar_subquery()
)
#: Mark a row as a consumer's.
_CLAIM = (
    table.update()
    .where(table.c.id == sa.bindparam("this"))
    .values(
        claimed_by=sa.bindparam("consumer"),
        claimed_at=sa.bindparam("now"),
        attempts=table.c.attempts + 1,
    )
)


class SqlBroker(QueueBroker):
    """Messages are rows; claiming one is an update of the first that is free."""

    def __init__(self, settings: Settings, connection: SqlConnection | None = None) -> None:
        super().__init__(settings)
        self.connection: SqlConnection = connection or SqlConnection(
            settings.broker, settings.broker_options, settings.connect_timeout
        )
        self._mark = 0

    async def ping(self) -> None:
        """Run one statement."""
        await self.connection.read(lambda connection: connection.execute(sa.select(1)))

    async def put_all(self, messages: Sequence[Outgoing]) -> None:
        """Insert rows, all or none; when this returns they are on disk, or in SQLite's log."""
        now = time.time()
        rows = [
            {
                "prefix": self.settings.prefix,
                "queue": each.queue,
                "priority": each.priority,
                "task_id": each.task_id,
                "body": each.body,
                "created_at": now,
                "due_at": now + each.delay if each.delay else 0.0,
            }
            for each in messages
        ]
        await self.connection.write(lambda connection: connection.execute(table.insert(), rows))

    async def claim(self) -> Delivery | None:
        """Mark the first free row as this consumer's."""
        self._mark = self.connection.mark()
        # Most looks find nothing; they must not take the write lock from those who have work.
        lanes = self.open_queues
        marks = ", ".join("?" * len(lanes))
        now = time.time()
        if not self.connection.exists(
            f"SELECT 1 FROM {table.name} WHERE queue IN ({marks}) AND prefix = ? AND due_at <= ?"
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
        mine = table.c.id == int(delivery.handle)
        await self.connection.write(
            lambda connection: connection.execute(table.delete().where(mine))
        )

    async def release(self, delivery: Delivery) -> None:
        """Clear the claim; the row never left its place."""
        mine = (table.c.id == int(delivery.handle)) & (table.c.claimed_by == self.consumer)
        free = (
            table.update()
            .where(mine)
            .values(claimed_by=None, claimed_at=None, attempts=table.c.attempts - 1)
        )
        await self.connection.write(lambda connection: connection.execute(free))

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

        await self.connection.write(work)

    async def discard(self, task_ids: Sequence[str]) -> int:
        """Delete the rows of these tasks that nobody has claimed."""
        free = sa.and_(
            table.c.task_id.in_(task_ids),
            table.c.prefix == self.settings.prefix,
            self._is_free(time.time()),
        )
        return await self.connection.write(
            lambda connection: connection.execute(table.delete().where(free)).rowcount
        )

    async def depths(self) -> list[QueueDepth]:
        """Count the rows of each queue."""
        now = time.time()
        free, sent = self._is_free(now), table.c.created_at
        query = (
            sa.select(
                table.c.queue,
                sa.func.count(sa.case((free, 1))),
                sa.func.count(sa.case((sa.not_(free), 1))),
                sa.func.min(sa.case((table.c.due_at > 0, table.c.due_at), else_=sent)),
            )
            .where(table.c.prefix == self.settings.prefix, table.c.rejected.is_(None))
            .group_by(table.c.queue)
            .order_by(table.c.queue)
        )
        rows = await self.connection.read(lambda connection: connection.execute(query).all())
        return [QueueDepth(row[0], row[1], row[2], max(0.0, now - row[3])) for row in rows]

    async def rejected(self) -> int:
        """Count the rows that carry a reason."""
        query = (
            sa.select(sa.func.count())
            .select_from(table)
            .where(table.c.prefix == self.settings.prefix, table.c.rejected.is_not(None))
        )
        return await self.connection.read(lambda connection: connection.execute(query).scalar_one())

    def _is_free(self, now: float) -> "sa.ColumnElement[bool]":
        return _is_free(sa.literal(now - self.settings.lease))

    def _claim(self, connection: Connection) -> Delivery | None:
        now = time.time()
        wanted = {
            "lanes": self.open_queues,
            "mine": self.settings.prefix,
            "now": now,
            "stale": now - self.settings.lease,
        }
        row = connection.execute(_FIRST, wanted).one_or_none()
        if row is None:
            return None
        connection.execute(_CLAIM, {"this": row.id, "consumer": self.consumer, "now": now})
        return Delivery(
            handle=str(row.id),
            task_id=row.task_id,
            queue=row.queue,
            body=row.body,
            attempt=row.attempts + 1,
        )
