"""The broker and backend on PostgreSQL: what depends on a server that many write to at once."""

import asyncio
import contextlib
import json
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import psycopg2
import pytest
import sqlalchemy as sa

from compat_tests.conftest import StartWorker
from compat_tests.contract.test_broker import body_of, claim_all, ids, opened, put
from compat_tests.sending import USER_TASKS, open_sender
from compat_tests.servers import new_database, with_driver
from compat_tests.waiting import eventually, eventually_async
from compat_tests.workers import WorkerProcess
from dagster_taskiq.errors import ConfigError, MissingExtraError, ServerUnavailableError
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.transport import registry
from dagster_taskiq.transport.broker import QueueBroker
from dagster_taskiq.transport.sql import tables
from dagster_taskiq.transport.sql.backend import SqlBackend
from dagster_taskiq.transport.sql.broker import SqlBroker
from dagster_taskiq.transport.sql.postgresql import database, ddl, dialect, wakeups
from dagster_taskiq.transport.sql.postgresql.database import PostgresqlDatabase
from dagster_taskiq.transport.sql.postgresql.url import read_url
from dagster_taskiq.wire.notifications import FROM_START
from dagster_taskiq.wire.records import Task, TaskState

pytestmark = pytest.mark.anyio

#: Longer than any test.
FOR_EVER = 600.0


@pytest.fixture
def broker_kind() -> str:
    return "postgresql"


@pytest.fixture
async def broker(settings: Settings) -> AsyncIterator[SqlBroker]:
    async with opened(settings) as broker:
        assert isinstance(broker, SqlBroker)
        yield broker


@asynccontextmanager
async def backends(settings: Settings, count: int) -> AsyncIterator[list[SqlBackend]]:
    async with AsyncExitStack() as stack:
        found = []
        for _ in range(count):
            backend = registry.make_backend(settings)
            assert isinstance(backend, SqlBackend)
            backend.home.use_running_loop()
            await backend.startup()
            stack.push_async_callback(backend.shutdown)
            found.append(backend)
        yield found


@contextmanager
def server(url: str) -> Iterator[Callable[..., list[tuple[Any, ...]]]]:
    """Yield what executes a statement on a connection of its own."""
    with contextlib.closing(psycopg2.connect(url.partition("?")[0])) as connection:
        connection.autocommit = True
        cursor = connection.cursor()

        def execute(statement: str, *parameters: object) -> list[tuple[Any, ...]]:
            cursor.execute(statement, parameters or None)
            return cursor.fetchall() if cursor.description else []

        yield execute


def schema_of(settings: Settings) -> str:
    return read_url(settings.broker, {}, 1.0).schema


# -- claims ----------------------------------------------------------------------------------

#: A backlog: five queues with 20,000 messages each of several priorities, some delayed or claimed.
BACKLOG = """
INSERT INTO {table} (prefix, queue, priority, task_id, created_at, due_at, claimed_at, body)
SELECT %s, 'queue-' || number %% 5, number %% 7, number::text, 0,
    CASE WHEN number %% 11 = 0 THEN 4e9 ELSE 0 END,
    CASE WHEN number %% 13 = 0 THEN 4e9 END, 'body'
FROM generate_series(1, 100000) AS number
"""


