"""Conditions on rows that more than one statement has."""

import sqlalchemy as sa

from dagster_taskiq.transport.sql.tables import messages, tasks

#: A task is one of those with the parameters ``prefix`` and ``ids``.
IS_ONE_OF = sa.and_(
    tasks.c.prefix == sa.bindparam("prefix"), tasks.c.id.in_(sa.bindparam("ids", expanding=True))
)


def is_free(stale: "sa.ColumnElement[float]") -> "sa.ColumnElement[bool]":
    """Return the condition that a message is not rejected, and that no claim on it counts.

    Args:
        stale: a claim that was made before this time does not count.
    """
    claim = messages.c.claimed_at
    return sa.and_(messages.c.rejected.is_(None), sa.or_(claim.is_(None), claim < stale))
