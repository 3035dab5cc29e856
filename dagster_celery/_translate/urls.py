"""What the URL of a Celery broker or result backend is here.

A URL is read as kombu and Celery read it, and given back as the engine reads it. The engine's own
schemes go through untouched. No error and no remark shows a password.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

from dagster_celery._translate.rows import Fate, Remark, Row, by_name, did_you_mean
from dagster_celery._translate.values import READ_SECONDS, bigger_than_a_read, seconds, verification
from dagster_taskiq.errors import ConfigError
from dagster_taskiq.settings.urls import redact, scheme_of
from dagster_taskiq.transport.registry import BACKENDS as ENGINE_BACKENDS
from dagster_taskiq.transport.registry import BROKERS as ENGINE_BROKERS

T = TypeVar("T")

#: The backend that stands for the broker's own server.
BESIDE_THE_BROKER = "rpc://"

#: What kombu takes a host name alone for.
BARE_HOST = "amqp://"

#: The port of a sentinel whose URL names none, as kombu has it.
SENTINEL_PORT = 26379

#: A URL that has no user, password, port or path of its own takes them from elsewhere.
_WITH_A_HOST = ("amqp", "amqps", "pyamqp", "librabbitmq", "redis", "rediss")

_SECURE = {
    "amqp": "amqps",
    "pyamqp": "amqps",
    "librabbitmq": "amqps",
    "redis": "rediss",
    "redis+sentinel": "rediss+sentinel",
}

#: Where a URL names several servers: a semicolon, and the next one with a scheme of its own.
_NEXT = re.compile(r";(?=[\w+.-]+://)")


@dataclass(frozen=True)
class Found:
    """A URL as the engine reads it, and sentences on what is not as it was."""

    url: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sentinel:
    """What Celery has in the transport options of a sentinel rather than in its URL."""

    #: The name that the sentinels know the master by.
    master: str = ""
    #: Arguments of the connection to the sentinels themselves, such as their password.
    options: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Scheme(Row):
    """A URL scheme of Celery's, and what makes the engine's URL of one."""

    turn: Callable[[str, Sentinel], Found] | None = None
    #: What may stand behind a ``+`` in it; anything where ``None``.
    after_plus: tuple[str, ...] | None = ()


def translate_broker(url: str, sentinel: Sentinel | None = None) -> tuple[str, tuple[Remark, ...]]:
    """Return the engine's URL of a Celery broker, and what the user should know about it.

    Args:
        url: as Celery takes it, also several with ``;`` between them, or a host name alone.
        sentinel: what is known of the master where the URL is of sentinels. Without a name there,
            the URL has none, and the engine asks for it.

    Raises:
        ConfigError: nothing here serves the scheme, or the URL cannot be read.
    """
    text = url.strip()
    if text and "://" not in text:
        text = f"{BARE_HOST}{text}"
    return _translated(url, text, "broker", sentinel)


def translate_backend(url: str, sentinel: Sentinel | None = None) -> tuple[str, tuple[Remark, ...]]:
    """Return the engine's URL of a Celery result backend, and what to know about it.

    Dagster's event log has the results of steps, and the backend only the state of tasks and
    workers; so where nothing here serves the one that was asked for, that state is kept on the
    broker's own server, which loses nothing.

    Args:
        url: as Celery takes it: a URL, an alias such as ``redis``, or the path of a class.
        sentinel: as for :func:`translate_broker`.

    Raises:
        ConfigError: Celery does not know the scheme either, or the URL cannot be read.
    """
    text = url.strip() or "disabled"
    if "://" not in text and text.split("+")[0] in BACKENDS:
        text = f"{text}://"
    if re.fullmatch(r"[\w.]+[.:]\w+", text):
        return BESIDE_THE_BROKER, (
            Remark(
                "backend",
                f'The backend class "{text}" {_KEPT_BESIDE} Write "{BESIDE_THE_BROKER}", or leave '
                "`backend` out.",
            ),
        )
    return _translated(url, text, "backend", sentinel)


def urls_of(text: str) -> list[str]:
    """Return the single URLs of a text that names several, with ``;`` between them."""
    return [each for each in _NEXT.split(text) if each]


def completed(
    url: str, user: str = "", password: str = "", port: int | None = None, path: str = ""
) -> str:
    """Return a Celery URL with parts it does not have itself, as Celery's settings add them.

    Args:
        url: one URL, or several with ``;``; one that has no host is left as it is.
        user: for one without a user.
        password: for one without a password.
        port: for one without a port.
        path: the virtual host, or the number of the database, for one without.

    Raises:
        ConfigError: the URL cannot be read.
    """
    if not (user or password or port or path):
        return url
    if "://" not in url:
        url = f"{BARE_HOST}{url}"
    if scheme_of(url) not in _WITH_A_HOST:
        return url
    return ";".join(
        _completed(each, redact(url), user, password, port, path) for each in urls_of(url)
    )


def secured(url: str) -> str:
    """Return an engine URL with the scheme that means TLS, where there is one."""
    scheme, slashes, rest = url.partition("://")
    return f"{_SECURE.get(scheme.lower(), scheme)}{slashes}{rest}"


def query_of(url: str) -> dict[str, str]:
    """Return the arguments behind the ``?`` of a URL, by name; nothing of one that is none."""
    _, _, query = url.partition("?")
    return dict(parse_qsl(query.partition("#")[0], keep_blank_values=True))


def _translated(
    given: str, text: str, kind: str, sentinel: Sentinel | None
) -> tuple[str, tuple[Remark, ...]]:
    shown = redact(given.strip())
    if not text:
        raise ConfigError(
            f"The URL of the {kind} is empty. Leave it out, or name one such as redis://HOST:6379/0."
        )
    rows, own = (BROKERS, ENGINE_BROKERS) if kind == "broker" else (BACKENDS, ENGINE_BACKENDS)
    scheme = scheme_of(text)
    if scheme in own.entries and scheme not in rows:
        return text, ()
    first, plus, rest = scheme.partition("+")
    row = rows.get(first)
    if plus and row is not None and row.after_plus is not None and rest not in row.after_plus:
        row = None
    if row is None:
        raise ConfigError(
            f'Nothing serves the {kind} "{shown}", neither here nor in Celery.'
            f"{did_you_mean(scheme or text, [*rows, *own.entries])} Served are: "
            f"{', '.join(f'{each}://' for each in own.entries)}."
        )
    if row.turn is None:
        raise ConfigError(f'Nothing here serves the {kind} "{shown}": {row.says}')
    found = row.turn(text, sentinel or Sentinel())
    if found.url == given.strip() and not found.notes:
        return found.url, ()
    sentences = [f'The {kind} "{shown}" is "{redact(found.url)}" here.', *found.notes]
    return found.url, (Remark(kind, " ".join(sentences)),)


# -- RabbitMQ ---------------------------------------------------------------------------------


def _milliseconds(value: str) -> str:
    return str(int((seconds(value) or 0) * 1000))


def _login(value: str) -> str:
    return "external" if value.upper() == "EXTERNAL" else "plain"


def _rabbitmq_verification(value: str) -> str:
    return "verify_none" if verification(value) == "none" else "verify_peer"


#: What kombu takes behind the ``?`` of an AMQP URL, what it is called here, and its value.
_RABBITMQ_QUERY: Mapping[str, tuple[str, Callable[[str], str]]] = {
    "heartbeat": ("heartbeat", str),
    "connect_timeout": ("connection_timeout", _milliseconds),
    "login_method": ("auth", _login),
    "ssl_ca_certs": ("cafile", str),
    "ssl_certfile": ("certfile", str),
    "ssl_keyfile": ("keyfile", str),
    "ssl_cert_reqs": ("verify", _rabbitmq_verification),
    "ssl_server_hostname": ("server_name_indication", str),
}

#: What is taken for TLS in a query, on any server.
_TLS_PREFIX = "ssl_"


def _rabbitmq(text: str, _: Sentinel) -> Found:
    url, notes = _first(text)
    parts = _split(url, redact(text))
    query = parse_qsl(parts.query, keep_blank_values=True)
    turned = [_argument(redact(text), name, value, _RABBITMQ_QUERY) for name, value in query]
    scheme = parts.scheme if parts.scheme in ENGINE_BROKERS.entries else "amqp"
    built = _built(scheme, parts, parts.path, parts.query if turned == query else turned)
    if any(name.startswith(_TLS_PREFIX) for name, _ in query):
        built = secured(built)
    return Found(built, notes)


# -- Redis ------------------------------------------------------------------------------------


def _database(value: str) -> str:
    if not unquote(value).strip("/").isdigit():
        raise ValueError("must be the number of a database")
    return unquote(value).strip("/")


#: What kombu and Celery take behind the ``?`` of a Redis URL and the engine wants otherwise.
_REDIS_QUERY: Mapping[str, tuple[str, Callable[[str], str]]] = {
    "ssl_cert_reqs": ("ssl_cert_reqs", verification),
    "virtual_host": ("db", _database),
}

_SEES_TO_IT = "every process keeps as many connections as it needs, and tries again by itself"

#: What is left out behind the ``?`` of a Redis URL: of which values, and why.
_REDIS_LEFT_OUT: Mapping[str, tuple[Callable[[str], bool], str]] = {
    "max_connections": (lambda _: True, _SEES_TO_IT),
    "retry_on_timeout": (lambda _: True, _SEES_TO_IT),
    "socket_timeout": (
        lambda value: bigger_than_a_read(value) is None,
        f"a read waits up to {READ_SECONDS:g} s for Redis to answer, so it has to be more",
    ),
}


def _redis(text: str, _: Sentinel) -> Found:
    if scheme_of(text) == "redis+socket":
        return _socket(text)
    url, notes = _first(text)
    parts = _split(url, redact(text))
    query, left_out = _redis_query(parts, redact(text))
    path = parts.path
    if path.strip("/"):
        try:
            _database(path)
        except ValueError:
            raise ConfigError(
                f'The path of "{redact(text)}" must be the number of a database, such as /0.'
            ) from None
    built = _built(parts.scheme, parts, path, query)
    if any(name.startswith(_TLS_PREFIX) for name in query_of(url)):
        built = secured(built)
    return Found(built, (*notes, *left_out))


def _socket(text: str) -> Found:
    parts = _split(text, redact(text), at_in_path=True)
    query, left_out = _redis_query(parts, redact(text))
    user, at, _ = parts.netloc.rpartition("@")
    return Found(f"unix://{_encoded(user)}{at}{parts.path}{_queried(query)}", left_out)


def _redis_query(
    parts: SplitResult, shown: str
) -> tuple[str | list[tuple[str, str]], tuple[str, ...]]:
    given = parse_qsl(parts.query, keep_blank_values=True)
    if "credential_provider" in dict(given):
        raise ConfigError(
            f'A credential provider, as in "{shown}", is not supported here. Put user and password '
            "into the URL, e.g. from the environment: `broker: {env: REDIS_URL}`."
        )
    kept, left_out = [], []
    for name, value in given:
        drops, reason = _REDIS_LEFT_OUT.get(name, (None, ""))
        if drops is not None and _read(shown, name, value, drops):
            left_out.append(f'"{name}" is left out: {reason}.')
        else:
            kept.append(_argument(shown, name, value, _REDIS_QUERY))
    return parts.query if kept == given else kept, tuple(left_out)


def _sentinels(text: str, sentinel: Sentinel) -> Found:
    shown = redact(text)
    urls = urls_of(text)
    parts = [_split(each, shown) for each in urls if scheme_of(each) == "sentinel"]
    notes = [f"Only its sentinel:// URLs are used, {len(parts)} of {len(urls)}."] * (
        len(parts) < len(urls)
    )
    first = parts[0]
    if any(name.startswith(_TLS_PREFIX) for name in query_of(urls[0])):
        raise ConfigError(
            f'The TLS options behind the "?" of "{shown}" cannot be used with sentinels. Write '
            "them as `broker_use_ssl` of config_source, or `broker_options` of taskiq_executor."
        )
    hosts = ",".join(_host_and_port(each) for each in parts)
    user, at, _ = first.netloc.rpartition("@")
    url = f"redis+sentinel://{_encoded(user)}{at}{hosts}"
    if sentinel.master:
        try:
            database = _database(first.path) if first.path.strip("/") else "0"
        except ValueError:
            raise ConfigError(
                f'The path of "{shown}" must be the number of a database, such as /0.'
            ) from None
        url += f"/{quote(sentinel.master, safe='')}/{database}"
    options = [(f"sentinel_{name}", value) for name, value in (sentinel.options or {}).items()]
    return Found(f"{url}{_queried(options)}", tuple(notes))


def _host_and_port(parts: SplitResult) -> str:
    host = parts.hostname or "localhost"
    port = parts.port or SENTINEL_PORT
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


# -- databases, memory, and what nothing serves ------------------------------------------------


def _sqlite(text: str) -> str | None:
    """Return the engine's URL of ``db+sqlite:///file`` and its like; ``None`` of another one."""
    _, _, rest = text.partition("+")
    dialect = scheme_of(rest)
    path = rest.partition("://")[2]
    if dialect.split("+")[0] != "sqlite" or path.strip("/") in ("", ":memory:"):
        return None
    return f"sqlite://{path}"


