"""The tables of a PostgreSQL broker, as tests look into them and change them."""

import contextlib
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psycopg2

from dagster_taskiq.transport.sql.postgresql.ddl import DEFAULT_SCHEMA


@contextlib.contextmanager
def our_tables(url: str) -> Iterator[Any]:
    """Yield a cursor that finds the tables of the broker at a URL; each statement is committed."""
    parts = urlsplit(url)
    (schema,) = parse_qs(parts.query).get("schema", [DEFAULT_SCHEMA])
    with contextlib.closing(psycopg2.connect(parts._replace(query="").geturl())) as connection:
        connection.autocommit = True
        cursor = connection.cursor()
        cursor.execute(f"SET search_path TO {schema}")
        yield cursor
