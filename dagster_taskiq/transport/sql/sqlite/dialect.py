"""The statements for SQLite: a transaction that writes holds the write lock from its start."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite
from sqlalchemy.engine import Connection, Row

from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.transport.sql.conditions import IS_ONE_OF, is_free
from dagster_taskiq.transport.sql.dialect import TAKEN, SqlClaims, SqlDialect
from dagster_taskiq.transport.sql.tables import messages as table
from dagster_taskiq.transport.sql.tables import notifications, tasks

#: Whether a query finds a row, given values for its parameters; does not block.
Exists = Callable[["sa.Select[Any]", Mapping[str, Any]], bool]


class SqliteDialect(SqlDialect):
    """All processes are on one machine, and have one clock. Readers see each commit by themselves,
    so no one has to be woken.
    """

    def __init__(self) -> None:
        # A parameter, so that a statement is built once.
        self.clock = sa.bindparam("now", type_=sa.Float)

    def clock_values(self) -> dict[str, float]:
        """Return this machine's time."""
        return {"now": time.time()}

    def insert_missing(self, table: sa.Table) -> "sa.Insert":
        """See the base class."""
        return sqlite.insert(table).on_conflict_do_nothing()

    def lock_tasks(
        self, connection: Connection, prefix: str, task_ids: Sequence[str]
    ) -> tuple[list[Row[Any]], float]:
        """Select the rows: the transaction has the lock of the whole file."""
        rows = connection.execute(_TASKS, {"prefix": prefix, "ids": list(task_ids)}).all()
        return list(rows), time.time()

    def insert_notifications(
        self, connection: Connection, channel: str, bodies: Sequence[str]
    ) -> int:
        """Insert the rows; transactions that write come one after the other."""
        number = 0
        for body in bodies:
            row = {"channel": channel, "body": body, "created_at": time.time()}
            (number,) = connection.execute(notifications.insert(), row).inserted_primary_key or (0,)
        return int(number)

    def announce(self, connection: Connection, queues: Sequence[str]) -> None:
        """Do nothing."""


class SqliteClaims(SqlClaims):
    """Looks for a message without the write lock first: mostly there is none."""

    def __init__(self, settings: Settings, exists: Exists) -> None:
        self._settings = settings
        self._exists = exists

    def may_find(self, queues: Sequence[str]) -> bool:
        """Look without taking the write lock from processes with work."""
        claims = _Claims.of(len(queues))
        return self._exists(claims.any_row, claims.wanted(queues, self._settings, time.time()))

    def take(self, connection: Connection, queues: Sequence[str], consumer: str) -> Row[Any] | None:
        """Find the first row, and update it."""
        now = time.time()
        claims = _Claims.of(len(queues))
        found = connection.execute(claims.first, claims.wanted(queues, self._settings, now))
        row = found.one_or_none()
        if row is not None:
            connection.execute(_CLAIM, {"this": row.id, "consumer": consumer, "now": now})
        return row


@dataclass(frozen=True)
class _Claims:
    """The statements that find rows to claim in a number of queues."""

    #: The parameters with the names of the queues.
    queues: tuple[str, ...]
    #: Finds any row.
    any_row: "sa.Select[Any]"
    #: Finds the first row: highest priority, then oldest.
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
            is_free(sa.bindparam("stale")),
        )
        ids = sa.select(table.c.id).where(claimable)
        first = ids.order_by(table.c.priority.desc(), table.c.id).limit(1).scalar_subquery()
        attempts = (table.c.attempts + 1).label("attempts")
        return cls(queues, ids, sa.select(*TAKEN, attempts).where(table.c.id == first))

    def wanted(self, queues: Sequence[str], settings: Settings, now: float) -> dict[str, Any]:
        """Return the parameters of the statements."""
        named = dict(zip(self.queues, queues, strict=True))
        return {**named, "mine": settings.prefix, "now": now, "stale": now - settings.lease}


# Statements that do not change are built once, which takes longer than to run them.
#: The rows of some tasks.
_TASKS = sa.select(tasks).where(IS_ONE_OF)
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
