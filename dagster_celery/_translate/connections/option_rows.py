"""The tables of TLS options and transport options."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dagster_celery._translate.connections.servers import Server
from dagster_celery._translate.reasons import OUTAGES
from dagster_celery._translate.rows import Fate, Row, by_name
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


@dataclass(frozen=True)
class Option(Row):
    """One option of a connection."""

    #: By server, the engine's name of the option, and what reads its value; ``None`` from that
    #: means that the option has no effect with this value.
    on: Mapping[Server, tuple[str, Callable[[Any], Any]]] = field(default_factory=dict)


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


def _elsewhere(name: str, explanation: str) -> Option:
    """Return a row for an option that becomes a setting or a part of the URL (``settings``)."""
    return Option(name, Fate.TRANSLATED, explanation)


def _tls(name: str, redis: str, rabbitmq: str = "", read: Callable[[Any], Any] = text) -> Option:
    on = {server: (redis, read) for server in _TCP if redis}
    on |= {Server.RABBITMQ: (rabbitmq, read)} if rabbitmq else {}
    places = [f"`{redis}` on Redis."] * bool(redis)
    places += [f"`{rabbitmq}` on RabbitMQ."] * bool(rabbitmq)
    return Option(name, Fate.TRANSLATED, " ".join(places), on)


def _connection_name(value: Any) -> str | None:
    name = mapping(value).get("connection_name")
    return None if name is None else text(name)


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
_OTHER_BROKER = "it belongs to a broker that nothing here serves. Leave it out."
_CREDENTIALS = (
    "put user and password into the URL, e.g. from the environment with `broker: {env: NAME}`."
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
            "queue_name_prefix",
            "deadletter_queue",
            "body_encoding",
        ),
        *_no_effect(_CONNECTIONS, "max_connections", "retry_on_timeout"),
        *_no_effect(
            "keepalive probes are sent as the system is configured to. Leave it out.",
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
            "region",
            "polling_interval",
            "wait_time_seconds",
            "predefined_queues",
            "is_secure",
            "data_folder_in",
            "data_folder_out",
        ),
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
