"""The broker that keeps its messages in an SQL table."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any, ClassVar, NamedTuple

import sqlalchemy as sa

from dagster_taskiq.errors import NotPutBackYetError
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.transport.broker import QueueBroker
from dagster_taskiq.transport.connection import Connection
from dagster_taskiq.transport.late_deletions import LateDeletions
from dagster_taskiq.transport.message_queues import Prepare
from dagster_taskiq.transport.messages import NO_MESSAGE, Delivery, Outgoing
from dagster_taskiq.transport.sql.conditions import is_free
from dagster_taskiq.transport.sql.database import SqlDatabase
from dagster_taskiq.transport.sql.records import SqlRecords
from dagster_taskiq.transport.sql.rejected import Rejected
from dagster_taskiq.transport.sql.sending import SqlSender
from dagster_taskiq.transport.sql.tables import messages as table
from dagster_taskiq.transport.transitions import give_back, start
from dagster_taskiq.wire.queues import QueueDepth
from dagster_taskiq.wire.records import Task, TaskState
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
        self._records = SqlRecords(self._dialect, settings.prefix)
        self._rejected = Rejected(self.connection, self._sender, settings.prefix)
        # The messages of tasks that were started with their claims.
        self._deletions = LateDeletions(self._delete)
        # What the claim that is on its way has found, as it is about to be committed.
        self._taking: _Taken | None = None
        # The same of a claim whose answer was lost, so that it may have been committed.
        self._in_doubt: _Taken | None = None

    async def ping(self) -> None:
        """Run one statement."""
        await self.connection.ping()

    async def put_all(self, messages: Sequence[Outgoing]) -> None:
        """Insert rows; on return they are in the database, or in SQLite's log."""
        await self.connection.run(lambda connection: self._sender.put(connection, messages))

    async def claim(self) -> Delivery | None:
        """Record the claim of this consumer on the first free row."""
        return await self._claim(self.connection.run, self._take)

    async def claim_next(self) -> Delivery | None:
        """Claim, unless the last claim found nothing and nothing has been announced since.

        A user's own task is started in the same transaction, if the records are here too.
        """
        mark = self.connection.mark()
        topics = self._sender.topics(self.open_queues)
        if self._in_doubt is None and self.connection.is_unchanged(_CLAIM, topics):
            self._mark = mark
            return None
        if not self.starts_with_claim:
            return await self.claim()
        return await self._claim(self.connection.write, self._take_and_start)

    def may_start_with_claim(self, backend_connection: Connection) -> bool:
        """Whether the records of the tasks are in this database."""
        return backend_connection is self.connection

    async def _claim(
        self,
        call: Callable[[Callable[[sa.Connection], Delivery | None]], Awaitable[Delivery | None]],
        take: Callable[[sa.Connection, Sequence[str]], Delivery | None],
    ) -> Delivery | None:
        """Delete what is to be deleted with a claim, and claim by ``take``; ``call`` runs that."""
        self._mark = self.connection.mark()
        queues = self.open_queues
        if self._in_doubt is None and not self._claims.may_find(queues):
            return None
        deleted = self._deletions.next

        def work(connection: sa.Connection) -> Delivery | None:
            if deleted:
                connection.execute(_DELETE, self._ours(deleted))
            return take(connection, queues)

        self._taking = None
        try:
            delivery = await call(work)
        except BaseException:
            self._in_doubt = self._taking or self._in_doubt
            raise
        self._in_doubt = None
        self._deletions.note_deleted(deleted)
        if delivery is not None:
            self.connection.note_found()
        else:
            self.connection.note_empty(_CLAIM, self._sender.topics(queues), self._mark)
        return delivery

    async def wait_for_work(self, timeout: float) -> None:
        """Return when something may have come into an open queue since the last claim."""
        topics = self._sender.topics(self.open_queues)
        await self.connection.wait_beyond(self._mark, topics, timeout)

    async def acknowledge(self, delivery: Delivery) -> None:
        """Delete the row; that of a task that was started with its claim, with the next claim."""
        if delivery.is_started:
            self._deletions.add(delivery)
        else:
            await self._delete([delivery])

    async def stop_claiming(self) -> None:
        """Settle what the next claim would have settled, and delete what it would have deleted."""
        taken = self._in_doubt
        if taken is not None:
            if await self.connection.write(lambda connection: self._is_ours(connection, taken)):
                await self.release(taken.delivery)
            self._in_doubt = None
        await self._deletions.finish()

    async def release(self, delivery: Delivery) -> None:
        """Clear the claim; the row keeps its place. A task that was started with it waits again."""
        mine = (table.c.id == int(delivery.handle)) & (table.c.claimed_by == self.consumer)
        free = (
            table.update()
            .where(mine)
            .values(claimed_by=None, claimed_at=None, attempts=table.c.attempts - 1)
        )

        def work(connection: sa.Connection) -> None:
            before = after = None
            if delivery.is_started:
                is_there = connection.execute(_LOCKED.where(mine)).first() is not None
                records, now = self._records.lock(connection, [delivery.task_id])
                before = records.get(delivery.task_id)
                task = Task(delivery.task_id, worker=self.consumer)
                after = give_back(before, task, now, is_there=is_there, reason=NO_MESSAGE)
            if not delivery.is_started or (after and after.state is TaskState.WAITING):
                connection.execute(free)
                self._sender.announce(connection, [delivery.queue])
            else:
                connection.execute(_DELETE, self._ours([delivery]))
            if after is not None:
                self._records.store(connection, [(before, after)])

        await self.connection.write(work)

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

    async def _delete(self, deliveries: Sequence[Delivery]) -> None:
        ours = self._ours(deliveries)
        await self.connection.run(lambda connection: connection.execute(_DELETE, ours))

    def _ours(self, deliveries: Sequence[Delivery]) -> dict[str, Any]:
        """Return the parameters of ``_DELETE`` for messages that are claimed here."""
        return {"ids": [int(each.handle) for each in deliveries], "consumer": self.consumer}

    def _take(self, connection: sa.Connection, queues: Sequence[str]) -> Delivery | None:
        row = self._claims.take(connection, queues, self.consumer)
        return None if row is None else _delivery(row)

    def _take_and_start(self, connection: sa.Connection, queues: Sequence[str]) -> Delivery | None:
        """Claim the first message, and start its task if it is a user's own.

        If that is forbidden, the message is deleted. It is claimed alone if it was claimed before,
        or an earlier attempt is not put back yet.
        """
        self._taking = None  # a transaction may be repeated
        if self._in_doubt is not None and self._is_ours(connection, self._in_doubt):
            return self._in_doubt.delivery
        row = self._claims.take(connection, queues, self.consumer)
        if row is None:
            return None
        alone = _delivery(row)
        self._taking = _Taken(alone, row.attempt)
        # One that was claimed before, and not started, is looked at by the listener first.
        if row.attempts > 1 or not row.own_task:
            return alone
        records, now = self._records.lock(connection, [row.task_id])
        known = records.get(row.task_id)
        task = Task(
            row.task_id,
            name=row.own_task,
            queue=row.queue,
            worker=self.consumer,
            attempt=row.attempt,
        )
        try:
            record, refused = start(known, task, now)
        except NotPutBackYetError:
            return alone
        if refused is None:
            started = replace(alone, is_started=True)
            self._taking = _Taken(started, row.attempt)
            self._records.store(connection, [(known, record)])
            return started
        self._taking = None
        connection.execute(_DELETE, self._ours([alone]))
        return replace(alone, refused=refused)

    def _is_ours(self, connection: sa.Connection, taken: "_Taken") -> bool:
        """Return whether a claim was committed whose answer was lost, and has not ended since.

        Waits for the transaction, if the server is still about to commit it.
        """
        delivery = taken.delivery
        its = (table.c.id == int(delivery.handle)) & (table.c.task_id == delivery.task_id)
        row = connection.execute(_LOCKED.where(its)).first()
        if not delivery.is_started:
            return row is not None and row.claimed_by == self.consumer
        # The message may have gone: whoever has claimed it after the lease may not start its task.
        known = self._records.lock(connection, [delivery.task_id])[0].get(delivery.task_id)
        ours = (TaskState.STARTED, self.consumer, taken.attempt)
        return known is not None and (known.state, known.worker, known.attempt) == ours


class _Taken(NamedTuple):
    """What a claim has found."""

    delivery: Delivery
    #: The attempt of the task that the message is for.
    attempt: int


#: Deletes the messages with the ids that the parameter ``ids`` has, which ``consumer`` has claimed:
#: SQLite gives the highest id to the next message once its row is deleted.
_DELETE = table.delete().where(
    table.c.id.in_(sa.bindparam("ids", expanding=True)),
    table.c.claimed_by == sa.bindparam("consumer"),
)
#: Who has claimed a message, which is locked until the transaction ends.
_LOCKED = sa.select(table.c.claimed_by).with_for_update()


def _delivery(row: sa.Row[Any]) -> Delivery:
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
