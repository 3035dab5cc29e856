"""The statements for PostgreSQL: many processes write at the same time.

Times are those of the server, which all processes have in common. In a condition the clock is a
query of its own, which is executed once: an index cannot be used for a volatile function.
"""

from collections.abc import Sequence
from hashlib import blake2s
from time import monotonic
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import Connection, Row

from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.transport.sql.conditions import IS_ONE_OF
from dagster_taskiq.transport.sql.dialect import TAKEN, SqlClaims, SqlDialect, channel_topic
from dagster_taskiq.transport.sql.postgresql.ddl import LOCK_SALT, quoted
from dagster_taskiq.transport.sql.tables import messages, notifications, tasks

#: The present time, in seconds since the epoch.
NOW = "CAST(extract(epoch FROM clock_timestamp()) AS double precision)"

#: How many of the first messages of each queue a claim looks at: other processes may be claiming
#: those before at this moment. If all of them are taken, it looks at more, and then at many more.
CANDIDATES = (16, 128, 1024)
#: Seconds between two looks of a busy broker for messages that are due, or whose claim does not
#: count any more; one that finds nothing to claim looks each time.
UPKEEP_SECONDS = 1.0
#: How many messages one such look changes at most.
UPKEEP_LIMIT = 1000

# The first messages of each queue are found by a walk in the order of an index (LATERAL; for
# `queue IN (...)` all that wait would be sorted). Then one after the other is tried to be locked,
# until one is not locked by another process, and still as it was. That is written so that it does
# not imply the condition of that index: without statistics the planner would walk along it here.
_CLAIM = """
WITH next AS (
    SELECT locked.id
    FROM (
        SELECT first.id, first.priority
        FROM unnest(CAST(:queues AS text[])) AS served(queue)
        CROSS JOIN LATERAL (
            SELECT id, priority FROM {messages}
            WHERE prefix = :prefix AND queue = served.queue
                AND claimed_at IS NULL AND rejected IS NULL AND due_at = 0
            ORDER BY priority DESC, id
            LIMIT :candidates
        ) AS first
        ORDER BY first.priority DESC, first.id
    ) AS candidate
    CROSS JOIN LATERAL (
        SELECT id FROM {messages}
        WHERE id = candidate.id AND coalesce(claimed_at, due_at) = 0 AND rejected IS NULL
        LIMIT 1
        FOR UPDATE SKIP LOCKED
    ) AS locked
    ORDER BY candidate.priority DESC, candidate.id
    LIMIT 1
)
UPDATE {messages} AS message
SET claimed_by = :consumer, claimed_at = (SELECT {now}), attempts = attempts + 1
FROM next WHERE message.id = next.id
RETURNING message.id, message.task_id, message.queue, message.own_task, message.attempt,
    message.body, message.attempts
"""

# Each of the three walks along an index: IN would join, and ORDER BY keeps the last one from
# reading the whole table in the hope of an early match. A delayed message begins to wait when it is
# due.
_UPKEEP = """
WITH released AS (
    UPDATE {messages} SET claimed_by = NULL, claimed_at = NULL WHERE id = ANY (ARRAY(
        SELECT id FROM {messages}
        WHERE prefix = :prefix AND claimed_at < (SELECT {now}) - :lease
        ORDER BY claimed_at LIMIT :limit FOR UPDATE SKIP LOCKED
    ))
    RETURNING 1
), due AS (
    UPDATE {messages} SET created_at = due_at, due_at = 0 WHERE id = ANY (ARRAY(
        SELECT id FROM {messages}
        WHERE prefix = :prefix AND due_at > 0 AND due_at <= (SELECT {now})
        ORDER BY due_at LIMIT :limit FOR UPDATE SKIP LOCKED
    ))
    RETURNING 1
)
SELECT EXISTS (SELECT FROM released) OR EXISTS (SELECT FROM due) OR EXISTS (
    SELECT FROM unnest(CAST(:queues AS text[])) AS served(queue)
    CROSS JOIN LATERAL (
        SELECT FROM {messages}
        WHERE prefix = :prefix AND queue = served.queue
            AND claimed_at IS NULL AND rejected IS NULL AND due_at = 0
        ORDER BY priority DESC, id
        LIMIT 1
    ) AS waiting
)
"""

# Ids are taken before a transaction is committed. The lock keeps others from taking one for the
# same channel until this transaction ends; so a reader that sees an id has seen all before it.
_NOTIFICATIONS = """
WITH locked AS MATERIALIZED (
    SELECT pg_advisory_xact_lock(hashtextextended(:channel, {salt}))
), added AS (
    INSERT INTO {notifications} (channel, body, created_at)
    SELECT :channel, posted.body, (SELECT {now})
    FROM locked CROSS JOIN unnest(CAST(:bodies AS text[])) WITH ORDINALITY AS posted (body, number)
    ORDER BY posted.number
    RETURNING id
)
SELECT max(id) AS last, pg_notify(:notify, '') FROM added
"""

