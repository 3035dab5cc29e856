"""What broker and backend raise if their server is unavailable: one error, from every method."""

import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg2
import pytest
import redis.exceptions as redis_errors
import sqlalchemy as sa
from aiormq import exceptions as rabbit_errors
from taskiq import BrokerMessage

from compat_tests.brokers import BROKERS, SQS, SQS_REDIS, STATES_ON
from compat_tests.contract import test_backend as states
from compat_tests.contract import test_broker as queues
from compat_tests.proxy import proxy_to
from compat_tests.sqs_door import sqs_door
from dagster_taskiq.errors import (
    ConfigError,
    DagsterTaskiqError,
    NoRecordError,
    ServerUnavailableError,
)
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.transport.backend import StateBackend
from dagster_taskiq.transport.broker import QueueBroker
from dagster_taskiq.transport.error_boundary import ErrorBoundary
from dagster_taskiq.transport.messages import Delivery, Outgoing
from dagster_taskiq.transport.rabbitmq.errors import RabbitErrors
from dagster_taskiq.transport.redis.errors import RedisErrors
from dagster_taskiq.transport.sql import tables
from dagster_taskiq.transport.sql.postgresql.errors import PostgresqlErrors
from dagster_taskiq.transport.sql.sqlite.errors import SqliteErrors
from dagster_taskiq.wire.notifications import FROM_START
from dagster_taskiq.wire.records import Task, TaskState

pytestmark = pytest.mark.anyio

MESSAGE = BrokerMessage(task_id="t", task_name="t", message=b"", labels={"queue_name": "q"})
TASK = replace(states.TASK, id="t", worker="w1")


async def prepare_nothing(task_ids: Sequence[str]) -> None:
    """Requeue without more."""


#: A call of each method of a broker, given a delivery that it has claimed.
BROKER_CALLS: dict[str, Callable[[QueueBroker, Delivery], Awaitable[Any]]] = {
    "ping": lambda broker, _: broker.ping(),
    "put_all": lambda broker, _: broker.put_all([Outgoing("t", "q", 0, b"")]),
    "kick": lambda broker, _: broker.kick(MESSAGE),
    "claim": lambda broker, _: broker.claim(),
    "wait_for_work": lambda broker, _: broker.wait_for_work(0.1),
    "discard": lambda broker, _: broker.discard(["t"]),
    "depths": lambda broker, _: broker.depths(),
    "rejected": lambda broker, _: broker.rejected(),
    "list_rejected": lambda broker, _: broker.list_rejected(1),
    "requeue_rejected": lambda broker, _: broker.requeue_rejected(["1-1"], prepare_nothing),
    "delete_rejected": lambda broker, _: broker.delete_rejected(["1-1"]),
    "acknowledge": lambda broker, delivery: broker.acknowledge(delivery),
    "release": lambda broker, delivery: broker.release(delivery),
    "reject": lambda broker, delivery: broker.reject(delivery, "it is not wanted"),
}
#: A call of each method of a backend.
BACKEND_CALLS: dict[str, Callable[[StateBackend], Awaitable[Any]]] = {
    "ping": lambda backend: backend.ping(),
    "submitted": lambda backend: backend.submitted([replace(TASK, id="new")]),
    "start": lambda backend: backend.start(TASK),
    "finish": lambda backend: backend.finish(TASK, TaskState.SUCCESS, "", b"1"),
    "put_back": lambda backend: backend.put_back(TASK, Outgoing("t", "q", 0, b"")),
    "conclude": lambda backend: backend.conclude(
        Task("new"), TaskState.FAILURE, "it never started", None
    ),
    "store_progress": lambda backend: backend.store_progress("t", b"1"),
    "load_progress": lambda backend: backend.load_progress("t"),
    "mark_lost": lambda backend: backend.mark_lost(TASK, "it is silent"),
    "revoke": lambda backend: backend.revoke(["t"], "it is not wanted"),
    "tasks": lambda backend: backend.tasks(["t"]),
    "beat": lambda backend: backend.beat(states.worker("w1", "t")),
    "deregister": lambda backend: backend.deregister("w1"),
    "workers": lambda backend: backend.workers(),
    "post": lambda backend: backend.post("c", {"n": 1}),
    "collect": lambda backend: backend.collect("c", FROM_START, 0.0),
    "close_channel": lambda backend: backend.close_channel("c"),
    "load_result": lambda backend: backend.load_result("t"),
    "forget": lambda backend: backend.forget(["t"]),
    "is_result_ready": lambda backend: backend.is_result_ready("t"),
    "get_result": lambda backend: backend.get_result("t"),
}
#: The methods that only read, or wait. Reading a SQLite file needs no lock.
READS = {
    *("ping", "wait_for_work", "depths", "rejected", "list_rejected", "tasks", "workers"),
    *("collect", "requeue_rejected"),
    *("load_result", "load_progress", "is_result_ready", "get_result"),
}


