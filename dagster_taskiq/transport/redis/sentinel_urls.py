"""Sentinel URLs: ``redis+sentinel://USER:PASSWORD@HOST:PORT,HOST:PORT/MASTER/DB?...``.

User, password and database are those of the master. Behind the ``?`` are options of the connection
to the master, as in a plain Redis URL, and those to the sentinels, which begin with ``sentinel_``.
An IPv6 address stands in brackets, as in any URL. ``urllib.parse`` knows one host in a URL, and
some releases of Python refuse several with brackets, so the hosts are read here.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode

from redis.asyncio.connection import parse_url

#: The port of a sentinel whose URL names none.
SENTINEL_PORT = 26379

#: One ``HOST`` or ``HOST:PORT``, with an IPv6 address in brackets.
_ADDRESS = re.compile(r"(?:\[([^\s\[\]]+)\]|([^\s:\[\]]+))(?::(\d{1,5}))?")
_SENTINEL_PREFIX = "sentinel_"

#: Nothing of the URL is quoted: the unreadable part may belong to a password.
_UNREADABLE = (
    "its hosts cannot be read. Each is HOST:PORT, or [ADDRESS]:PORT for IPv6. In a user name or "
    "password, special characters have to be percent-encoded, such as %2F for a slash"
)
_NO_MASTER = "a sentinel URL names the master: redis+sentinel://HOST:PORT,HOST:PORT/MASTER/DB"


@dataclass(frozen=True)
class SentinelUrl:
    """The parts of a sentinel URL, with nothing percent-encoded any more."""

    #: Host and port of each sentinel; an IPv6 address without its brackets.
    sentinels: tuple[tuple[str, int], ...]
    #: The name that the sentinels know the master by.
    master: str
    #: Arguments of redis-py's connection to the master: user, password, database and options.
    options: Mapping[str, Any]
    #: Arguments of redis-py's connections to the sentinels.
    sentinel_options: Mapping[str, Any]


def read_sentinel_url(url: str) -> SentinelUrl:
    """Return the parts of a sentinel URL.

    Raises:
        ValueError: a host, the database or an option cannot be read, or no master is named. The
            text quotes nothing that may be a part of a password.
    """
    scheme, _, rest = url.partition("://")
    rest, _, query = rest.partition("?")
    # A password may hold an @ that is not encoded; a host does not.
    credentials, _, rest = rest.rpartition("@")
    hosts, _, path = rest.partition("/")
    if "/" in credentials:
        raise ValueError(_UNREADABLE)
    sentinels = tuple(_address(each) for each in hosts.split(","))
    master, _, database = path.strip("/").partition("/")
    if not master:
        raise ValueError(_NO_MASTER)
    if not re.fullmatch(r"\d*", database):
        raise ValueError("the database behind the master's name must be a number, such as /0")
    arguments = parse_qsl(query)
    options = _options([each for each in arguments if not each[0].startswith(_SENTINEL_PREFIX)])
    if database:
        options["db"] = int(database)
    if scheme.lower().startswith("rediss"):
        options["ssl"] = True
    user, _, password = credentials.partition(":")
    login = {"username": unquote(user), "password": unquote(password)}
    return SentinelUrl(
        sentinels=sentinels,
        master=unquote(master),
        options={**options, **{name: value for name, value in login.items() if value}},
        sentinel_options=_options(
            [
                (name.removeprefix(_SENTINEL_PREFIX), value)
                for name, value in arguments
                if name.startswith(_SENTINEL_PREFIX)
            ]
        ),
    )


def _address(text: str) -> tuple[str, int]:
    found = _ADDRESS.fullmatch(text)
    if found is None:
        raise ValueError(_UNREADABLE)
    in_brackets, plain, port = found.groups()
    return unquote(in_brackets or plain), int(port or SENTINEL_PORT)


def _options(arguments: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Return arguments of a query as redis-py reads those of its own URLs: numbers as numbers."""
    return dict(parse_url(f"redis://?{urlencode(arguments)}"))
