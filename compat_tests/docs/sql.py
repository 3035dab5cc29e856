"""SQL on the pages is executed, in a PostgreSQL database that has this project's tables."""

import re

import psycopg2
from psycopg2.errors import ActiveSqlTransaction

from compat_tests.docs.blocks import Block
from compat_tests.docs.outcome import Wrong
from compat_tests.sending import open_sender
from compat_tests.servers import any_postgres, new_database
from dagster_taskiq.settings.settings import Settings


def check_sql(block: Block) -> None:
    """Execute each statement in one transaction, which is then taken back.

    Raises:
        Wrong: PostgreSQL refuses one.
    """
    with any_postgres() as server, new_database(server) as database:
        with open_sender(Settings(broker=database)):
            pass  # has made the tables
        connection = psycopg2.connect(database)
        try:
            with connection.cursor() as cursor:
                for statement in re.split(r";\s*(?:--.*)?\n", block.code):
                    if re.sub(r"--.*", "", statement).strip(" ;\n"):
                        cursor.execute("SAVEPOINT before")
                        try:
                            cursor.execute(statement)
                        except ActiveSqlTransaction:
                            # It was read, and cannot be taken back, such as CREATE DATABASE.
                            cursor.execute("ROLLBACK TO before")
        except psycopg2.Error as error:
            raise Wrong(f"PostgreSQL refuses this; correct it: {error}") from None
        finally:
            connection.rollback()
            connection.close()
