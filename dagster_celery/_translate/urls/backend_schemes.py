"""The table of result backend schemes."""

from collections.abc import Mapping

from dagster_celery._translate.rows import Fate, by_name
from dagster_celery._translate.urls.databases import database_backend
from dagster_celery._translate.urls.other import rpc, shared_with_broker
from dagster_celery._translate.urls.redis import redis, sentinels
from dagster_celery._translate.urls.scheme import Scheme

_NOT_USED = (
    "is not used: Dagster's event log has the results, and the state of tasks is kept on the "
    "broker's own server, as with `rpc://`; beside SQS, in the PostgreSQL of Dagster's storage."
)

#: Every scheme of a result backend that Celery knows.
BACKENDS: Mapping[str, Scheme] = by_name(
    (
        Scheme("rpc", Fate.TRANSLATED, "`rpc://`: on the broker's own server.", rpc, None),
        Scheme(
            "redis",
            Fate.TRANSLATED,
            "`redis://`; `redis+socket://` is `unix://`.",
            redis,
            ("socket",),
        ),
        Scheme("rediss", Fate.TRANSLATED, "`rediss://`: Redis with TLS.", redis),
        Scheme(
            "sentinel",
            Fate.TRANSLATED,
            "`redis+sentinel://HOST:PORT,HOST:PORT/MASTER/DB`, with the `master_name` of "
            "`result_backend_transport_options`.",
            sentinels,
        ),
        Scheme(
            "db",
            Fate.TRANSLATED,
            "`sqlite:///FILE` of `db+sqlite:///FILE`; beside SQS, `postgresql://` of "
            "`db+postgresql://`. Any other database " + _NOT_USED,
            database_backend,
            None,
        ),
        Scheme(
            "database",
            Fate.TRANSLATED,
            "`sqlite:///FILE` of `database+sqlite:///FILE`; beside SQS, `postgresql://` of "
            "`database+postgresql://`. Any other database " + _NOT_USED,
            database_backend,
            None,
        ),
        Scheme("disabled", Fate.NO_EFFECT, "It " + _NOT_USED, shared_with_broker, None),
        *(
            Scheme(name, Fate.LOST, "It " + _NOT_USED, shared_with_broker, None)
            for name in (
                "cache",
                "mongodb",
                "elasticsearch",
                "cassandra",
                "couchbase",
                "couchdb",
                "cosmosdbsql",
                "riak",
                "file",
                "consul",
                "dynamodb",
                "azureblockblob",
                "arangodb",
                "s3",
                "gs",
            )
        ),
    )
)