def _database_broker(text: str, _: Sentinel) -> Found:
    url = _sqlite(text)
    if url is None:
        raise ConfigError(
            f'Nothing here serves the broker "{redact(text)}" yet: of databases, a file of SQLite '
            "can be the broker (sqlite:////absolute/path, for workers on one machine). Use "
            "redis://HOST:6379/0 or amqp://HOST:5672// instead."
        )
    return Found(url, ("Its tables are the engine's own; those of Celery are left alone.",))


def _database_backend(text: str, sentinel: Sentinel) -> Found:
    url = _sqlite(text)
    return _beside_the_broker(text, sentinel) if url is None else Found(url)


def _as_it_is(text: str, _: Sentinel) -> Found:
    return Found(text)


_KEPT_BESIDE = (
    "is not used: Dagster's event log has the results, and the state of tasks and workers is kept "
    "on the broker's own server."
)


def _beside_the_broker(_: str, __: Sentinel) -> Found:
    return Found(
        BESIDE_THE_BROKER,
        (f'That one {_KEPT_BESIDE} Write "{BESIDE_THE_BROKER}", or leave `backend` out.',),
    )


def _rpc(_: str, __: Sentinel) -> Found:
    return Found(BESIDE_THE_BROKER)


_ON_SQS = (
    "use a broker that AWS runs for you: Amazon MQ for RabbitMQ (amqps://USER:PASSWORD@HOST:5671) "
    "or ElastiCache (rediss://HOST:6379/0)."
)
_POSTGRESQL = (
    "PostgreSQL is not served as a broker yet. Use redis://HOST:6379/0 or amqp://HOST:5672//; with "
    "all workers on one machine, embedded:// needs no server."
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
        Scheme("amqp", Fate.TRANSLATED, "`amqp://`: RabbitMQ.", _rabbitmq),
        Scheme("amqps", Fate.TRANSLATED, "`amqps://`: RabbitMQ with TLS.", _rabbitmq),
        Scheme("pyamqp", Fate.TRANSLATED, "`pyamqp://`, another word for `amqp://`.", _rabbitmq),
        Scheme("librabbitmq", Fate.TRANSLATED, "`amqp://`.", _rabbitmq),
        Scheme(
            "redis",
            Fate.TRANSLATED,
            "`redis://`; `redis+socket://` is `unix://`.",
            _redis,
            ("socket",),
        ),
        Scheme("rediss", Fate.TRANSLATED, "`rediss://`: Redis with TLS.", _redis),
        Scheme(
            "sentinel",
            Fate.TRANSLATED,
            "`redis+sentinel://HOST:PORT,HOST:PORT/MASTER/DB`, with the `master_name` of the "
            "transport options.",
            _sentinels,
        ),
        Scheme(
            "sqla",
            Fate.TRANSLATED,
            "`sqlite:///FILE` of `sqla+sqlite:///FILE`. Other databases are refused for now.",
            _database_broker,
            None,
        ),
        Scheme(
            "sqlalchemy",
            Fate.TRANSLATED,
            "`sqlite:///FILE` of `sqlalchemy+sqlite:///FILE`. Other databases are refused for now.",
            _database_broker,
            None,
        ),
        Scheme("memory", Fate.TRANSLATED, "`memory://`: the whole job in one process.", _as_it_is),
        Scheme("SQS", Fate.REFUSED, _ON_SQS),
        Scheme("sqs", Fate.REFUSED, _ON_SQS),
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

_NOT_USED = (
    "is not used: Dagster's event log has the results, and the state of tasks is kept on the "
    "broker's own server, as with `rpc://`."
)

#: Every scheme of a result backend that Celery knows.
BACKENDS: Mapping[str, Scheme] = by_name(
    (
        Scheme("rpc", Fate.TRANSLATED, "`rpc://`: on the broker's own server.", _rpc, None),
        Scheme(
            "redis",
            Fate.TRANSLATED,
            "`redis://`; `redis+socket://` is `unix://`.",
            _redis,
            ("socket",),
        ),
        Scheme("rediss", Fate.TRANSLATED, "`rediss://`: Redis with TLS.", _redis),
        Scheme(
            "sentinel",
            Fate.TRANSLATED,
            "`redis+sentinel://HOST:PORT,HOST:PORT/MASTER/DB`, with the `master_name` of "
            "`result_backend_transport_options`.",
            _sentinels,
        ),
        Scheme(
            "db",
            Fate.TRANSLATED,
            "`sqlite:///FILE` of `db+sqlite:///FILE`. Any other database " + _NOT_USED,
            _database_backend,
            None,
        ),
        Scheme(
            "database",
            Fate.TRANSLATED,
            "`sqlite:///FILE` of `database+sqlite:///FILE`. Any other database " + _NOT_USED,
            _database_backend,
            None,
        ),
        *(
            Scheme(name, Fate.NO_EFFECT, "It " + _NOT_USED, _beside_the_broker, None)
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
                "disabled",
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


# -- reading and building ----------------------------------------------------------------------


def _first(text: str) -> tuple[str, tuple[str, ...]]:
    urls = urls_of(text)
    if len(urls) == 1:
        return text, ()
    return urls[0], (
        f"Of its {len(urls)} servers only the first is used. To survive the loss of one, name a "
        "load balancer in front of the cluster, or a Redis with sentinels.",
    )


def _split(url: str, shown: str, at_in_path: bool = False) -> SplitResult:
    """Read a URL; refuse one of which a part may belong to a password that is not encoded."""
    try:
        parts = urlsplit(url)
        _ = parts.port
        loose = [parts.fragment, *([] if at_in_path else [parts.path])]
        if "@" not in parts.netloc:
            loose.append(parts.query)
        readable = not any("@" in each for each in loose)
    except ValueError:
        readable = False
    if not readable:
        raise ConfigError(
            f'The host or port of "{shown}" cannot be read. In a user name or password, special '
            "characters have to be percent-encoded, such as %2F for a slash and %3B for a "
            "semicolon."
        )
    return parts


def _encoded(user: str) -> str:
    """Return the user part of a URL with an ``@`` in its password encoded, as the engine asks."""
    return user.replace("@", "%40")


def _built(
    scheme: str, parts: SplitResult, path: str, query: str | Sequence[tuple[str, str]]
) -> str:
    user, at, host = parts.netloc.rpartition("@")
    return f"{scheme}://{_encoded(user)}{at}{host}{path}{_queried(query)}"


def _queried(query: str | Sequence[tuple[str, str]]) -> str:
    text = query if isinstance(query, str) else urlencode(query)
    return f"?{text}" if text else ""


def _argument(
    shown: str, name: str, value: str, known: Mapping[str, tuple[str, Callable[[str], str]]]
) -> tuple[str, str]:
    if name not in known:
        return name, value
    wanted, read = known[name]
    return wanted, _read(shown, name, value, read)


def _read(shown: str, name: str, value: str, read: Callable[[str], T]) -> T:
    # Without the value: what looks like one may be the end of a password.
    try:
        return read(value)
    except ValueError as error:
        raise ConfigError(f'In "{shown}", "{name}" {error}.') from None


def _completed(url: str, shown: str, user: str, password: str, port: int | None, path: str) -> str:
    parts = _split(url, shown)
    given, _, host = parts.netloc.rpartition("@")
    own_user, colon, own_password = given.partition(":")
    own_user = own_user or quote(user, safe="")
    own_password = own_password or quote(password, safe="")
    credentials = f"{own_user}:{own_password}" if own_password else f"{own_user}{colon}"
    if port is not None and parts.port is None:
        host = f"{host.rstrip(':')}:{port}"
    own_path = parts.path if parts.path.strip("/") or parts.path == "//" or not path else f"/{path}"
    at = "@" if credentials else ""
    return f"{parts.scheme}://{credentials}{at}{host}{own_path}{_queried(parts.query)}"
