"""What the errors of SQLAlchemy and SQLite mean."""

import sqlite3

import sqlalchemy as sa

from dagster_taskiq.errors import DagsterTaskiqError
from dagster_taskiq.transport.error_boundary import ErrorBoundary


class SqliteErrors(ErrorBoundary):
    """The boundary of a SQLite file: one that is locked, full, lost or damaged may be repaired."""

    advice = (
        "Check that its file may be written, that there is room on its disk, and that no other "
        "program keeps it locked."
    )

    def translate(self, error: Exception) -> DagsterTaskiqError | None:
        """See the base class. SQLAlchemy's own texts are not used: they quote the statement."""
        if isinstance(error, sa.exc.OperationalError | sa.exc.InterfaceError):
            return self.unavailable(str(error.orig))
        # A subclass of DatabaseError that is not named above is a fault of the statement.
        if type(error) is sa.exc.DatabaseError:
            return self.unavailable(str(error.orig))
        if isinstance(error, sqlite3.OperationalError | OSError):
            return self.unavailable(error)
        return None
