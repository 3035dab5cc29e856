"""URLs of Redis: one server, one behind a unix socket, and one that sentinels watch."""

from collections.abc import Callable, Mapping
from urllib.parse import SplitResult, quote, unquote

from dagster_celery._translate.urls.parts import (
    Arguments,
    Query,
    argument,
    arguments_of,
    built,
    encoded,
    first_of,
    has_tls_arguments,
    queried,
    read_value,
    secured,
    split,
    urls_of,
)
from dagster_celery._translate.urls.scheme import Beside, Found
from dagster_celery._translate.values import READ_SECONDS, bigger_than_a_read, verification
from dagster_taskiq.errors import ConfigError
from dagster_taskiq.settings.urls import redact, scheme_of

#: The port of a sentinel whose URL names none, as in kombu.
SENTINEL_PORT = 26379


def _database(value: str) -> str:
    if not unquote(value).strip("/").isdigit():
        raise ValueError("must be the number of a database")
    return unquote(value).strip("/")


def _always(_: str) -> bool:
    return True


def _shorter_than_a_read(value: str) -> bool:
    return bigger_than_a_read(value) is None


#: The arguments that kombu and Celery take in a Redis URL and that the engine takes otherwise: its
#: name, and what reads the value.
ARGUMENTS: Arguments = {
    "ssl_cert_reqs": ("ssl_cert_reqs", verification),
    "virtual_host": ("db", _database),
}

_CONNECTIONS = "every process keeps as many connections as it needs, and reconnects without it"

#: Arguments that are left out: for which values, and why.
LEFT_OUT: Mapping[str, tuple[Callable[[str], bool], str]] = {
    "max_connections": (_always, _CONNECTIONS),
    "retry_on_timeout": (_always, _CONNECTIONS),
    "socket_timeout": (
        _shorter_than_a_read,
        f"a read waits up to {READ_SECONDS:g} s for Redis to answer, so it has to be more",
    ),
}


def redis(text: str, _: Beside) -> Found:
    """Return the engine's URL of a Redis, by TCP or by a unix socket (``redis+socket``).

    Raises:
        ConfigError: it cannot be read, or an argument has a value that cannot be used.
    """
    if scheme_of(text) == "redis+socket":
        return _socket(text)
    url, notes = first_of(text)
    parts = split(url, redact(text))
    query, left_out = _query(parts, redact(text))
    if parts.path.strip("/"):
        _check_database(parts.path, redact(text))
    found = built(parts.scheme, parts, parts.path, query)
    return Found(secured(found) if has_tls_arguments(url) else found, (*notes, *left_out))


def sentinels(text: str, beside: Beside) -> Found:
    """Return the engine's URL of a Redis that sentinels watch.

    Args:
        text: Celery's URLs of the sentinels, with ``;`` between them.
        beside: has the name of the master. Without one the URL has none, and is incomplete.

    Raises:
        ConfigError: they cannot be read, or have arguments of TLS.
    """
    shown = redact(text)
    sentinel = beside.sentinel
    urls = urls_of(text)
    parts = [split(each, shown) for each in urls if scheme_of(each) == "sentinel"]
    notes: tuple[str, ...] = ()
    if len(parts) < len(urls):
        notes = (f"Only its sentinel:// URLs are used, {len(parts)} of {len(urls)}.",)
    first = parts[0]
    if has_tls_arguments(urls[0]):
        raise ConfigError(
            f'The TLS options behind the "?" of "{shown}" cannot be used with sentinels. Write '
            "them as `broker_use_ssl` of config_source, or `broker_options` of taskiq_executor."
        )
    hosts = ",".join(_host_and_port(each) for each in parts)
    user, at, _ = first.netloc.rpartition("@")
    url = f"redis+sentinel://{encoded(user)}{at}{hosts}"
    if sentinel.master:
        database = _check_database(first.path, shown) if first.path.strip("/") else "0"
        url += f"/{quote(sentinel.master, safe='')}/{database}"
    options = [(f"sentinel_{name}", value) for name, value in (sentinel.options or {}).items()]
    return Found(f"{url}{queried(options)}", notes)


def _socket(text: str) -> Found:
    parts = split(text, redact(text), at_in_path=True)
    query, left_out = _query(parts, redact(text))
    user, at, _ = parts.netloc.rpartition("@")
    return Found(f"unix://{encoded(user)}{at}{parts.path}{queried(query)}", left_out)


def _query(parts: SplitResult, shown: str) -> tuple[str | Query, tuple[str, ...]]:
    """Return the engine's arguments of a URL, and a sentence on each that is left out."""
    given = arguments_of(parts)
    if "credential_provider" in dict(given):
        raise ConfigError(
            f'A credential provider, as in "{shown}", is not supported here. Put user and password '
            "into the URL, e.g. from the environment: `broker: {env: REDIS_URL}`."
        )
    kept, left_out = [], []
    for name, value in given:
        drops, reason = LEFT_OUT.get(name, (None, ""))
        if drops is not None and read_value(shown, name, value, drops):
            left_out.append(f'"{name}" is left out: {reason}.')
        else:
            kept.append(argument(shown, name, value, ARGUMENTS))
    # Arguments that stay as they are keep their encoding.
    return parts.query if kept == given else kept, tuple(left_out)


def _check_database(path: str, shown: str) -> str:
    """Return the number of the database in the path of a URL.

    Raises:
        ConfigError: the path is something else.
    """
    try:
        return _database(path)
    except ValueError:
        raise ConfigError(
            f'The path of "{shown}" must be the number of a database, such as /0.'
        ) from None


def _host_and_port(parts: SplitResult) -> str:
    host = parts.hostname or "localhost"
    port = parts.port or SENTINEL_PORT
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
