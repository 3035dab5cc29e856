"""dagster-celery's own tests pass, on the servers and with the settings that its users have."""

import asyncio
import contextlib
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import aiormq
import psycopg2
import pytest
import redis

import dagster_celery
from compat_tests.servers import (
    HOST_ENV,
    any_postgres,
    any_redis,
    default_rabbit,
    new_database,
)
from legacy_tests import original_suite
from legacy_tests.conftest import REMARK
from legacy_tests.original_suite import Seen
from legacy_tests.sdists import NEWEST, OLDEST, Sdist

# All three suites take minutes, and the first test of each waits for it.
pytestmark = pytest.mark.timeout(1800)

_test_all = pytest.mark.test_all

#: What 0.29.27 took with Celery on a machine of two cores that had nothing else to do, in seconds.
CELERY_TOOK = 238

#: Where steps wait on RabbitMQ, unless they are sent elsewhere.
QUEUE = "dagster-taskiq:queue:dagster"

OURS = Path(dagster_celery.__file__).parent


@dataclass(frozen=True)
class Setting:
    """A release of the suite, and where its work waits."""

    sdist: Sdist
    on: str

    def __str__(self) -> str:
        return f"{self.sdist.version} on {self.on}"


#: "RabbitMQ" is without any setting: the defaults are ``pyamqp://`` and ``rpc://``.
#: That one is for every push.
SETTINGS = (
    Setting(NEWEST, "RabbitMQ"),
    pytest.param(Setting(NEWEST, "Redis"), marks=_test_all("the same on the default server")),
    pytest.param(Setting(NEWEST, "PostgreSQL"), marks=_test_all("the same on the default server")),
    pytest.param(Setting(OLDEST, "RabbitMQ"), marks=_test_all("the same tests of a later release")),
)


@dataclass(frozen=True)
class Ran:
    """A suite that has run, and what each of the servers had to do with it."""

    setting: Setting
    seen: Seen
    redis_commands: int
    rabbitmq_has_our_queue: bool
    messages_on_postgresql: int


@pytest.fixture(scope="module")
def rabbitmq_url() -> Iterator[str]:
    # Also for the suite on Redis: a fixture of its own waits until the port of RabbitMQ is open.
    with default_rabbit() as url:
        yield url


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    with any_redis() as url:
        yield url


@pytest.fixture(scope="module")
def database_url() -> Iterator[str]:
    with any_postgres() as url, new_database(url) as database:
        yield database


@pytest.fixture(scope="module", params=SETTINGS, ids=str)
def ran(
    request: pytest.FixtureRequest, rabbitmq_url: str, redis_url: str, database_url: str
) -> Ran:
    setting: Setting = request.param
    variables = {name: os.environ[name] for name in (HOST_ENV,) if name in os.environ}
    # They take the RabbitMQ that is there, and start none with Docker.
    variables["BUILDKITE"] = "1"
    if setting.on == "Redis":
        variables |= {"CELERY_BROKER_URL": redis_url, "CELERY_RESULT_BACKEND": redis_url}
    if setting.on == "PostgreSQL":
        variables |= {"CELERY_BROKER_URL": database_url, "CELERY_RESULT_BACKEND": "rpc://"}
    with redis.Redis.from_url(redis_url) as client:
        before = commands(client)
        seen = original_suite.run(setting.sdist, variables)
        done = commands(client) - before
    has_our_queue = asyncio.run(has_queue(rabbitmq_url, QUEUE))
    return Ran(setting, seen, done, has_our_queue, messages(database_url))


def commands(client: "redis.Redis") -> int:
    return int(client.info("stats")["total_commands_processed"])


def messages(url: str) -> int:
    """Return how many messages have ever been in our table; 0 if there is none."""
    with contextlib.closing(psycopg2.connect(url)) as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT to_regclass('dagster_taskiq.dagster_taskiq_messages') IS NOT NULL")
        if not cursor.fetchall()[0][0]:
            return 0
        cursor.execute("SELECT last_value FROM dagster_taskiq.dagster_taskiq_messages_id_seq")
        return int(cursor.fetchall()[0][0])


async def has_queue(url: str, name: str) -> bool:
    async with aiormq.Connection(url) as connection:
        channel = await connection.channel()
        try:
            await channel.queue_declare(name, passive=True)
        except aiormq.exceptions.ChannelNotFoundEntity:
            return False
        return True


def test_every_test_of_the_original_passes(
    ran: Ran, record_property: Callable[[str, object], None]
) -> None:
    counts = Counter(ran.seen.outcomes.values())
    told = ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))
    took = (
        f"{ran.seen.seconds:.0f} s (with Celery, on an idle machine of two cores: {CELERY_TOOK} s)"
    )
    record_property(REMARK, f"{ran.setting}: {told}, in {took}")
    if counts != {"passed": ran.setting.sdist.tests} or ran.seen.exit_code != 0:
        pytest.fail(f"{ran.setting}: {told}\n\n{ran.seen.output}", pytrace=False)


def test_it_has_all_the_tests_that_the_release_has(ran: Ran) -> None:
    assert len(ran.seen.collected) == ran.setting.sdist.tests, ran.seen.output


def test_what_it_tests_is_ours(ran: Ran) -> None:
    assert {"dagster_celery", "dagster_celery.cli"} <= set(ran.seen.modules)
    elsewhere = {
        name: path for name, path in ran.seen.modules.items() if not Path(path).is_relative_to(OURS)
    }
    assert elsewhere == {}  # neither the original's, nor Celery


def test_its_work_waits_where_it_was_told_to(ran: Ran) -> None:
    if ran.setting.on == "Redis":
        assert ran.redis_commands > 1000  # we ourselves ask it two things
    elif ran.setting.on == "PostgreSQL":
        assert ran.messages_on_postgresql > 100
    else:
        assert ran.rabbitmq_has_our_queue


def test_it_leaves_no_process_behind(ran: Ran) -> None:
    assert ran.seen.left_behind == []