def scans(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the parts of a plan that read a table, or sort."""
    if "Relation Name" in plan or plan["Node Type"] == "Sort":
        yield plan
    for each in plan.get("Plans", ()):
        yield from scans(each)


@pytest.mark.parametrize("analyzed", [True, False], ids=["statistics", "no statistics"])
async def test_a_claim_among_100000_messages_reads_only_a_few_rows(
    settings: Settings, broker: SqlBroker, analyzed: bool
) -> None:
    await broker.ping()
    table = f"{schema_of(settings)}.dagster_taskiq_messages"
    with server(settings.broker) as execute:
        execute(f"ALTER TABLE {table} SET (autovacuum_enabled = false)")
        execute(BACKLOG.format(table=table), settings.prefix)
        if analyzed:
            execute(f"ANALYZE {table}")
    statements: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        statements.append((statement, parameters))

    def plans(connection: sa.engine.Connection) -> list[dict[str, Any]]:
        queues = [f"queue-{number}" for number in range(5)]
        claims = broker.connection.claims(settings)
        sa.event.listen(connection, "before_cursor_execute", note)
        assert claims.take(connection, queues, "a") is not None
        sa.event.remove(connection, "before_cursor_execute", note)
        found = []
        for statement, parameters in statements:
            explain = f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}"
            result = connection.exec_driver_sql(explain, parameters).scalar_one()
            found.append((result if isinstance(result, list) else json.loads(result))[0]["Plan"])
        return found

    claims_and_upkeep = await broker.connection.run(plans)
    assert len(claims_and_upkeep) == 2
    for plan in claims_and_upkeep:
        for each in scans(plan):
            assert each["Node Type"] != "Seq Scan", plan
            assert each["Actual Rows"] * each["Actual Loops"] <= 200, plan


async def test_claimers_of_several_queues_do_not_hide_messages_from_each_other(
    settings: Settings, broker: SqlBroker
) -> None:
    async with AsyncExitStack() as stack:
        claimers: list[QueueBroker] = []
        for number in range(6):
            other = await stack.enter_async_context(opened(settings, f"claimer {number}"))
            other.queues = ("q", "p", "r")
            claimers.append(other)
        for turn in range(5):
            for number, _ in enumerate(claimers):
                await put(broker, f"{turn}-{number}", queue=("q", "p", "r")[number % 3])
            found = await asyncio.gather(*(each.claim() for each in claimers))
            claimed = sorted(each.task_id for each in found if each is not None)
            assert claimed == sorted(f"{turn}-{number}" for number, _ in enumerate(claimers))


async def test_a_claim_finds_more_than_the_first_messages_that_others_hold_locked(
    settings: Settings, broker: SqlBroker
) -> None:
    count = dialect.CANDIDATES[0] + 3
    await put(broker, *(f"t{number:02}" for number in range(count)))
    table = f"{schema_of(settings)}.dagster_taskiq_messages"
    with contextlib.closing(psycopg2.connect(settings.broker.partition("?")[0])) as holder:
        locked = f"SELECT FROM {table} ORDER BY id LIMIT {count - 1} FOR UPDATE"
        holder.cursor().execute(locked)
        assert [each.task_id for each in await claim_all(broker)] == [f"t{count - 1:02}"]
    assert len(await ids(broker)) == count - 1


# -- notifications ----------------------------------------------------------------------------


async def test_a_notification_that_becomes_visible_late_is_not_missed(settings: Settings) -> None:
    async with backends(settings, 3) as (slow, fast, reader):
        inserted, commit = threading.Event(), threading.Event()

        def post_slowly(connection: sa.engine.Connection) -> None:
            # It has its id, and is committed when the test says so.
            slow.records.post(connection, "c", [{"n": 1}])
            inserted.set()
            assert commit.wait(FOR_EVER)

        first = asyncio.ensure_future(slow.connection.write(post_slowly))
        await asyncio.to_thread(inserted.wait)
        second = asyncio.ensure_future(fast.post("c", {"n": 2}))
        other = asyncio.ensure_future(reader.post("another", {}))
        await other  # only those of one channel wait for each other
        seen = await reader.collect("c", FROM_START, 0.5)
        commit.set()
        await asyncio.gather(first, second)
        cursor = seen[-1].cursor if seen else FROM_START
        seen += await reader.collect("c", cursor, 0)
        assert [each.body["n"] for each in seen] == [1, 2]


async def test_waiters_are_woken_by_notifications_after_the_connection_was_lost_too(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with backends(settings, 2) as (sender, reader):
        assert isinstance(reader.connection, PostgresqlDatabase)
        its = reader.connection._wakeups
        for number in range(2):
            waiting = asyncio.ensure_future(reader.collect(f"c{number}", FROM_START, FOR_EVER))
            await eventually_async(lambda: _true(its.is_listening))
            monkeypatch.setattr(wakeups, "FALLBACK_SECONDS", FOR_EVER)
            await sender.post(f"c{number}", {"n": number})
            assert [each.body["n"] for each in await waiting] == [number]
            with server(settings.broker) as execute:
                execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE pid <> pg_backend_pid() AND application_name = 'dagster-taskiq'"
                )
            await eventually_async(lambda: _true(not its.is_listening))


async def test_nothing_is_missed_where_only_what_was_announced_is_looked_for(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with backends(settings, 2) as (sender, reader), opened(settings) as broker:
        assert isinstance(reader.connection, PostgresqlDatabase)
        its = reader.connection._wakeups
        waiting = asyncio.ensure_future(reader.collect("c", FROM_START, FOR_EVER))
        await eventually_async(lambda: _true(its.is_listening))
        monkeypatch.setattr(wakeups, "FALLBACK_SECONDS", FOR_EVER)
        await sender.post("c", {"n": 0})
        cursor = (await waiting)[-1].cursor
        for number in range(1, 20):
            await sender.post("c", {"n": number})
            (found,) = await reader.collect("c", cursor, FOR_EVER)
            assert found.body["n"] == number
            cursor = found.cursor
            assert await reader.collect("c", cursor, 0.01) == []
        # Another reader looks for something else, and one that cannot wait looks in any case.
        assert len(await reader.collect("c", FROM_START, FOR_EVER)) == 20
        await sender.post("c", {"n": 20})
        assert [each.body["n"] for each in await reader.collect("c", cursor, 0)] == [20]

        listener = aiter(broker.listen())
        async with opened(settings) as other:
            for number in range(20):
                await put(other, f"t{number}")
                message = await anext(listener)
                assert await broker.claim_next() is None
                await message.ack()


async def _true(value: bool) -> bool:
    return value


async def test_behind_a_pooler_that_drops_notifications_waiters_look_for_themselves(
    settings: Settings,
    pgbouncer_url: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(wakeups, "TEST_SECONDS", 0.5)
    pooled = settings.replace(broker=f"{pgbouncer_url}?{urlsplit(settings.broker).query}")
    async with opened(pooled) as broker, backends(pooled, 2) as (sender, reader):
        with caplog.at_level(logging.WARNING, "dagster_taskiq.broker"):
            waiting = asyncio.ensure_future(reader.collect("c", FROM_START, FOR_EVER))
            await eventually_async(lambda: _true(bool(caplog.records)))
        assert "does not pass on notifications" in caplog.text
        await sender.post("c", {"n": 1})
        assert [each.body for each in await waiting] == [{"n": 1}]
        await broker.wait_for_work(0.1)
        await put(broker, "t")
        assert await ids(broker) == ["t"]
        task = Task("t", worker="w", run_id="r", step_key="s")
        assert await sender.start(task) is None
        assert await sender.start(task) is TaskState.STARTED
        assert await sender.finish(task, TaskState.SUCCESS, "", b"1")
    assert len(caplog.records) == 1


# -- tables -----------------------------------------------------------------------------------


async def test_the_tables_are_those_of_the_other_databases(
    settings: Settings, broker: SqlBroker
) -> None:
    await broker.ping()
    inspector = sa.inspect(sa.create_engine(with_driver(settings.broker.partition("?")[0])))
    schema = schema_of(settings)
    for table in tables.metadata.sorted_tables:
        there = {each["name"]: each for each in inspector.get_columns(table.name, schema)}
        assert list(there) == [column.name for column in table.columns] or set(there) == {
            column.name for column in table.columns
        }
        for column in table.columns:
            found = there[column.name]
            assert found["nullable"] == column.nullable, column
            expected = column.type.dialect_impl(sa.dialects.postgresql.dialect())
            assert isinstance(found["type"], _family(expected)), column
        key = inspector.get_pk_constraint(table.name, schema)["constrained_columns"]
        assert key == [column.name for column in table.primary_key]


def _family(wanted: object) -> type:
    kinds = (sa.Boolean, sa.BigInteger, sa.Integer, sa.Float, sa.LargeBinary)
    return next((kind for kind in kinds if isinstance(wanted, kind)), sa.Text)


async def test_processes_may_open_a_new_database_at_once(settings: Settings) -> None:
    async with AsyncExitStack() as stack:
        opening = [stack.enter_async_context(opened(settings, f"c{each}")) for each in range(6)]
        brokers = await asyncio.gather(*opening)
        await asyncio.gather(*(each.ping() for each in brokers))
        await put(brokers[0], "t")
        assert await ids(brokers[1]) == ["t"]


async def test_a_newer_release_may_have_added_to_the_tables(
    settings: Settings, broker: SqlBroker
) -> None:
    await broker.ping()
    schema = schema_of(settings)
    with server(settings.broker) as execute:
        execute(f"INSERT INTO {schema}.dagster_taskiq_schema (version) VALUES (1000)")
        execute(f"ALTER TABLE {schema}.dagster_taskiq_messages ADD COLUMN newer text")
    async with opened(settings, "b") as other:
        await put(other, "t")
        assert await ids(other) == ["t"]


async def test_tables_that_an_administrator_has_made_are_enough(postgres_url: str) -> None:
    with new_database(postgres_url) as url, server(url) as execute:
        role = f"plain_{time.monotonic_ns()}"
        execute(f"CREATE ROLE {role} LOGIN")
        plain = urlsplit(url)._replace(netloc=f"{role}@{urlsplit(url).netloc.partition('@')[2]}")
        settings = Settings(broker=plain.geturl())
        async with opened(settings) as broker:
            with pytest.raises(ConfigError, match="dagster-taskiq storage ddl"):
                await broker.ping()
        listed = settings.replace(broker=f"{settings.broker}?create_tables=false")
        async with opened(listed) as broker:
            with pytest.raises(ConfigError, match="should_autocreate_tables"):
                await broker.ping()
        execute(ddl.full_ddl("dagster_taskiq"))
        execute(ddl.full_ddl("second"))
        execute(
            f"GRANT USAGE ON SCHEMA dagster_taskiq TO {role};"
            f"GRANT ALL ON ALL TABLES IN SCHEMA dagster_taskiq TO {role};"
        )
        for each in (settings, listed):
            async with opened(each) as broker:
                await put(broker, "t")
                assert await ids(broker) == ["t"]
        execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


async def test_the_tables_of_an_older_release_get_what_they_lack(postgres_url: str) -> None:
    with new_database(postgres_url) as url, server(url) as execute:
        quoted = ddl.quoted(ddl.DEFAULT_SCHEMA)
        execute(f"CREATE SCHEMA {quoted}")
        execute(ddl.STEPS[0].read_text().replace("{schema}", quoted))
        execute(
            f"INSERT INTO {quoted}.dagster_taskiq_tasks VALUES"
            " ('p', 't', 'own', 'q', '', '', 'STARTED', 'w1', 1, 2, 0, '', false, NULL)"
        )
        async with backends(Settings(broker=url, prefix="p"), 1) as (backend,):
            task = Task("t", worker="w1")
            assert await backend.put_back(task, None)
            assert await backend.start(replace(task, attempt=1)) is None
        assert execute(f"SELECT max(version) FROM {quoted}.dagster_taskiq_schema") == [
            (ddl.VERSION,)
        ]


# -- times, texts ---------------------------------------------------------------------------


async def test_a_machine_with_a_wrong_clock_changes_nothing(
    settings: Settings, broker: SqlBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time
    async with opened(settings, "b") as other, backends(settings, 1) as (backend,):
        await put(broker, "t")
        assert await broker.claim() is not None
        with monkeypatch.context() as wrong:
            wrong.setattr(time, "time", lambda: now() + 86400)
            assert await other.claim() is None
            await other.put("late", "q", 0, body_of("late"), delay=FOR_EVER)
            await backend.submitted([Task("t")])
            assert await backend.start(Task("t", worker="w")) is None
        assert await other.claim() is None
        (row,) = await other.depths()
        assert (row.waiting, row.claimed) == (1, 1)
        assert row.oldest_age < FOR_EVER
        task = (await backend.tasks(["t"]))["t"]
        assert task.started_at - now() < FOR_EVER


async def test_a_text_with_a_character_that_postgresql_cannot_store_is_recorded(
    settings: Settings, broker: SqlBroker
) -> None:
    async with backends(settings, 1) as (backend,):
        task = Task("t", worker="w", run_id="r\0", step_key="s")
        assert await backend.start(task) is None
        assert await backend.finish(task, TaskState.FAILURE, "a NUL: \0", None)
        (found,) = (await backend.tasks(["t"])).values()
        assert (found.state, found.error) == (TaskState.FAILURE, "a NUL: \ufffd")
        assert len(await backend.collect("run:r\0", FROM_START, 0)) == 1
        await put(broker, "u\0")
        assert await broker.discard(["u\0"]) == 1


# -- faults -----------------------------------------------------------------------------------


async def test_a_connection_that_the_server_has_closed_is_made_anew(
    settings: Settings, broker: SqlBroker
) -> None:
    await put(broker, "t")
    with server(settings.broker) as execute:
        execute(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity "
            "WHERE pid <> pg_backend_pid() AND application_name = 'dagster-taskiq'"
        )
    assert await ids(broker) == ["t"]


async def test_a_statement_that_does_not_end_is_given_up(
    settings: Settings, broker: SqlBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    await broker.ping()
    monkeypatch.setattr(database, "STATEMENT_SECONDS", 0.2)
    with contextlib.closing(psycopg2.connect(settings.broker.partition("?")[0])) as holder:
        holder.cursor().execute(f"LOCK TABLE {schema_of(settings)}.dagster_taskiq_messages")
        with pytest.raises(ServerUnavailableError):
            await put(broker, "t")
    await put(broker, "u")
    assert "u" in await ids(broker)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        (lambda url: f"{url}_not_there", ConfigError, "Check the database"),
        (lambda url: url.replace("postgres@", "nobody_here@"), ConfigError, "Check the user"),
        (lambda url: f"{url}?sslmode=require", ConfigError, "Check `sslmode`"),
        (lambda url: f"{url}?sslmode=perhaps", ConfigError, "Check the parameters"),
        (lambda url: url.replace("127.0.0.1:", "127.0.0.1:x"), ConfigError, "Check the parameters"),
        (lambda url: f"{url}?options=-cdefault_transaction_read_only%3Don", None, "read-only"),
        (lambda url: url.replace("127.0.0.1", "127.0.0.2"), None, "Connection refused"),
    ],
    ids=["database", "user", "ssl", "parameter", "port", "read-only", "down"],
)
async def test_a_server_that_cannot_be_used_is_reported_with_what_to_check(
    database_url: str,
    change: Callable[[str], str],
    error: type[Exception] | None,
    text: str,
) -> None:
    async with opened(Settings(broker=change(database_url))) as broker:
        with pytest.raises(error or ServerUnavailableError, match=text):
            await broker.ping()
            await put(broker, "t")


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:s3cret@host/db?nonsense=1",
        "postgresql://u:s3cret@host/db?schema=",
        f"postgresql://u:s3cret@host/db?schema={'x' * 64}",
    ],
)
def test_a_url_that_cannot_be_read_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        registry.make(Settings(broker=url))
    assert "s3cret" not in str(caught.value)


def test_without_the_driver_the_error_has_the_line_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import sys

    for module in [each for each in sys.modules if "transport.sql.postgresql" in each]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "psycopg2", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'dagster-taskiq\[postgres\]'"):
        registry.make(Settings(broker="postgresql://host/db"))


# -- connections ------------------------------------------------------------------------------


def connections_of(worker: WorkerProcess, url: str) -> int:
    """Return how many connections to a server a worker has, with all its children."""
    port = urlsplit(url).port
    parent = psutil.Process(worker.pid)
    count = 0
    for process in (parent, *parent.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            found = process.net_connections("tcp")
            count += sum(bool(each.raddr) and each.raddr.port == port for each in found)
    return count


def test_children_that_wait_use_the_connections_of_their_worker(
    settings: Settings, start_worker: StartWorker, tmp_path: Path
) -> None:
    worker = start_worker("-i", USER_TASKS, "-c", "3")
    with open_sender(settings) as sender:
        started = tmp_path / "started"
        sent = [sender.send("wait_for_notification", str(started), f"c{n}") for n in range(3)]
        eventually(lambda: started.exists() and len(started.read_text().splitlines()) == 3)
        # The one for statements, and the one for wake-ups.
        eventually(lambda: connections_of(worker, settings.broker) == 2)
        backend = sender.broker.result_backend
        for number in range(3):
            sender.call(backend.post, f"c{number}", {"n": number})
        assert [sender.value(each) for each in sent] == [{"n": n} for n in range(3)]
        assert connections_of(worker, settings.broker) == 2
