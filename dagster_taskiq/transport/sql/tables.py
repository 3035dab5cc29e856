"""The tables of the SQL broker and backend.

===========================  ===================================================================
``dagster_taskiq_messages``  messages that wait, are claimed or were rejected, in order of arrival
``dagster_taskiq_tasks``     the record of each task (``wire.records.Task``), and its result
``dagster_taskiq_workers``   the record of each worker, with the time of its last heartbeat
``dagster_taskiq_mail``      the notifications of all channels
===========================  ===================================================================

All times are in seconds since the epoch, by the clock of the machine that writes them. ``prefix``
is that of the settings: brokers with different prefixes may share one database.
"""

import sqlalchemy as sa

metadata = sa.MetaData()


messages = sa.Table(
    "dagster_taskiq_messages",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("prefix", sa.String(200), nullable=False),
    sa.Column("queue", sa.String(200), nullable=False),
    sa.Column("priority", sa.Integer, nullable=False),
    sa.Column("task_id", sa.String(500), nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    # The message is not claimed before this time; 0 for one that is not delayed.
    sa.Column("due_at", sa.Float, nullable=False, server_default="0"),
    # The worker that has claimed the message, and when; a claim does not count after the lease.
    sa.Column("claimed_by", sa.String(200)),
    sa.Column("claimed_at", sa.Float),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    # Why the message was rejected; one with a reason is never claimed.
    sa.Column("rejected", sa.Text),
    # The last column: columns after a large value are slow to read.
    sa.Column("body", sa.LargeBinary, nullable=False),
)


tasks = sa.Table(
    "dagster_taskiq_tasks",
    metadata,
    sa.Column("id", sa.String(500), primary_key=True),
    sa.Column("prefix", sa.String(200), nullable=False),
    sa.Column("name", sa.String(500), nullable=False),
    sa.Column("queue", sa.String(200), nullable=False),
    sa.Column("run_id", sa.String(200), nullable=False),
    sa.Column("step_key", sa.Text, nullable=False),
    sa.Column("state", sa.String(20), nullable=False),
    sa.Column("worker", sa.String(200), nullable=False),
    sa.Column("submitted_at", sa.Float, nullable=False),
    sa.Column("started_at", sa.Float, nullable=False),
    sa.Column("finished_at", sa.Float, nullable=False),
    sa.Column("error", sa.Text, nullable=False),
    sa.Column("revoke_requested", sa.Boolean, nullable=False),
    sa.Column("result", sa.LargeBinary),
)


workers = sa.Table(
    "dagster_taskiq_workers",
    metadata,
    sa.Column("id", sa.String(200), primary_key=True),
    sa.Column("prefix", sa.String(200), nullable=False),
    sa.Column("beat_at", sa.Float, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
)


notifications = sa.Table(
    "dagster_taskiq_mail",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("channel", sa.String(500), nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),
    # Ids are the cursors of readers, so the id of a deleted row must not be used again.
    sqlite_autoincrement=True,
)

sa.Index("dagster_taskiq_messages_next", messages.c.queue, messages.c.priority, messages.c.id)
sa.Index("dagster_taskiq_messages_task", messages.c.task_id)
sa.Index("dagster_taskiq_tasks_finished", tasks.c.finished_at)
sa.Index("dagster_taskiq_mail_channel", notifications.c.channel, notifications.c.id)
