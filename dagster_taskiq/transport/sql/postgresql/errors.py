"""What the errors of psycopg2, and of PostgreSQL as it refuses a connection, mean."""

import re

import psycopg2
import sqlalchemy as sa

from dagster_taskiq.errors import ConfigError, DagsterTaskiqError
from dagster_taskiq.transport.error_boundary import ErrorBoundary

#: What libpq or the server answers to a client that must change something, by what to change.
#: psycopg2 gives the SQLSTATE of an answer to a statement only, not of a refused connection.
REFUSALS = {
    "the user and password in its URL": (
        r"password authentication failed|no password supplied|role \".*\" does not exist|"
        r"role \".*\" is not permitted to log in|authentication failed|"
        r"no pg_hba\.conf entry|not in user list|no such user"
    ),
    "the database in its URL": (
        r"database \".*\" does not exist|no such database|permission denied for database"
    ),
    "`sslmode`, and the files of certificates that are named, in its URL or options": (
        r"does not support SSL|certificate verify failed|root certificate file|"
        r"certificate file .* does not exist|could not (load|read) .*(certificate|key)|"
        r"SSL (connection )?is required|server certificate for"
    ),
    "the parameters in its URL and options": (
        r"invalid connection option|invalid .*mode value|invalid (integer|port)"
    ),
}
#: The same of an answer to a statement: its SQLSTATE, or the class that begins it.
REFUSED_STATES = {
    "28": "the user and password in its URL",
    "3D": "the database in its URL",
    "42501": "what its user may do: our schema must be its own, or made for it with "
    "`dagster-taskiq storage ddl`",
}
#: Classes of SQLSTATE, and single ones, that mean "not now": the connection is lost; a transaction
#: collided with another one; disk, memory or connections are used up; an operator or a shutdown
#: interfered; input and output fail; the server is a standby for reading only, or has lost our
#: tables.
NOT_NOW = ("08", "40", "53", "55", "57", "58", "XX", "25006", "3F000", "42P01")


class PostgresqlErrors(ErrorBoundary):
    """The boundary of a PostgreSQL server."""

    def translate(self, error: Exception) -> DagsterTaskiqError | None:
        """See the base class. SQLAlchemy's own texts are not used: they quote the statement."""
        if isinstance(error, sa.exc.DBAPIError) and isinstance(error.orig, Exception):
            error = error.orig
        if not isinstance(error, psycopg2.Error):
            return None
        text, state = _first_line(error), error.pgcode or ""
        for refused, what in REFUSED_STATES.items():
            if state.startswith(refused):
                return self.refused(text, what)
        if not state and isinstance(error, psycopg2.OperationalError | psycopg2.ProgrammingError):
            for what, pattern in REFUSALS.items():
                if re.search(pattern, text):
                    return self.refused(text, what)
        lost = not state and isinstance(error, psycopg2.OperationalError | psycopg2.InterfaceError)
        # What psycopg2 raises for a connection that breaks in the middle of an answer.
        broken = not state and type(error) is psycopg2.DatabaseError
        if lost or broken or state.startswith(NOT_NOW):
            return self.unavailable(text)
        return None

    def refused(self, text: str, what: str) -> ConfigError:
        """Return the error for a server that refuses us.

        Args:
            text: what it has answered.
            what: what to check.
        """
        return ConfigError(f"{self.shown} does not let us in: {text.rstrip('.')}. Check {what}.")


def is_conflict(error: sa.exc.DBAPIError) -> bool:
    """Return whether a transaction has to be repeated, because of one that ran beside it.

    It has inserted a row that the other has inserted first, or each waited for the other.
    """
    code = getattr(error.orig, "pgcode", None) or ""
    return code == "23505" or code.startswith("40")


def is_undefined(error: sa.exc.DBAPIError) -> bool:
    """Return whether a statement failed because its table or schema is not there."""
    return (getattr(error.orig, "pgcode", None) or "") in ("42P01", "3F000")


def _first_line(error: Exception) -> str:
    """Return the first line of an error that says something; those of several hosts on one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    connecting = [line for line in lines if "connection to server" in line or "FATAL" in line]
    if connecting:
        return "; ".join(dict.fromkeys(connecting))
    return lines[0] if lines else type(error).__name__
