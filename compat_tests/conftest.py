"""Fixtures that every test may use: servers, a Dagster home, settings, workers."""

import asyncio
import contextlib
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import aiormq
import hypothesis
import pytest
from dagster import DagsterInstance

from compat_tests.brokers import (
    BROKERS,
    OLD_RABBITMQ,
    PGBOUNCER,
    POSTGRES_STORAGE,
    SQS,
    STATES_ON,
)
from compat_tests.late_rows import LateRows
from compat_tests.old_servers import old_rabbit, old_redis
from compat_tests.preloaded import share_programs
from compat_tests.servers import (
    any_postgres,
    any_rabbit,
    any_redis,
    new_database,
    own_pgbouncer,
    with_driver,
)
from compat_tests.sqs_servers import REGION, any_sqs, forget_on_sqs, use_priority
from compat_tests.workers import WorkerProcess, running_worker
from dagster_taskiq import client
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.transport.rabbitmq.records import RECORD_NAMES, TASK_RECORDS

# The same examples in every run, however slow the machine is.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("repeatable")

#: For tests of what depends on the storage as well as on the broker.
on_each_broker_and_storage = pytest.mark.parametrize(
    "fleet", [*BROKERS, POSTGRES_STORAGE], indirect=True
)

pytest_plugins = ["compat_tests.tiers", "compat_tests.side_by_side"]

#: A project with tests of its own, which are run as its own (worker/test_testing.py).
collect_ignore = ["own_project"]

StartWorker = Callable[..., WorkerProcess]


def pytest_configure() -> None:
    """Have the processes of pytest-xdist, which are started later, fork programs from the same."""
    share_programs()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the figures that tests have reported (``figure`` of the fault tests)."""
    reports = [each for each in terminalreporter.getreports("passed") if each.when == "call"]
    measured = [each for each in reports if each.user_properties]
    if measured:
        terminalreporter.section("figures")
    for report in sorted(measured, key=lambda each: str(each.nodeid)):
        terminalreporter.line(report.nodeid.removeprefix("compat_tests/"))
        for what, value in report.user_properties:
            terminalreporter.line(f"    {what}: {value}")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Async tests run on asyncio, which is what taskiq is written for."""
    return "asyncio"


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    with any_redis() as url:
        yield url


@pytest.fixture(scope="session")
def redis_6_0_url() -> Iterator[str]:
    with old_redis() as url:
        yield url


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """The URL of a PostgreSQL, for :func:`new_database`."""
    with any_postgres() as url:
        yield url


@pytest.fixture(scope="session")
def database_url(postgres_url: str) -> Iterator[str]:
    """The URL of a database that one process of the tests has for Dagster's storage."""
    with new_database(postgres_url) as url:
        yield url


@pytest.fixture(scope="session")
def pgbouncer_url(database_url: str) -> Iterator[str]:
    """The URL of that database behind a pooler in transaction mode."""
    with own_pgbouncer(database_url) as url:
        yield url


@pytest.fixture
def late_rows(database_url: str) -> Iterator[LateRows]:
    """The event log of the instances that are on PostgreSQL, whose rows a test may delay."""
    rows = LateRows(database_url)
    yield rows
    rows.close()


def storage_of(kind: str, request: pytest.FixtureRequest) -> dict[str, Any]:
    """Return what is to stand in ``dagster.yaml`` for a kind of broker, or of storage."""
    if kind != POSTGRES_STORAGE:
        return {}
    url = str(request.getfixturevalue("database_url"))
    return {"storage": {"postgres": {"postgres_url": with_driver(url)}}}


@pytest.fixture(scope="session")
def rabbitmq_url(meeting_place: Path) -> Iterator[str]:
    with any_rabbit(meeting_place) as url:
        yield url


@pytest.fixture(scope="session")
def rabbitmq_3_8_url(meeting_place: Path) -> Iterator[str]:
    with old_rabbit(meeting_place) as url:
        yield url


