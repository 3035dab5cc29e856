"""Reads the URL of a RabbitMQ and its options: where to connect, with which TLS and timeouts."""

import math
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from yarl import URL

#: How long one command may take, in seconds; after that the server counts as unavailable.
COMMAND_SECONDS = 8.0
#: The ports for a URL that names none, without and with TLS.
PORTS = {False: 5672, True: 5671}
#: The longest heartbeat that the protocol can express, in seconds.
HIGHEST_HEARTBEAT = 65534

#: What may follow the ``?`` of a URL, or be given as an option, and its meaning. The names are
#: those of aio-pika, and of RabbitMQ's own URI specification if the two differ.
OPTIONS = {
    "heartbeat": "seconds between two heartbeats of the connection; a sixth of the lease",
    "timeout": f"seconds that one command may take; {COMMAND_SECONDS:g}",
    "connection_timeout": "milliseconds that connecting may take; `connect_timeout`",
    "name": "what the server lists the connection as",
    "auth": "`plain`, or `external` for the name in a client certificate",
    "cafile": "the file of certificate authorities to trust; also `cacertfile`",
    "capath": "the directory of them",
    "certfile": "the client's certificate",
    "keyfile": "its key",
    "verify": "`verify_none` trusts any server; also `no_verify_ssl=1`",
    "server_name_indication": "the host that the server's certificate must name",
}
_ALIASES = {"cacertfile": "cafile", "ssl_ca_certs": "cafile", "no_verify_ssl": "verify"}

_UNREADABLE = (
    "its host or port cannot be read. In a user name or password, special characters have to be "
    "percent-encoded, such as %2F for a slash"
)


@dataclass(frozen=True)
class Target:
    """Where to connect to, and how."""

    url: URL
    tls: ssl.SSLContext | None
    server_name: str | None
    connect_seconds: float
    command_seconds: float


def read_target(url: str, given: Mapping[str, Any], lease: float, connect_seconds: float) -> Target:
    """Read a URL and options.

    Args:
        url: as in RabbitMQ's URI specification (https://www.rabbitmq.com/docs/uri-spec).
        given: more options; they override those of the URL.
        lease: the workers' lease, in seconds; the heartbeat follows it.
        connect_seconds: how long connecting may take, unless an option sets it.

    Raises:
        ValueError: one of them cannot be used; the text names it, and quotes no secret.
        OSError: a file of the TLS options cannot be read.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError(_UNREADABLE) from None
    # A second "@" is part of a password that is not encoded, and so is one after the slash.
    if parts.netloc.count("@") > 1 or "@" in parts.path:
        raise ValueError(_UNREADABLE)
    secure = parts.scheme.endswith("s")
    options = _options({**dict(parse_qsl(parts.query)), **given})
    # The server requeues what a frozen process holds after two heartbeats that it missed. Other
    # processes may wait for that, and must not lose their own lease meanwhile.
    heartbeat = _number(options, "heartbeat", max(2, int(lease / 6)))
    if heartbeat > HIGHEST_HEARTBEAT:
        raise ValueError(
            f'the option "heartbeat" must be at most {HIGHEST_HEARTBEAT}, but it is {heartbeat:g}'
        )
    command_seconds = _number(options, "timeout", COMMAND_SECONDS)
    connect_seconds = _number(options, "connection_timeout", connect_seconds * 1000) / 1000
    auth = str(options.get("auth", "plain"))
    if auth.lower() not in ("plain", "external"):
        raise ValueError(f'the option "auth" must be plain or external, but it is {auth!r}')
    query = {"heartbeat": str(int(heartbeat)), "auth": auth}
    query["name"] = str(options.get("name", "dagster-taskiq"))
    target = URL.build(
        scheme="amqps" if secure else "amqp",
        host=parts.hostname or "localhost",
        port=port or PORTS[secure],
        user=unquote(parts.username) if parts.username else "guest",
        password=unquote(parts.password) if parts.password else "guest",
        path=f"/{unquote(parts.path[1:]) or '/'}",
        query=query,
    )
    tls = _tls(options) if secure else None
    server_name = options.get("server_name_indication")
    return Target(target, tls, server_name, connect_seconds, command_seconds)


def _options(given: Mapping[str, Any]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for name, value in given.items():
        wanted = _ALIASES.get(name, name)
        if wanted not in OPTIONS:
            raise ValueError(f"the option {name!r} is unknown. Known are {_listed()}")
        if name == "no_verify_ssl":
            value = "verify_none" if str(value) not in ("0", "False", "false") else "verify_peer"  # noqa: PLW2901
        options[wanted] = value
    return options


def _listed() -> str:
    return ", ".join((*OPTIONS, *_ALIASES))


def _number(options: Mapping[str, Any], name: str, otherwise: float) -> float:
    text = options.get(name, otherwise)
    try:
        number = float(text)
    except (TypeError, ValueError):
        number = -1.0
    if not 0 <= number < math.inf or (number == 0 and name != "heartbeat"):
        raise ValueError(f'the option "{name}" must be a positive number, but it is {text!r}')
    return number


def _tls(options: Mapping[str, Any]) -> ssl.SSLContext:
    for name in ("cafile", "capath", "certfile", "keyfile"):
        if name in options and not Path(options[name]).exists():
            raise ValueError(f'the option "{name}" names {options[name]!r}, which does not exist')
    verify = options.get("verify", "verify_peer")
    if verify not in ("verify_peer", "verify_none"):
        raise ValueError(
            f'the option "verify" must be verify_peer or verify_none, but it is {verify!r}'
        )
    with _naming(options, "cafile", "capath"):
        context = ssl.create_default_context(
            cafile=options.get("cafile"), capath=options.get("capath")
        )
    if "certfile" in options:
        with _naming(options, "certfile", "keyfile"):
            context.load_cert_chain(options["certfile"], options.get("keyfile"))
    if verify == "verify_none":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


@contextmanager
def _naming(options: Mapping[str, Any], *names: str) -> Iterator[None]:
    """Raise an error that names the options whose files cannot be used."""
    try:
        yield
    except OSError as error:
        given = ", ".join(f'"{name}" ({options[name]})' for name in names if name in options)
        raise ValueError(f"the option {given} cannot be used: {error.strerror or error}") from None