@contextmanager
def cut_off(settings: Settings) -> Iterator[tuple[Settings, Callable[[], None]]]:
    """Yield settings whose server is reached through a proxy, and what makes it unreachable."""
    parts = urlsplit(settings.broker)
    assert parts.port is not None
    with proxy_to(parts.port) as proxy:
        user, at, _ = parts.netloc.rpartition("@")
        url = parts._replace(netloc=f"{user}{at}127.0.0.1:{proxy.port}").geturl()
        yield settings.replace(broker=url, backend=url), proxy.refuse


@contextmanager
def throttled(settings: Settings) -> Iterator[tuple[Settings, Callable[[], None]]]:
    """Yield settings of an SQS that is behind a door, and what makes that throttle all requests."""
    with sqs_door(str(settings.broker_options["endpoint_url"])) as door:
        options = {**settings.broker_options, "endpoint_url": door.url}
        yield settings.replace(broker_options=options), door.throttle


@contextmanager
def refused(settings: Settings) -> Iterator[tuple[Settings, Callable[[], None]]]:
    """Yield settings of an SQS that is behind a door, and what closes that."""
    with sqs_door(str(settings.broker_options["endpoint_url"])) as door:
        options = {**settings.broker_options, "endpoint_url": door.url}
        yield settings.replace(broker_options=options), door.refuse


@contextmanager
def locked(settings: Settings) -> Iterator[tuple[Settings, Callable[[], None]]]:
    """Yield settings of a SQLite file, and what makes another program lock it."""
    path = settings.broker.removeprefix("sqlite:///")
    with ExitStack() as stack:

        def lock() -> None:
            holder = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            stack.enter_context(closing(holder))
            holder.execute("BEGIN IMMEDIATE")

        yield settings.replace(broker=f"{settings.broker}?timeout=0.05"), lock


@contextmanager
def emptied(settings: Settings) -> Iterator[tuple[Settings, Callable[[], None]]]:
    """Yield settings of a SQLite file, and what makes another program drop its tables."""
    path = Path(settings.broker.removeprefix("sqlite:///"))

    def drop() -> None:
        with closing(sqlite3.connect(path)) as connection, connection:
            for table in tables.metadata.sorted_tables:
                connection.execute(f"DROP TABLE {table.name}")

    yield settings, drop


#: How a server becomes unavailable, and the methods that work all the same.
FAULTS = {
    "redis": (cut_off, set()),
    # A message belongs to its connection: with that gone, the server has the message back.
    "rabbitmq": (cut_off, {"release", "reject"}),
    # Waiting returns sooner or later, and what looks then gets the error.
    "postgresql": (cut_off, {"wait_for_work"}),
    # Nothing can be asked to discard. Who has failed to delete a message, which comes before, holds
    # nothing any more that could be released.
    "throttled": (throttled, {"discard", "release"}),
    "refused": (refused, {"discard", "release"}),
    "locked": (locked, READS),
    "emptied": (emptied, {"ping", "wait_for_work"}),
}


