"""Putting messages into their table, in a transaction of the broker's or of the backend's."""

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dagster_taskiq.transport.messages import Outgoing
from dagster_taskiq.transport.sql.dialect import SqlDialect, queue_topic
from dagster_taskiq.transport.sql.tables import messages as table


class SqlSender:
    """Inserts messages of one prefix, and wakes listeners of their queues."""

    def __init__(self, dialect: SqlDialect, prefix: str) -> None:
        self._dialect = dialect
        self._prefix = prefix
        delay = sa.bindparam("delay", type_=sa.Float)
        #: Inserts messages, whose times are set by the clock that all processes have in common.
        self._insert = table.insert().values(
            created_at=dialect.clock,
            due_at=sa.case((delay > 0, dialect.clock + delay), else_=0.0),
        )

    def put(self, connection: Connection, messages: Sequence[Outgoing]) -> None:
        """Insert rows, and announce them."""
        clock = self._dialect.clock_values()
        rows = [
            {
                "prefix": self._prefix,
                "queue": each.queue,
                "priority": each.priority,
                "task_id": each.task_id,
                "own_task": each.own_task,
                "attempt": each.attempt,
                "body": each.body,
                "delay": each.delay,
                **clock,
            }
            for each in messages
        ]
        connection.execute(self._insert, rows)
        self.announce(connection, list(dict.fromkeys(each.queue for each in messages)))

    def announce(self, connection: Connection, queues: Sequence[str]) -> None:
        """Wake listeners, once the transaction is committed, because queues have messages."""
        self._dialect.announce(connection, self.topics(queues))

    def topics(self, queues: Sequence[str]) -> list[str]:
        """Return the topics of queues."""
        return [queue_topic(self._prefix, queue) for queue in queues]
