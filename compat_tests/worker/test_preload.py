"""What the fork server does once for all children."""

import pytest
from alembic.script import ScriptDirectory
from dagster._core.storage import sql
from dagster._core.storage.event_log.sqlite import sqlite_event_log
from dagster._core.storage.runs.sqlite import sqlite_run_storage

from dagster_taskiq.dagster_internals import migrations


@pytest.mark.oldest
def test_dagsters_inside_is_as_the_kept_migrations_expect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql, "ScriptDirectory", ScriptDirectory)
    assert migrations.install()
    configs = [
        sql.get_alembic_config(str(module.__file__))
        for module in (sqlite_event_log, sqlite_run_storage)
    ]
    kept = [sql.ScriptDirectory.from_config(config) for config in configs]
    assert kept[0] is kept[1]
    newest = {ScriptDirectory.from_config(config).as_revision_number("head") for config in configs}
    assert newest == {kept[0].as_revision_number("head")}


def test_where_dagsters_inside_is_otherwise_migrations_are_read_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(sql, "ScriptDirectory")
    assert not migrations.install()
    assert not hasattr(sql, "ScriptDirectory")