#: Each with the kind of broker, and one of ``FAULTS``.
CASES = [
    pytest.param(("redis", "redis"), id="redis"),
    pytest.param(("rabbitmq", "rabbitmq"), id="rabbitmq"),
    pytest.param(("postgresql", "postgresql"), id="postgresql"),
    pytest.param(
        (SQS_REDIS, "throttled"),
        id="sqs_redis-throttled",
        marks=pytest.mark.test_all("sqs_redis-refused, and a run that is throttled in test_sqs.py"),
    ),
    pytest.param((SQS_REDIS, "refused"), id="sqs_redis-refused"),
    pytest.param(("embedded", "locked"), id="embedded-locked"),
    pytest.param(("embedded", "emptied"), id="embedded-emptied"),
]


def test_each_broker_becomes_unavailable_here() -> None:
    of_cases = {each.values[0][0] for each in CASES}
    assert of_cases | set(SQS) == set(BROKERS)  # all of SQS are one server


@pytest.fixture(params=CASES)
def fault(request: pytest.FixtureRequest) -> str:
    return str(request.param[1])


@pytest.fixture
def broker_kind(request: pytest.FixtureRequest) -> str:
    return str(request.node.callspec.params["fault"][0])


@pytest.fixture
async def broken(settings: Settings, fault: str) -> AsyncIterator[tuple[Settings, Any]]:
    make_unavailable, _ = FAULTS[fault]
    with make_unavailable(settings) as broken:
        yield broken


async def answers_of(calls: dict[str, Callable[[], Awaitable[Any]]]) -> dict[str, str]:
    """Return what each method that raises has raised: the name of the error."""
    raised = {}
    for name, call in calls.items():
        try:
            await call()
        except ServerUnavailableError as error:
            assert "does not answer" in str(error), name
            assert error.problem in str(error), name
            raised[name] = "ServerUnavailableError"
        except Exception as error:
            raised[name] = type(error).__name__
    return raised


async def test_every_method_of_a_broker_reports_an_unavailable_server(
    broken: tuple[Settings, Callable[[], None]], fault: str
) -> None:
    assert set(BROKER_CALLS) >= QueueBroker.__abstractmethods__ - {"listen"}
    settings, make_unavailable = broken
    async with AsyncExitStack() as stack:
        broker = await stack.enter_async_context(queues.opened(settings))
        await queues.put(broker, "claimed", "waiting")
        delivery = await broker.claim()
        assert delivery is not None
        make_unavailable()
        calls = {
            name: (lambda call=call: call(broker, delivery)) for name, call in BROKER_CALLS.items()
        }
        raised = await answers_of(calls)
    assert raised == dict.fromkeys(calls.keys() - FAULTS[fault][1], "ServerUnavailableError")


@pytest.mark.parametrize(
    "fault", [each for each in CASES if each.values[0][0] not in STATES_ON], indirect=True
)
async def test_every_method_of_a_backend_reports_an_unavailable_server(
    broken: tuple[Settings, Callable[[], None]], fault: str
) -> None:
    assert set(BACKEND_CALLS) >= StateBackend.__abstractmethods__
    settings, make_unavailable = broken
    async with AsyncExitStack() as stack:
        backend = await stack.enter_async_context(states.opened(settings))
        await states.started(backend, replace(TASK, run_id=""))
        assert await backend.finish(TASK, TaskState.SUCCESS, "", b"{}")
        make_unavailable()
        calls = {name: (lambda call=call: call(backend)) for name, call in BACKEND_CALLS.items()}
        raised = await answers_of(calls)
    # The stored result is none of taskiq's, where it can be read.
    expected = dict.fromkeys(calls.keys() - FAULTS[fault][1], "ServerUnavailableError")
    readable = {"get_result": "ResultUnreadableError"} if fault == "locked" else {}
    assert raised == expected | readable


# -- the maps --------------------------------------------------------------------------------------


def _sql(kind: type[sa.exc.DBAPIError], text: str) -> sa.exc.DBAPIError:
    return kind("SELECT secret", {}, sqlite3.OperationalError(text))


def _postgresql(text: str) -> sa.exc.DBAPIError:
    return sa.exc.OperationalError("SELECT secret", {}, psycopg2.OperationalError(text))


