"""The statements that make our tables in PostgreSQL.

Each file of ``steps/`` is one step, which is never changed after its release. A step only adds, so
processes of the release before go on beside those of the new one.
"""

from pathlib import Path

#: The schema that has our tables, unless the URL or an option names another one.
DEFAULT_SCHEMA = "dagster_taskiq"
#: The steps, in order; the number of one is its version.
STEPS = sorted(Path(__file__).with_name("steps").glob("*.sql"), key=lambda each: int(each.stem))
#: The version of the tables that this release needs, at least.
VERSION = int(STEPS[-1].stem)
#: Begins a transaction, whose locks the server releases if this process is frozen in it.
BEGIN = "BEGIN; SET LOCAL idle_in_transaction_session_timeout = '5s'"
#: Distinguishes our advisory locks from those of other programs in the same database.
LOCK_SALT = 0x646167737461736B


def quoted(schema: str) -> str:
    """Return the name of a schema as an identifier."""
    escaped = schema.replace('"', '""')
    return f'"{escaped}"'


def ddl(schema: str, after: int = 0) -> str:
    """Return the statements that make our tables.

    Args:
        schema: where.
        after: the version that is there already.
    """
    steps = [each.read_text() for each in STEPS if int(each.stem) > after]
    return "\n".join(steps).replace("{schema}", quoted(schema))


def full_ddl(schema: str) -> str:
    """Return the script that makes schema and tables in a database that has none of them."""
    return f"BEGIN;\n\nCREATE SCHEMA IF NOT EXISTS {quoted(schema)};\n\n{ddl(schema)}\nCOMMIT;\n"
