"""What goes to the connection of a server: Celery's TLS mappings and transport options.

kombu hands both on to the client library of the broker, so the names depend on the server. Here
they become ``broker_options`` (or ``backend_options``) of the engine, under the names of its own
client libraries.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from dagster_celery._translate.rows import Fate, Remark, Row, by_name, did_you_mean
from dagster_celery._translate.values import (
    READ_SECONDS,
    bigger_than_a_read,
    mapping,
    plain,
    seconds,
    text,
    tls_version,
    verification,
    whole_number,
    yes_or_no,
)
from dagster_taskiq.errors import ConfigError
from dagster_taskiq.settings.urls import SECRET_ARGUMENTS, scheme_of


class Server(Enum):
    """The kinds of server that take different options."""

    RABBITMQ = "RabbitMQ"
    REDIS = "Redis"
    SENTINEL = "Redis with sentinels"
    #: A Redis behind a socket, which takes no options of TCP.
    SOCKET = "Redis behind a unix socket"
    NONE = "no server"


_SERVERS = {
    "amqp": Server.RABBITMQ,
    "amqps": Server.RABBITMQ,
    "pyamqp": Server.RABBITMQ,
    "redis": Server.REDIS,
    "rediss": Server.REDIS,
    "redis+sentinel": Server.SENTINEL,
    "rediss+sentinel": Server.SENTINEL,
    "unix": Server.SOCKET,
}


@dataclass(frozen=True)
class Option(Row):
    """One option of a connection: by server, its name there and what reads its value."""

    on: Mapping[Server, tuple[str, Callable[[Any], Any]]] = field(default_factory=dict)


def server_of(engine_url: str) -> Server:
    """Return the kind of server an engine's URL leads to."""
    return _SERVERS.get(scheme_of(engine_url), Server.NONE)


def tls_options(
    given: Any, server: Server, subject: str, becomes: str
) -> tuple[dict[str, Any], tuple[Remark, ...]]:
    """Return the options for a TLS mapping such as ``broker_use_ssl``.

    Args:
        given: ``true``, or a mapping with the names of either library, with and without ``ssl_``.
        server: what is connected to.
        subject: what to call the setting in remarks and errors.
        becomes: ``broker_options`` or ``backend_options``.

    Raises:
        ConfigError: a value cannot be used.
    """
    if given is True:
        return {}, ()
    if not isinstance(given, Mapping):
        raise ConfigError(f"{subject} must be true, false or a mapping of TLS options.")
    bare = {str(name).removeprefix("ssl_"): value for name, value in given.items()}
    return _options(bare, TLS, server, subject, becomes)


def transport_options(
    given: Any, server: Server, subject: str, becomes: str
) -> tuple[dict[str, Any], tuple[Remark, ...]]:
    """Return the options for ``broker_transport_options``, or those of the result backend.

    Args:
        given: the mapping.
        server: what is connected to.
        subject: what to call the setting in remarks and errors.
        becomes: ``broker_options`` or ``backend_options``.

    Raises:
        ConfigError: it is no mapping, a value cannot be used, or an option is refused.
    """
    try:
        return _options(mapping(given), TRANSPORT, server, subject, becomes)
    except ValueError as error:
        raise ConfigError(f"{subject} {error}.") from None


def written(options: Mapping[str, Any]) -> str:
    """Return options as YAML has them on one line, without secrets."""
    parts = []
    for name, value in options.items():
        secret = any(word in name.lower() for word in SECRET_ARGUMENTS) and "file" not in name
        parts.append(f"{name}: {'***' if secret else _as_yaml(value)}")
    return f"{{{', '.join(parts)}}}"


def _as_yaml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return plain(value) if isinstance(value, float) else str(value)


def _options(
    given: Mapping[str, Any],
    rows: Mapping[str, Option],
    server: Server,
    subject: str,
    becomes: str,
) -> tuple[dict[str, Any], tuple[Remark, ...]]:
    options: dict[str, Any] = {}
    remarks = []
    for name, value in given.items():
        one = f"{subject}.{name}"
        row = rows.get(str(name))
        found = _option(one, row, value, server)
        options.update(found)
        says = (
            f'{one} is "{becomes}: {written(found)}" of taskiq_executor.'
            if found
            else _says_nothing(one, str(name), row, rows, server)
        )
        remarks.append(Remark(one, says))
    return options, tuple(remarks)


