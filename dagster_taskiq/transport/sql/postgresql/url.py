"""The URL of a PostgreSQL database: what libpq reads of it, and the schema of our tables."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

import psycopg2
from psycopg2.extensions import parse_dsn

from dagster_taskiq.errors import ConfigError
from dagster_taskiq.settings.urls import redact
from dagster_taskiq.transport.sql.postgresql.ddl import DEFAULT_SCHEMA

#: The arguments of a URL's query, and options, that are ours and not libpq's: the name of that
#: schema; whether tables are created, which they are unless it is "false"; and, as JSON, the
#: ``auth_provider`` of dagster-postgres, which makes the passwords.
SCHEMA, CREATE_TABLES, AUTH_PROVIDER = "schema", "create_tables", "auth_provider"
_OURS = (SCHEMA, CREATE_TABLES, AUTH_PROVIDER)
#: PostgreSQL cuts longer names off, in bytes.
NAME_BYTES = 63

#: What connections are made with, unless the URL or an option has something else. Without the last
#: four, a connection whose other end is gone is noticed after hours.
DEFAULTS: Mapping[str, Any] = {
    "application_name": "dagster-taskiq",
    "client_encoding": "utf8",
    "keepalives_idle": 30,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}


@dataclass(frozen=True)
class PostgresqlTarget:
    """A database, and the schema in it that has our tables."""

    #: The parameters of libpq, with the password.
    parameters: Mapping[str, Any] = field(repr=False)
    schema: str = DEFAULT_SCHEMA
    #: Whether our tables are created and changed by us.
    creates_tables: bool = True
    #: The config of what makes the passwords, as dagster-postgres has it, if not the URL.
    auth_provider: Mapping[str, Any] | None = None


def read_url(url: str, options: Mapping[str, Any], timeout: float) -> PostgresqlTarget:
    """Return the database that a URL and options name.

    Args:
        url: ``postgresql://`` or ``postgres://``, as libpq reads it; its query may have ours too.
        options: more parameters, of libpq and ours; they win over those of the URL.
        timeout: how long connecting may take, in seconds.

    Raises:
        ConfigError: the URL cannot be read, or the schema's name not be used.
    """
    parts = urlsplit(url)
    pairs = [pair.partition("=") for pair in parts.query.split("&") if pair]
    ours = {name: unquote(value) for name, _, value in pairs if name in _OURS}
    others = ["".join(pair) for pair in pairs if pair[0] not in _OURS]
    given = {**ours, **options}
    plain = parts._replace(scheme="postgresql", query="&".join(others))
    try:
        of_url = parse_dsn(plain.geturl())
    except psycopg2.ProgrammingError as error:
        raise ConfigError(
            f"The URL {redact(url)!r} cannot be read: {_problem(error)}. Write "
            "postgresql://USER:PASSWORD@HOST:PORT/DATABASE; special characters in user and "
            "password have to be percent-encoded, such as %2F for a slash."
        ) from None
    of_options = {name: value for name, value in options.items() if name not in _OURS}
    # libpq counts whole seconds, and two at least.
    connecting = {"connect_timeout": max(2, round(timeout))}
    return PostgresqlTarget(
        parameters={**DEFAULTS, **connecting, **of_url, **of_options},
        schema=check_schema(str(given.get(SCHEMA, DEFAULT_SCHEMA))),
        creates_tables=str(given.get(CREATE_TABLES, True)).lower() not in ("false", "0", "no"),
        auth_provider=json.loads(given[AUTH_PROVIDER]) if given.get(AUTH_PROVIDER) else None,
    )


def check_schema(name: str) -> str:
    """Return the name of a schema.

    Raises:
        ConfigError: PostgreSQL cannot have one of this name.
    """
    if not name.strip() or len(name.encode()) > NAME_BYTES or "\0" in name:
        raise ConfigError(
            f"{name!r} cannot be the schema of the broker's tables: a name has 1 to {NAME_BYTES} "
            "bytes."
        )
    return name


def _problem(error: psycopg2.Error) -> str:
    """Return what is wrong with a URL. Most texts of libpq quote it, with the password."""
    unknown = re.search(r'invalid URI query parameter: "(\w+)"', str(error))
    return f"libpq has no parameter {unknown[1]!r}" if unknown else "it is no URL as libpq has them"
