"""URLs taken apart and put together."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar
from urllib.parse import SplitResult, parse_qsl, quote, urlencode, urlsplit

from dagster_taskiq.errors import ConfigError
from dagster_taskiq.settings.urls import redact, scheme_of

T = TypeVar("T")

#: The arguments of a URL, in its order.
Query = Sequence[tuple[str, str]]
#: For arguments of Celery's: the engine's name, and what reads the value.
Arguments = Mapping[str, tuple[str, Callable[[str], str]]]

#: kombu takes a text without a scheme for the host of a RabbitMQ.
BARE_HOST = "amqp://"

#: Arguments of TLS begin with it, for all servers.
TLS_PREFIX = "ssl_"

#: The schemes of URLs that may get their user, password, port or path from other settings.
_WITH_A_HOST = ("amqp", "amqps", "pyamqp", "librabbitmq", "redis", "rediss", "sqs")

#: Schemes, and those that mean the same with TLS.
_SECURE = {
    "amqp": "amqps",
    "pyamqp": "amqps",
    "librabbitmq": "amqps",
    "redis": "rediss",
    "redis+sentinel": "rediss+sentinel",
}

#: Separates the URLs of several servers: a semicolon before another scheme.
_NEXT = re.compile(r";(?=[\w+.-]+://)")


def urls_of(text: str) -> list[str]:
    """Return the single URLs of a text that names several, with ``;`` between them."""
    return [each for each in _NEXT.split(text) if each]


def first_of(text: str) -> tuple[str, tuple[str, ...]]:
    """Return the first URL of a text, with a sentence about the others if there are any."""
    urls = urls_of(text)
    if len(urls) == 1:
        return text, ()
    return urls[0], (
        f"Of its {len(urls)} servers only the first is used. To survive the loss of one, name a "
        "load balancer in front of the cluster, or a Redis with sentinels.",
    )


def completed(
    url: str, user: str = "", password: str = "", port: int | None = None, path: str = ""
) -> str:
    """Return a Celery URL with the parts that it lacks, which Celery has settings for.

    Args:
        url: one URL, or several with ``;``; one that has no host is returned as it is.
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
    """Return an engine URL with the scheme that means TLS, if there is one."""
    scheme, slashes, rest = url.partition("://")
    return f"{_SECURE.get(scheme.lower(), scheme)}{slashes}{rest}"


def has_tls_arguments(url: str) -> bool:
    """Return whether a URL has arguments of TLS."""
    return any(name.startswith(TLS_PREFIX) for name in query_of(url))


def query_of(url: str) -> dict[str, str]:
    """Return the arguments after the ``?`` of a URL, by name; none of a text that is no URL."""
    _, _, query = url.partition("?")
    return dict(parse_qsl(query.partition("#")[0], keep_blank_values=True))


def arguments_of(parts: SplitResult) -> Query:
    """Return the arguments of a URL, in its order."""
    return parse_qsl(parts.query, keep_blank_values=True)


def split(url: str, shown: str, at_in_path: bool = False) -> SplitResult:
    """Return the parts of a URL.

    Args:
        url: the URL.
        shown: how an error shows it.
        at_in_path: whether its path may have an ``@``.

    Raises:
        ConfigError: it cannot be read; or one of its parts may be the end of a password whose
            special characters are not encoded.
    """
    try:
        parts = urlsplit(url)
        _ = parts.port
        suspects = [parts.fragment, *([] if at_in_path else [parts.path])]
        if "@" not in parts.netloc:
            suspects.append(parts.query)
        readable = not any("@" in each for each in suspects)
    except ValueError:
        readable = False
    if not readable:
        raise ConfigError(
            f'The host or port of "{shown}" cannot be read. In a user name or password, special '
            "characters have to be percent-encoded, such as %2F for a slash and %3B for a "
            "semicolon."
        )
    return parts


def built(scheme: str, parts: SplitResult, path: str, query: str | Query) -> str:
    """Return a URL with another scheme, path and query."""
    user, at, host = parts.netloc.rpartition("@")
    return f"{scheme}://{encoded(user)}{at}{host}{path}{queried(query)}"


def encoded(user: str) -> str:
    """Return the user part of a URL with an ``@`` in its password encoded, as the engine asks."""
    return user.replace("@", "%40")


def queried(query: str | Query) -> str:
    """Return arguments as the end of a URL, with the ``?``; nothing if there are none."""
    text = query if isinstance(query, str) else urlencode(query)
    return f"?{text}" if text else ""


def argument(shown: str, name: str, value: str, known: Arguments) -> tuple[str, str]:
    """Return the engine's name and value of an argument; one that is not known as it is.

    Args:
        shown: how an error shows the URL.
        name: Celery's name.
        value: the value.
        known: the table of arguments.

    Raises:
        ConfigError: the value cannot be used.
    """
    if name not in known:
        return name, value
    wanted, read = known[name]
    return wanted, read_value(shown, name, value, read)


def read_value(shown: str, name: str, value: str, read: Callable[[str], T]) -> T:
    """Return what a function reads from the value of an argument.

    Args:
        shown: how an error shows the URL.
        name: the argument.
        value: its value.
        read: raises ``ValueError`` with the rest of a sentence if it cannot read a value.

    Raises:
        ConfigError: it cannot. The text does not show the value, which may be the end of a
            password.
    """
    try:
        return read(value)
    except ValueError as error:
        raise ConfigError(f'In "{shown}", "{name}" {error}.') from None


def _completed(url: str, shown: str, user: str, password: str, port: int | None, path: str) -> str:
    parts = split(url, shown)
    given, _, host = parts.netloc.rpartition("@")
    own_user, colon, own_password = given.partition(":")
    own_user = own_user or quote(user, safe="")
    own_password = own_password or quote(password, safe="")
    credentials = f"{own_user}:{own_password}" if own_password else f"{own_user}{colon}"
    if port is not None and parts.port is None:
        host = f"{host.rstrip(':')}:{port}"
    own_path = parts.path if parts.path.strip("/") or parts.path == "//" or not path else f"/{path}"
    at = "@" if credentials else ""
    return f"{parts.scheme}://{credentials}{at}{host}{own_path}{queried(parts.query)}"