def _option(subject: str, row: Option | None, value: Any, server: Server) -> dict[str, Any]:
    if row is None or value is None:
        return {}
    if row.fate is Fate.REFUSED:
        raise ConfigError(f"{subject} cannot be used here: {row.says}")
    if server not in row.on:
        return {}
    name, read = row.on[server]
    try:
        found = read(value)
    except ValueError as error:
        raise ConfigError(f"{subject} {error}.") from None
    return {} if found is None else {name: found}


def _says_nothing(
    subject: str, name: str, row: Option | None, rows: Mapping[str, Option], server: Server
) -> str:
    if row is None:
        return (
            f"{subject} has no effect here: nothing is known of it.{did_you_mean(name, rows)} "
            "Leave it out."
        )
    if row.fate is Fate.NO_EFFECT:
        return f"{subject} has no effect here: {row.says}"
    if not row.on:
        return f"{subject} is {row.says}"
    if server not in row.on:
        kind = next(iter(row.on)).value
        return f"{subject} has no effect here: it is an option for {kind}. Leave it out."
    return f"{subject} has no effect here, with this value. {row.says}"


# -- the tables --------------------------------------------------------------------------------

_TCP = (Server.REDIS, Server.SENTINEL)


def _redis(
    name: str,
    read: Callable[[Any], Any],
    servers: tuple[Server, ...] = (*_TCP, Server.SOCKET),
    says: str = "",
) -> Option:
    says = says or f"`{name}` of `broker_options`, on {servers[0].value}."
    return Option(name, Fate.TRANSLATED, says, dict.fromkeys(servers, (name, read)))


def _rabbitmq(name: str, becomes: str, read: Callable[[Any], Any]) -> Option:
    says = f"`{becomes}` of `broker_options`, on RabbitMQ."
    return Option(name, Fate.TRANSLATED, says, {Server.RABBITMQ: (becomes, read)})


def _no_effect(because: str, *names: str) -> tuple[Option, ...]:
    return tuple(Option(name, Fate.NO_EFFECT, because) for name in names)


def _elsewhere(name: str, says: str) -> Option:
    """Return a row for an option that ``settings`` sees to, since it is no connection's."""
    return Option(name, Fate.TRANSLATED, says)


def _tls(name: str, redis: str, rabbitmq: str = "", read: Callable[[Any], Any] = text) -> Option:
    on = {server: (redis, read) for server in _TCP if redis}
    on |= {Server.RABBITMQ: (rabbitmq, read)} if rabbitmq else {}
    says = [f"`{redis}` on Redis."] * bool(redis) + [f"`{rabbitmq}` on RabbitMQ."] * bool(rabbitmq)
    return Option(name, Fate.TRANSLATED, " ".join(says), on)


def login(value: Any) -> str:
    """Return how to log in to RabbitMQ: ``external`` (by certificate), or ``plain``."""
    return "external" if text(value).upper() == "EXTERNAL" else "plain"


def _verify(value: Any) -> str:
    return "verify_none" if verification(value) == "none" else "verify_peer"


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
                Server.RABBITMQ: ("verify", _verify),
            },
        ),
        *_no_effect(
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
OUTAGES = (
    "workers wait for a broker that is away, and so, for some minutes, do runs that are under way. "
    'How long the first contact may take is "connect_timeout" of taskiq_executor.'
)
_OWN_KEYS = 'keys and queues are the engine\'s own, under the "prefix" of taskiq_executor.'
_SEES_TO_IT = (
    "every process keeps as many connections as it needs, and tries again by itself. Leave it out."
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
        *_no_effect(_SEES_TO_IT, "max_connections", "retry_on_timeout"),
        *_no_effect(
            "connections are kept alive as often as the system does. Leave it out.",
            "socket_keepalive_options",
        ),
        *_no_effect("every message is confirmed, in any case. Leave it out.", "confirm_publish"),
        *_no_effect(
            "the engine sees to the connection to RabbitMQ itself. Leave it out.",
            "read_timeout",
            "write_timeout",
            "frame_max",
            "channel_max",
            "socket_settings",
            "locale",
        ),
        *_no_effect("there are no chords here. Leave it out.", "result_chord_ordered"),
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
            says=(
                "`socket_timeout` of `broker_options`, on Redis, where it is more than the "
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