@pytest.fixture(scope="session")
def sqs_endpoint() -> Iterator[str]:
    with any_sqs() as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def meeting_place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory that is shared by all processes of one run of the tests."""
    base = tmp_path_factory.getbasetemp()
    # Each process of pytest-xdist has a directory of its own in one that they share.
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session", params=BROKERS)
def broker_kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def make_settings(kind: str, directory: Path, request: pytest.FixtureRequest) -> Settings:
    """Return settings for a broker that nothing else uses: a file, or a prefix, of its own."""
    if kind in ("embedded", POSTGRES_STORAGE):
        url = f"sqlite:///{directory / 'queue.db'}"
    elif kind == "memory":
        url = f"memory://{uuid.uuid4().hex}"
    elif kind in ("postgresql", PGBOUNCER):
        fixture = "pgbouncer_url" if kind == PGBOUNCER else "database_url"
        url = f"{request.getfixturevalue(fixture)}?schema=test_{uuid.uuid4().hex[:12]}"
    elif kind in SQS:
        url = f"sqs://{REGION}"
    else:
        url = request.getfixturevalue(f"{kind}_url")
    prefix = f"test-{uuid.uuid4().hex[:12]}"
    backend, lease = None, 4.0
    options: dict[str, Any] = {}
    if kind in ("rabbitmq", OLD_RABBITMQ):
        # The lease is that of connections as well, of which the server wants to hear three times.
        backend, lease = "rpc://", 8.0
        # What lasts as long as the server does not crowd it, and may still be in use when it ends.
        if request.scope != "session":
            request.addfinalizer(lambda: asyncio.run(forget_on_rabbitmq(url, prefix)))
    if kind in STATES_ON:
        backend = make_settings(STATES_ON[kind], directory, request).broker
    if kind in SQS:
        options["endpoint_url"] = endpoint = request.getfixturevalue("sqs_endpoint")
        # A broker that has listened ends when its polls do.
        options["wait_time_seconds"] = 1
        if request.scope != "session":
            request.addfinalizer(lambda: forget_on_sqs(endpoint, prefix))
    settings = Settings(
        broker=url,
        backend=backend,
        prefix=prefix,
        heartbeat_interval=0.5,
        lease=lease,
        broker_options=options,
    )
    if kind in SQS:
        use_priority(endpoint, prefix, settings.queue, 1)
    return settings


def other_prefix(prefix: str) -> str:
    """Return the prefix of somebody else on the same server."""
    return f"{prefix}-other"


#: The queues that tests send to.
QUEUES = (
    *("dagster", "queue", "standard", "special", "other", "elsewhere", "gpu", "side", "second"),
    *("a", "b", "c", "p", "q", "q2", "q3"),
)


async def forget_on_rabbitmq(url: str, prefix: str) -> None:
    """Delete what a test has left on a server that others use, as far as its name is known.

    What has the name of a task or a run is left: it expires.
    """
    names = [f"record:{each}" for each in RECORD_NAMES]
    names += [f"ended:{each}" for each in TASK_RECORDS]
    names += [f"queue:{each}{end}" for each in QUEUES for end in ("", ":runs")]
    # At the end of all tests our own server goes before, or meanwhile, with all that was on it.
    with contextlib.suppress(aiormq.exceptions.AMQPError, OSError):
        connection = await aiormq.connect(url)
        channel = await connection.channel()
        for each in (prefix, other_prefix(prefix)):
            for exchange in ("records", "notifications", "wakeups"):
                await channel.exchange_delete(f"{each}:{exchange}")
            for name in (*names, "rejected"):
                await channel.queue_delete(f"{each}:{name}")
        await connection.close()


@pytest.fixture
def settings(
    broker_kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Settings]:
    made = make_settings(broker_kind, tmp_path, request)
    yield made
    close_files_of(made)


def close_files_of(settings: Settings) -> None:
    """Close what clients have open of the embedded broker of a test.

    It would stay open as long as the process of the tests. Each file takes a notice of changes, of
    which a user has 128 on many systems.
    """
    for key, each in list(client._clients.items()):
        if each.settings.prefix == settings.prefix and each.settings.broker.startswith("sqlite"):
            del client._clients[key]
            each.close()


@pytest.fixture
def new_dagster_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A ``DAGSTER_HOME`` that no instance has been opened in."""
    home = tmp_path / "home"
    home.mkdir()
    write_dagster_yaml(home)
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    return home


@pytest.fixture(scope="session")
def home_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose SQLite files Dagster has set up, which takes it longer than many a test."""
    home = tmp_path_factory.mktemp("home-template")
    write_dagster_yaml(home)
    DagsterInstance.from_config(str(home)).dispose()
    return home


@pytest.fixture
def dagster_home(home_template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A ``DAGSTER_HOME`` of the test's own, without runs."""
    home = tmp_path / "home"
    shutil.copytree(home_template, home)
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    return home


def write_dagster_yaml(home: Path, more: str = "") -> None:
    """Write an instance's config, with more lines if there are any."""
    (home / "dagster.yaml").write_text(f"telemetry: {{enabled: false}}\n{more}")


@pytest.fixture
def instance(dagster_home: Path) -> Iterator[DagsterInstance]:
    with DagsterInstance.get() as instance:
        yield instance


@pytest.fixture
def start_worker(settings: Settings, dagster_home: Path, tmp_path: Path) -> Iterator[StartWorker]:
    """Start workers of ``settings`` with more arguments; they are ended with the test."""
    with ExitStack() as stack:
        count = 0

        def start(*arguments: str, name: str = "", **changes: object) -> WorkerProcess:
            nonlocal count
            count += 1
            mine = settings.replace(**changes) if changes else settings
            chosen = name or f"w{count}"
            return stack.enter_context(running_worker(mine, tmp_path, *arguments, name=chosen))

        yield start
