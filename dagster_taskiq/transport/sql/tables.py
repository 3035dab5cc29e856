"""The tables of the SQL broker and backend.

================================  ==============================================================
``dagster_taskiq_messages``       messages that wait, are claimed or were rejected, in order of
                                  arrival
``dagster_taskiq_tasks``          the record of each task (``wire.records.Task``), its progress
                                  and its result
``dagster_taskiq_workers``        the record of each worker, with the time of its last heartbeat
``dagster_taskiq_notifications``  the notifications of all channels
``dagster_taskiq_schedules``      the schedules that are made while a project runs, as JSON
``dagster_taskiq_firings``        the last firing of each schedule that a scheduler has claimed
================================  ==============================================================

All times are in seconds since the epoch, by the clock of the dialect (:mod:`.dialect`). ``prefix``
is that of the settings: brokers with different prefixes may share one database.

A SQLite file gets its tables from here. What PostgreSQL gets is in the files of
``postgresql/steps/``; a test compares them with this.
"""

from typing import Any

import sqlalchemy as sa

metadata = sa.MetaData()


class _PostgresText(sa.TypeDecorator[str]):
    """A text of any length. PostgreSQL stores every character but NUL, which is replaced."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: sa.Dialect) -> str | None:
        """Return what is sent to the database (SQLAlchemy's own hook)."""
        return value.replace("\0", "\ufffd") if value is not None else None


def _text(length: int | None = None) -> "sa.types.TypeEngine[Any]":
    """Return the type of a text; SQLite does not enforce its length."""
    plain = sa.String(length) if length else sa.Text()
    return plain.with_variant(_PostgresText(), "postgresql")


#: The type of an id, which the database sets; SQLite makes no other type of it.
_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


messages = sa.Table(
    "dagster_taskiq_messages",
    metadata,
    sa.Column("id", _ID, primary_key=True, autoincrement=True),
    sa.Column("prefix", _text(200), nullable=False),
    sa.Column("queue", _text(200), nullable=False),
    sa.Column("priority", sa.Integer, nullable=False),
    sa.Column("task_id", _text(500), nullable=False),
    # When it was sent; of a rejected message, when that was.
    sa.Column("created_at", sa.Float, nullable=False),
    # The message is not claimed before this time; 0 for one that is not delayed.
    sa.Column("due_at", sa.Float, nullable=False, server_default="0"),
    # The worker that has claimed the message, and when; a claim does not count after the lease.
    sa.Column("claimed_by", _text(200)),
    sa.Column("claimed_at", sa.Float),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    # The name of the task if it is a user's own, and which attempt of it the message is for.
    sa.Column("own_task", _text(500), nullable=False, server_default=""),
    sa.Column("attempt", sa.Integer, nullable=False, server_default="0"),
    # Why the message was rejected; one with a reason is never claimed.
    sa.Column("rejected", _text()),
    # The last column: columns after a large value are slow to read.
    sa.Column("body", sa.LargeBinary, nullable=False),
)


tasks = sa.Table(
    "dagster_taskiq_tasks",
    metadata,
    sa.Column("prefix", _text(200), primary_key=True),
    sa.Column("id", _text(500), primary_key=True),
    sa.Column("name", _text(500), nullable=False),
    sa.Column("queue", _text(200), nullable=False),
    sa.Column("run_id", _text(200), nullable=False),
    sa.Column("step_key", _text(), nullable=False),
    sa.Column("state", _text(20), nullable=False),
    sa.Column("worker", _text(200), nullable=False),
    sa.Column("submitted_at", sa.Float, nullable=False),
    sa.Column("started_at", sa.Float, nullable=False),
    sa.Column("finished_at", sa.Float, nullable=False),
    sa.Column("error", _text(), nullable=False),
    sa.Column("revoke_requested", sa.Boolean, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False, server_default="0"),
    # As JSON, like the result.
    sa.Column("progress", sa.LargeBinary),
    sa.Column("result", sa.LargeBinary),
)


workers = sa.Table(
    "dagster_taskiq_workers",
    metadata,
    sa.Column("id", _text(200), primary_key=True),
    sa.Column("prefix", _text(200), nullable=False),
    sa.Column("beat_at", sa.Float, nullable=False),
    sa.Column("body", _text(), nullable=False),
)


notifications = sa.Table(
    "dagster_taskiq_notifications",
    metadata,
    sa.Column("id", _ID, primary_key=True, autoincrement=True),
    sa.Column("channel", _text(500), nullable=False),
    sa.Column("body", _text(), nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    # Ids are the cursors of readers, so the id of a deleted row must not be used again.
    sqlite_autoincrement=True,
)


schedules = sa.Table(
    "dagster_taskiq_schedules",
    metadata,
    sa.Column("prefix", _text(200), primary_key=True),
    sa.Column("id", _text(500), primary_key=True),
    sa.Column("body", _text(), nullable=False),
)


firings = sa.Table(
    "dagster_taskiq_firings",
    metadata,
    sa.Column("prefix", _text(200), primary_key=True),
    sa.Column("schedule", _text(500), primary_key=True),
    sa.Column("due", sa.Float, nullable=False),
    sa.Column("claimant", _text(200), nullable=False),
    sa.Column("claimed_at", sa.Float, nullable=False),
    sa.Column("is_sent", sa.Boolean, nullable=False),
    # When the row may be deleted; 0 for never.
    sa.Column("forget_at", sa.Float, nullable=False),
)

sa.Index("dagster_taskiq_firings_forget", firings.c.forget_at)
sa.Index("dagster_taskiq_messages_next", messages.c.queue, messages.c.priority, messages.c.id)
sa.Index("dagster_taskiq_messages_task", messages.c.task_id)
sa.Index("dagster_taskiq_tasks_finished", tasks.c.finished_at)
sa.Index("dagster_taskiq_notifications_channel", notifications.c.channel, notifications.c.id)
