"""The tables of TLS options and transport options."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dagster_celery._translate.connections.servers import Server
from dagster_celery._translate.reasons import OUTAGES
from dagster_celery._translate.rows import Fate, Row, by_name
from dagster_celery._translate.urls.sqs import NO_FIFO
from dagster_celery._translate.values import (
    READ_SECONDS,
    bigger_than_a_read,
    login,
    mapping,
    rabbitmq_verification,
    seconds,
    text,
    tls_version,
    verification,
    whole_number,
    yes_or_no,
)

#: The longest that a poll of SQS waits, in seconds.
LONGEST_POLL_SECONDS = 20


@dataclass(frozen=True)
class Option(Row):
    """One option of a connection."""

    #: By server, the engine's name of the option, and what reads its value; ``None`` from that
    #: means that the option has no effect with this value.
    on: Mapping[Server, tuple[str, Callable[[Any], Any]]] = field(default_factory=dict)
    #: The kind of server for which it is a part of the URL; ``None`` if it is for several.
    part_on: Server | None = None


_TCP = (Server.REDIS, Server.SENTINEL)


def _redis(
    name: str,
    read: Callable[[Any], Any],
    servers: tuple[Server, ...] = (*_TCP, Server.SOCKET),
    explanation: str = "",
) -> Option:
    explanation = explanation or f"`{name}` of `broker_options`, on {servers[0].value}."
    return Option(name, Fate.TRANSLATED, explanation, dict.fromkeys(servers, (name, read)))


def _rabbitmq(name: str, becomes: str, read: Callable[[Any], Any]) -> Option:
    explanation = f"`{becomes}` of `broker_options`, on RabbitMQ."
    return Option(name, Fate.TRANSLATED, explanation, {Server.RABBITMQ: (becomes, read)})


def _no_effect(because: str, *names: str) -> tuple[Option, ...]:
    return tuple(Option(name, Fate.NO_EFFECT, because) for name in names)


def _lost(because: str, *names: str) -> tuple[Option, ...]:
    return tuple(Option(name, Fate.LOST, because) for name in names)


def _sqs(name: str, becomes: str, read: Callable[[Any], Any], more: str = "") -> Option:
    explanation = f"`{becomes}` of `broker_options`, on SQS.{more}"
    return Option(name, Fate.TRANSLATED, explanation, {Server.SQS: (becomes, read)})


def _elsewhere(name: str, explanation: str, server: Server | None = None) -> Option:
    """Return a row for an option that becomes a setting or a part of the URL (``settings``)."""
    return Option(name, Fate.TRANSLATED, explanation, part_on=server)


def _tls(name: str, redis: str, rabbitmq: str = "", read: Callable[[Any], Any] = text) -> Option:
    on = {server: (redis, read) for server in _TCP if redis}
    on |= {Server.RABBITMQ: (rabbitmq, read)} if rabbitmq else {}
    places = [f"`{redis}` on Redis."] * bool(redis)
    places += [f"`{rabbitmq}` on RabbitMQ."] * bool(rabbitmq)
    return Option(name, Fate.TRANSLATED, " ".join(places), on)


def _connection_name(value: Any) -> str | None:
    name = mapping(value).get("connection_name")
    return None if name is None else text(name)


def _poll_seconds(value: Any) -> int | None:
    """Return how long a poll of SQS waits; ``None`` for 0, which would ask without a pause."""
    number = whole_number(value)
    if not 0 <= number <= LONGEST_POLL_SECONDS:
        raise ValueError(f"must be a whole number of seconds, {LONGEST_POLL_SECONDS} at most")
    return number or None


def _texts(value: Any) -> dict[str, str] | None:
    return {str(name): str(each) for name, each in mapping(value).items()} or None


def _queue_attributes(value: Any) -> dict[str, str] | None:
    """Return the attributes with which queues are created, without the engine's own.

    Raises:
        ValueError: the engine cannot use such a queue.
    """
    given = _texts(value) or {}
    if given.get("FifoQueue", "false").lower() != "false":
        raise ValueError(f"asks for what {NO_FIFO}")
    if "RedrivePolicy" in given:
        raise ValueError(
            "has a RedrivePolicy, by which SQS would move messages that were only given back. "
            "Leave that out: what cannot be read is put into the queue PREFIX--rejected"
        )
    own = ("FifoQueue", "VisibilityTimeout")
    return {name: each for name, each in given.items() if name not in own} or None


def _milliseconds(value: Any) -> int | None:
    found = seconds(value)
    return None if found is None else int(found * 1000)


#: What ``broker_use_ssl`` and ``redis_backend_use_ssl`` may hold, without the prefix ``ssl_``.
TLS: Mapping[str, Option] = by_name(
    (
        _tls("ca_certs", "ssl_ca_certs", "cafile"),
        _tls("ca_path", "ssl_ca_path", "capath"),
        _tls("ca_data", "ssl_ca_data"),
        _tls("certfile", "ssl_certfile", "certfile"),
        _tls("keyfile", "ssl_keyfile", "keyfile"),
        _tls("password", "ssl_password"),
        _tls("ciphers", "ssl_ciphers"),
        _tls("min_version", "ssl_min_version", read=tls_version),
        _tls("check_hostname", "ssl_check_hostname", read=yes_or_no),
        _tls("server_hostname", "", "server_name_indication"),
        Option(
            "cert_reqs",
            Fate.TRANSLATED,
            "`ssl_cert_reqs` on Redis, `verify` on RabbitMQ.",
            {
                **dict.fromkeys(_TCP, ("ssl_cert_reqs", verification)),
                Server.RABBITMQ: ("verify", rabbitmq_verification),
            },
        ),
        *_lost(
            "Python's own defaults choose the version and ciphers of TLS.",
            "version",
            "tls_minimum_version",
            "tls_maximum_version",
            "context",
        ),
    )
)

_STARTED_ONCE = (
    "it is no longer needed. A task that has started is never delivered again, however long it "
    "runs, and a worker that dies is noticed by its heartbeat. Leave it out."
)
_PRIORITIES = (
    "higher priorities run first on every broker, ties in order of arrival, with no levels to set. "
    "Leave it out."
)
_OWN_KEYS = 'keys and queues are the engine\'s own, under the "prefix" of taskiq_executor.'
_CONNECTIONS = (
    "every process keeps as many connections as it needs, and reconnects without it. Leave it out."
)
_ON_SQS = "the engine's own client of SQS has no use for it. Leave it out."
_OTHER_BROKER = "it belongs to a broker that nothing here serves. Leave it out."
_CREDENTIALS = (
    "put user and password into the URL, e.g. from the environment with `broker: {env: NAME}`."
)

_ROLE = (
    "AWS's own client takes on a role and renews its credentials. Name it in a profile of AWS's "
    "configuration file (`role_arn`, with `source_profile` or `credential_source`), set "
    "AWS_PROFILE, and leave it out."
)

#: What ``broker_transport_options`` and ``result_backend_transport_options`` may hold.
TRANSPORT: Mapping[str, Option] = by_name(
    (
        *_no_effect(
            _STARTED_ONCE,
            "visibility_timeout",
            "ack_emulation",
            "unacked_key",
            "unacked_index_key",
            "unacked_mutex_key",
            "unacked_mutex_expire",
            "unacked_restore_limit",
            "unacked_restore_interval",
            "unacked_restore_throttle",
        ),
        *_no_effect(_PRIORITIES, "priority_steps", "sep", "queue_order_strategy"),
        *_no_effect(
            OUTAGES,
            "max_retries",
            "interval_start",
            "interval_step",
            "interval_max",
            "connect_retries_timeout",
            "errback",
            "retry_policy",
            "additional_connection_errors",
        ),
        *_no_effect(
            _OWN_KEYS,
            "fanout_prefix",
            "fanout_patterns",
            "sentinel_fanout_compat",
            "deadletter_queue",
            "body_encoding",
        ),
        *_no_effect(_CONNECTIONS, "max_connections", "retry_on_timeout"),
        *_no_effect(
            "the engine has keepalive probes sent, on Redis after some idle seconds. Leave it out.",
            "socket_keepalive_options",
        ),
        *_no_effect("every message is confirmed, in any case. Leave it out.", "confirm_publish"),
        *_no_effect(
            "the engine configures the connection to RabbitMQ itself. Leave it out.",
            "read_timeout",
            "write_timeout",
            "frame_max",
            "channel_max",
            "socket_settings",
            "locale",
        ),
        *_no_effect(
            "the values of a chord are in the order of its tasks. Leave it out.",
            "result_chord_ordered",
        ),
        *_no_effect(
            _OTHER_BROKER,
            "data_folder_in",
            "data_folder_out",
        ),
        *_no_effect(
            "a message wakes a worker that is idle, so nothing is polled in turns. How long one "
            "poll of SQS waits is `wait_time_seconds`. Leave it out.",
            "polling_interval",
        ),
        *_no_effect(
            _ON_SQS, "port", "regioninfo", "sqs_base64_encoding", "fetch_message_attributes"
        ),
        *_no_effect(
            "status, cancellation and the end of a worker need no topics of SNS. Leave it out.",
            "supports_fanout",
            "predefined_exchanges",
        ),
        *_no_effect(
            "AWS's own client renews the credentials of a role. Leave it out.",
            "sts_token_timeout",
            "sts_token_buffer_time",
        ),
        *_lost(
            "the engine configures its client of SQS itself. A proxy is the variable HTTPS_PROXY, "
            "and how long connecting may take `connect_timeout` of `taskiq_executor`.",
            "client-config",
        ),
        Option("sts_role_arn", Fate.REFUSED, _ROLE),
        _elsewhere("region", "the REGION of `sqs://REGION`.", Server.SQS),
        _elsewhere(
            "queue_name_prefix",
            "the beginning of PREFIX in `sqs://REGION/PREFIX`: `myapp-` becomes "
            "`myapp-dagster-taskiq`, so that the names allowed for `myapp-*` stay allowed, and "
            "workers of Celery share no queue with those of this package.",
            Server.SQS,
        ),
        _elsewhere(
            "is_secure", "the `https://` of `endpoint_url`, if the URL has a host.", Server.SQS
        ),
        _elsewhere(
            "predefined_queues",
            "`queue_urls` of `broker_options`, with the region and the credentials of the queues; "
            "and `priorities: false`, since each has one queue. A FIFO queue, several regions and "
            "several credentials are refused. Launched runs have a queue of their own, whose URL "
            "is that of `NAME:runs`, if it must not be created.",
            Server.SQS,
        ),
        _sqs(
            "wait_time_seconds",
            "wait_time_seconds",
            _poll_seconds,
            " 0 has no effect: each poll is paid for.",
        ),
        _sqs(
            "sqs-creation-attributes",
            "queue_attributes",
            _queue_attributes,
            " `VisibilityTimeout` in it has no effect: that is the lease. `FifoQueue` and "
            "`RedrivePolicy` are refused.",
        ),
        _sqs("queue_tags", "queue_tags", _texts),
        Option("credential_provider", Fate.REFUSED, _CREDENTIALS),
        _elsewhere("global_keyprefix", "the `prefix` of `taskiq_executor`."),
        _elsewhere("master_name", "the path of `redis+sentinel://HOST:PORT/MASTER/DB`."),
        _elsewhere("sentinel_kwargs", "`?sentinel_password=...` and its like behind the URL."),
        _redis(
            "socket_timeout",
            bigger_than_a_read,
            explanation=(
                "`socket_timeout` of `broker_options`, on Redis, if it is more than the "
                f"{READ_SECONDS:g} s that a read waits for an answer."
            ),
        ),
        _redis("socket_connect_timeout", seconds),
        _redis("socket_keepalive", yes_or_no, _TCP),
        _redis("health_check_interval", seconds),
        _redis("client_name", text),
        _redis("min_other_sentinels", whole_number, (Server.SENTINEL,)),
        _rabbitmq("heartbeat", "heartbeat", seconds),
        _rabbitmq("connect_timeout", "connection_timeout", _milliseconds),
        _rabbitmq("login_method", "auth", login),
        _rabbitmq("client_properties", "name", _connection_name),
    )
)
