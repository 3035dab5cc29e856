"""The table of broker schemes."""

from collections.abc import Mapping

from dagster_celery._translate.rows import Fate, by_name
from dagster_celery._translate.urls.databases import database_broker
from dagster_celery._translate.urls.other import unchanged
from dagster_celery._translate.urls.rabbitmq import rabbitmq
from dagster_celery._translate.urls.redis import redis, sentinels
from dagster_celery._translate.urls.scheme import Scheme
from dagster_celery._translate.urls.sqs import sqs

_SQS = (
    "`sqs://REGION`, with the `region` of the transport options. A host (LocalStack) is "
    "`endpoint_url` of `broker_options`; an access key and its secret are `aws_access_key_id` and "
    "`aws_secret_access_key`. Beside it a backend with state is needed."
)
_POSTGRESQL = (
    "a PostgreSQL is served without this extension. Use postgresql://USER:PASSWORD@HOST/DATABASE, "
    "or dagster-storage: for the database of Dagster's own storage."
)
_ON_AZURE = "use Azure Cache for Redis (rediss://:KEY@HOST:6380/0) or a RabbitMQ (amqps://HOST)."
_ON_GOOGLE = "use Memorystore for Redis or Valkey (rediss://HOST:6379/0) or a RabbitMQ."
_ANY_OTHER = (
    "use Redis or Valkey (redis://HOST:6379/0) or RabbitMQ (amqp://HOST:5672//); with all workers "
    "on one machine, embedded:// needs no server."
)

#: Every scheme of a broker that kombu knows.
BROKERS: Mapping[str, Scheme] = by_name(
    (
        Scheme("amqp", Fate.TRANSLATED, "`amqp://`: RabbitMQ.", rabbitmq),
        Scheme("amqps", Fate.TRANSLATED, "`amqps://`: RabbitMQ with TLS.", rabbitmq),
        Scheme("pyamqp", Fate.TRANSLATED, "`pyamqp://`, the same as `amqp://`.", rabbitmq),
        Scheme("librabbitmq", Fate.TRANSLATED, "`amqp://`.", rabbitmq),
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
            "`redis+sentinel://HOST:PORT,HOST:PORT/MASTER/DB`, with the `master_name` of the "
            "transport options.",
            sentinels,
        ),
        Scheme(
            "sqla",
            Fate.TRANSLATED,
            "`sqlite:///FILE` of `sqla+sqlite:///FILE`, `postgresql://` of `sqla+postgresql://`. "
            "Other databases are refused.",
            database_broker,
            None,
        ),
        Scheme(
            "sqlalchemy",
            Fate.TRANSLATED,
            "`sqlite:///FILE` of `sqlalchemy+sqlite:///FILE`, `postgresql://` of "
            "`sqlalchemy+postgresql://`. Other databases are refused.",
            database_broker,
            None,
        ),
        Scheme("memory", Fate.TRANSLATED, "`memory://`: the whole job in one process.", unchanged),
        Scheme("SQS", Fate.TRANSLATED, _SQS, sqs),
        Scheme("sqs", Fate.TRANSLATED, _SQS, sqs),
        Scheme("pgmq", Fate.REFUSED, _POSTGRESQL),
        Scheme("azurestoragequeues", Fate.REFUSED, _ON_AZURE),
        Scheme("azureservicebus", Fate.REFUSED, _ON_AZURE),
        Scheme("gcpubsub", Fate.REFUSED, _ON_GOOGLE),
        *(
            Scheme(name, Fate.REFUSED, _ANY_OTHER, None, None)
            for name in (
                "confluentkafka",
                "kafka",
                "mongodb",
                "zookeeper",
                "SLMQ",
                "slmq",
                "filesystem",
                "qpid",
                "consul",
                "etcd",
                "pyro",
            )
        ),
    )
)