_ANNOUNCE = sa.text("SELECT pg_notify(name, '') FROM unnest(CAST(:names AS text[])) AS name")


class PostgresqlDialect(SqlDialect):
    """The statements for tables in one schema."""

    def __init__(self, schema: str) -> None:
        self.clock = sa.literal_column(f"(SELECT {NOW})", sa.Float)
        self._schema = schema
        names = self._names()
        self._notifications = sa.text(_NOTIFICATIONS.format(**names)).bindparams(
            sa.bindparam("channel", type_=notifications.c.channel.type)
        )
        self._claim = sa.text(_CLAIM.format(**names)).columns(*TAKEN, messages.c.attempts)
        self._upkeep = sa.text(_UPKEEP.format(**names))

    def insert_missing(self, table: sa.Table) -> "sa.Insert":
        """See the base class."""
        return postgresql.insert(table).on_conflict_do_nothing()

    def lock_tasks(
        self, connection: Connection, prefix: str, task_ids: Sequence[str]
    ) -> tuple[list[Row[Any]], float]:
        """Lock the rows that are there. Two processes that insert the same one collide."""
        rows = connection.execute(_LOCKED, {"prefix": prefix, "ids": list(task_ids)}).all()
        return [row for row in rows if row.id is not None], float(rows[0].now)

    def insert_notifications(
        self, connection: Connection, channel: str, bodies: Sequence[str]
    ) -> int:
        """Insert the rows under the lock of their channel, and notify its readers."""
        notify = self.channel_of(channel_topic(channel))
        values = {"channel": channel, "bodies": list(bodies), "notify": notify}
        return int(connection.execute(self._notifications, values).one().last)

    def announce(self, connection: Connection, queues: Sequence[str]) -> None:
        """Send one notification for each of the queues, in one statement."""
        connection.execute(_ANNOUNCE, {"names": [self.channel_of(each) for each in queues]})

    def channel_of(self, topic: str) -> str:
        """Return the name of the server's channel for a topic: short, and of plain letters."""
        digest = blake2s(f"{self._schema}\0{topic}".encode(), digest_size=16).hexdigest()
        return f"dagster_taskiq_{digest}"

    def claim(self, connection: Connection, wanted: dict[str, Any]) -> Row[Any] | None:
        """Claim a message; ``wanted`` has the parameters of ``_CLAIM``."""
        return connection.execute(self._claim, wanted).one_or_none()

    def upkeep(self, connection: Connection, wanted: dict[str, Any]) -> bool:
        """Free what is to be claimed again, and what is due; return whether a message may wait.

        Args:
            connection: that of the claim.
            wanted: the parameters of ``_UPKEEP``.
        """
        return bool(connection.execute(self._upkeep, wanted).scalar_one())

    def _names(self) -> dict[str, Any]:
        schema = quoted(self._schema)
        return {
            "messages": f"{schema}.{messages.name}",
            "notifications": f"{schema}.{notifications.name}",
            "now": NOW,
            "salt": LOCK_SALT,
        }


class PostgresqlClaims(SqlClaims):
    """Claims for one broker."""

    def __init__(self, settings: Settings, dialect: PostgresqlDialect) -> None:
        self._dialect = dialect
        self._mine = {"prefix": settings.prefix, "lease": settings.lease, "limit": UPKEEP_LIMIT}
        self._upkeep_at = 0.0

    def may_find(self, queues: Sequence[str]) -> bool:
        """Return ``True``: a claim that finds nothing writes nothing."""
        return True

    def take(self, connection: Connection, queues: Sequence[str], consumer: str) -> Row[Any] | None:
        """Claim in one statement; look for what is due, or was claimed long ago, now and then."""
        if monotonic() >= self._upkeep_at and not self._upkeep(connection, queues):
            return None
        for candidates in CANDIDATES:
            wanted = {**self._wanted(queues), "consumer": consumer, "candidates": candidates}
            row = self._dialect.claim(connection, wanted)
            if row is not None or not self._upkeep(connection, queues):
                return row
        return None

    def _upkeep(self, connection: Connection, queues: Sequence[str]) -> bool:
        may_find = self._dialect.upkeep(connection, {**self._mine, "queues": list(queues)})
        self._upkeep_at = monotonic() + UPKEEP_SECONDS
        return may_find

    def _wanted(self, queues: Sequence[str]) -> dict[str, Any]:
        return {"prefix": self._mine["prefix"], "queues": list(queues)}


def _lock_statement() -> "sa.Select[Any]":
    locked = (
        sa.select(tasks).where(IS_ONE_OF).order_by(tasks.c.id).with_for_update().lateral("locked")
    )
    one = sa.select(sa.literal_column("1")).subquery("one")
    now = sa.literal_column(NOW, sa.Float).label("now")
    return sa.select(now, *locked.c).select_from(one.outerjoin(locked, sa.true()))


#: The rows of some tasks, locked, and the time then; one row without a task if there are none.
_LOCKED = _lock_statement()
