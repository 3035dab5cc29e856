"""The broker that keeps its messages in an SQL table: the embedded one, in a SQLite file."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.transport.broker import Delivery, Outgoing, QueueBroker
from dagster_taskiq.transport.sql.changes import LookUp
from dagster_taskiq.transport.sql.connection import SqlConnection
from dagster_taskiq.transport.sql.tables import messages as table
from dagster_taskiq.wire.queues import QueueDepth

#: How many rejected messages are kept.
REJECTED_LIMIT = 1000


def _is_free(stale: "sa.ColumnElement[float]") -> "sa.ColumnElement[bool]":
    """Return the condition that a row is not rejected, and that no claim on it counts.

    Args:
        stale: a claim that was made before this time does not count.
    """
    free = sa.or_(table.c.claimed_at.is_(None), table.c.claimed_at < stale)
    return sa.and_(table.c.rejected.is_(None), free)


@dataclass(frozen=True)
class _Claims:
    """The statements that find rows to claim in a number of queues."""

    #: The parameters with the names of the queues.
    queues: tuple[str, ...]
    #: Whether there is a row.
    any_row: LookUp
    #: The first row: highest priority, then oldest.
    first: "sa.Select[Any]"

    @classmethod
    @cache
    def of(cls, count: int) -> "_Claims":
        """Return those of so many queues; they are built once, which takes longer than to run them.

        The condition is the only one that decides which rows may be claimed. Its parameters are
        those of :meth:`wanted`.
        """
        queues = tuple(f"queue_{number}" for number in range(count))
        claimable = sa.and_(
            table.c.queue.in_([sa.bindparam(name) for name in queues]),
            table.c.prefix == sa.bindparam("mine"),
            table.c.due_at <= sa.bindparam("now"),
            _is_free(sa.bindparam("stale")),
        )
        ids = sa.select(table.c.id).where(claimable)
        in_order = ids.order_by(table.c.priority.desc(), table.c.id).limit(1)
        first = in_order.with_for_update(skip_locked=True).scalar_subquery()
        return cls(queues, LookUp(ids), sa.select(table).where(table.c.id == first))

    def wanted(self, queues: Sequence[str], settings: Settings, now: float) -> dict[str, Any]:
        """Return the parameters of the statements."""
        named = dict(zip(self.queues, queues, strict=True))
        return {**named, "mine": settings.prefix, "now": now, "stale": now - settings.lease}


#: Records the claim of a consumer on a row.
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
    """Messages are rows; a claim is an update of the first row that is free."""

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
        """Insert rows, all or none; on return they are in the database, or in SQLite's log."""
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
        """Record the claim of this consumer on the first free row."""
        self._mark = self.connection.changes.mark()
        # Mostly there is none; looking must not take the write lock from processes with work.
        queues = self.open_queues
        claims = _Claims.of(len(queues))
        wanted = claims.wanted(queues, self.settings, time.time())
        if not self.connection.changes.exists(claims.any_row, wanted):
            return None
        return await self.connection.write(self._claim)

    async def wait_for_work(self, timeout: float) -> None:
        """Return when the database has changed since the last claim."""
        await self.connection.changes.wait_beyond(self._mark, timeout)

    async def acknowledge(self, delivery: Delivery) -> None:
        """Delete the row."""
        mine = table.c.id == int(delivery.handle)
        await self.connection.write(
            lambda connection: connection.execute(table.delete().where(mine))
        )

    async def release(self, delivery: Delivery) -> None:
        """Clear the claim; the row keeps its place."""
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
        """Delete the rows of these tasks that are not claimed."""
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
        now, queues = time.time(), self.open_queues
        claims = _Claims.of(len(queues))
        wanted = claims.wanted(queues, self.settings, now)
        row = connection.execute(claims.first, wanted).one_or_none()
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