@pytest.mark.parametrize(
    ("boundary", "error"),
    [
        (RedisErrors, redis_errors.ConnectionError("refused")),
        (RedisErrors, redis_errors.TimeoutError("too slow")),
        (RedisErrors, redis_errors.OutOfMemoryError("OOM command not allowed")),
        (RedisErrors, redis_errors.ResponseError("MISCONF the disk is full")),
        (RedisErrors, redis_errors.AuthenticationError("the password is being changed")),
        (RedisErrors, OSError("no route")),
        (RabbitErrors, rabbit_errors.ConnectionClosed(320, "CONNECTION_FORCED")),
        (RabbitErrors, rabbit_errors.ChannelInvalidStateError("closed")),
        (RabbitErrors, Exception()),
        (PostgresqlErrors, _postgresql("could not connect to server: Connection refused")),
        (PostgresqlErrors, _postgresql("sorry, too many clients already")),
        (PostgresqlErrors, _postgresql("the database system is shutting down")),
        (SqliteErrors, _sql(sa.exc.OperationalError, "database is locked")),
        (SqliteErrors, _sql(sa.exc.InterfaceError, "closed")),
        (SqliteErrors, _sql(sa.exc.DatabaseError, "file is not a database")),
        (SqliteErrors, sqlite3.OperationalError("disk I/O error")),
    ],
    ids=lambda each: each.__name__ if isinstance(each, type) else type(each).__name__,
)
def test_an_error_that_may_pass_becomes_one_with_the_server_and_advice(
    boundary: type[ErrorBoundary], error: Exception
) -> None:
    at = boundary("redis://user:s3cret@server:1/0")
    with pytest.raises(ServerUnavailableError) as caught, at:
        raise error
    text = str(caught.value)
    assert text.startswith("redis://user:***@server:1/0 does not answer: ")
    assert text.endswith(f"{caught.value.problem}. {at.advice}")
    assert "SELECT" not in text
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    ("boundary", "error"),
    [
        (RedisErrors, redis_errors.NoPermissionError("no permission for the command")),
        (RedisErrors, redis_errors.ResponseError("CROSSSLOT keys do not hash to one slot")),
        (PostgresqlErrors, _postgresql('FATAL:  password authentication failed for user "u"')),
        (PostgresqlErrors, _postgresql('FATAL:  database "d" does not exist')),
    ],
)
def test_an_error_of_configuration_becomes_one(
    boundary: type[ErrorBoundary], error: Exception
) -> None:
    with pytest.raises(ConfigError), boundary("redis://server"):
        raise error


@pytest.mark.parametrize(
    ("boundary", "error"),
    [
        (ErrorBoundary, OSError("memory is always there")),
        (RedisErrors, redis_errors.ResponseError("wrong number of arguments")),
        (RedisErrors, KeyError("a mistake here")),
        (RabbitErrors, rabbit_errors.ChannelNotFoundEntity("no queue")),
        (RabbitErrors, KeyError("a mistake here")),
        (SqliteErrors, _sql(sa.exc.IntegrityError, "UNIQUE constraint failed")),
        (SqliteErrors, NoRecordError.of("t")),
    ],
)
def test_a_fault_of_this_package_passes_a_boundary_as_it_is(
    boundary: type[ErrorBoundary], error: Exception
) -> None:
    with pytest.raises(type(error)) as caught, boundary("redis://server"):
        raise error
    assert caught.value is error


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (rabbit_errors.ProbableAuthenticationError("ACCESS_REFUSED"), "user and password"),
        (rabbit_errors.ConnectionClosed(530, "NOT_ALLOWED"), "virtual host"),
    ],
)
def test_a_refused_connection_says_which_part_of_the_url_to_check(
    error: Exception, what: str
) -> None:
    refusal = RabbitErrors("amqp://server").refusal(error)
    assert isinstance(refusal, DagsterTaskiqError)
    assert f"Check the {what}" in str(refusal)
    assert RabbitErrors("amqp://server").refusal(OSError("refused")) is None
