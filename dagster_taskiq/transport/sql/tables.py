"""The tables of the SQL broker and backend."""

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
    # Nobody claims the message before; 0 for one that was not delayed.
    sa.Column("due_at", sa.Float, nullable=False, server_default="0"),
    # Set while a worker holds the message; a claim older than the lease counts for nothing.
    sa.Column("claimed_by", sa.String(200)),
    sa.Column("claimed_at", sa.Float),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    # Why the message was set aside; one with a reason is never claimed.
    sa.Column("rejected", sa.Text),
    # The last one: what stands behind a large value is slow to read.
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
    # Ids are the cursors of readers, so one that was deleted must never come again.
    sqlite_autoincrement=True,
)
