"""The brokers that tests run on."""

from enum import Enum

import pytest

from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.settings.urls import scheme_of

#: SQS, which keeps messages alone, with the states of tasks on Redis, and on PostgreSQL.
SQS_REDIS = "sqs_redis"
SQS_POSTGRESQL = "sqs_postgresql"
SQS = (SQS_REDIS, SQS_POSTGRESQL)

#: Brokers that keep the states of tasks as well, and can be shared by processes.
WITH_STATES = ("embedded", "redis", "rabbitmq", "postgresql")

#: Those that keep messages alone, with the one that keeps the states of their tasks.
STATES_ON = {SQS_REDIS: "redis", SQS_POSTGRESQL: "postgresql"}

#: The brokers that can be shared by processes. A new one is added to either of these, and all tests
#: of the contract run on it: see "Add a broker" in CONTRIBUTING.md.
BROKERS = (*WITH_STATES, *STATES_ON)

#: PostgreSQL behind a connection pooler in transaction mode: for the contract.
PGBOUNCER = "pgbouncer"

#: The one that lives in a single process: for tests that need no second one.
MEMORY = "memory"
ALL_BROKERS = (*BROKERS, MEMORY)
ALL_WITH_STATES = (*WITH_STATES, MEMORY)

#: The embedded broker as well, in a Dagster instance whose storage is on PostgreSQL: for tests of
#: what depends on the storage.
POSTGRES_STORAGE = "postgres_storage"

#: The oldest servers that are supported, which Dagster's Helm chart brings: for the contract.
OLD_REDIS = "redis_6_0"
OLD_RABBITMQ = "rabbitmq_3_8"

#: What a parameter names that is a broker.
KINDS = (*ALL_BROKERS, POSTGRES_STORAGE, PGBOUNCER, OLD_REDIS, OLD_RABBITMQ)

#: What the suites of states run on.
STATES = (
    *ALL_WITH_STATES,
    pytest.param(
        PGBOUNCER,
        marks=pytest.mark.test_all("PostgreSQL itself, and a few calls through the pooler"),
    ),
    pytest.param(
        OLD_REDIS,
        marks=pytest.mark.test_all(
            "Redis itself, and tasks on a Redis 6.0 in test_oldest_servers.py"
        ),
    ),
    pytest.param(
        OLD_RABBITMQ,
        marks=pytest.mark.test_all("RabbitMQ itself, and tasks on a 3.8 in test_oldest_servers.py"),
    ),
)

#: What those of messages run on.
CONTRACT = (*STATES, *STATES_ON)


class Limit(Enum):
    """What some brokers cannot do, and why. Their tests hold what is promised instead."""

    DISCARD = "a message is deleted by who has received it, and by nobody who knows only its task"
    ONE_ORDER = "each of our queues is one on the server, and none says what came first among them"
    TEN_LEVELS = "there is a queue, or a place in one, for each level of priority"
    SIZE = "a message has at most 1 MiB, and a queue may allow less"
    CLAIMS = "nobody is told how many messages are claimed"
    AGE = "nobody is told how old the oldest message is"
    PRIORITIES = "nobody is told which priorities the messages have that wait"


#: The limits of each kind of server, by the scheme of its URL.
LIMITS = {
    "amqp": {Limit.TEN_LEVELS, Limit.CLAIMS, Limit.PRIORITIES},
    "sqs": {Limit.DISCARD, Limit.ONE_ORDER, Limit.TEN_LEVELS, Limit.SIZE, Limit.AGE},
}


def has_limit(settings: Settings, limit: Limit) -> bool:
    return limit in LIMITS.get(scheme_of(settings.broker), ())
