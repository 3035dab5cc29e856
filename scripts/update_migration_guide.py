#!/usr/bin/env python3
"""Writes the tables of docs/migration.md anew, from the code that they describe.

    python scripts/update_migration_guide.py [FILE]

Each table stands between a line <!-- table: NAME --> and a line <!-- end -->. Run it with a Python
that has this project installed: .venv/bin/python scripts/update_migration_guide.py
"""

import re
import sys
from pathlib import Path

from dagster_celery._translate import tables
from dagster_celery._translate.names import COMMANDS, NAMES

GUIDE = Path(__file__).parent.parent / "docs" / "migration.md"


def names() -> str:
    """Return the table of every public name and command, and what to write instead."""
    rows = [("older", "now"), ("---", "---")]
    rows += [
        (f"`{module}.{name}`", f"{instead[0].upper()}{instead[1:]}.")
        for module, held in NAMES.items()
        for name, instead in held.items()
    ]
    rows += [(f"`dagster-celery {old}`", f"Run {new}.") for old, new in COMMANDS.items()]
    return "\n".join(f"| {older} | {instead} |" for older, instead in rows)


TABLES = {
    "names": names,
    "broker-schemes": tables.broker_schemes,
    "backend-schemes": tables.backend_schemes,
    "settings": tables.celery_settings,
    "transport-options": tables.transport_options,
    "tls-options": tables.tls_options,
    "worker-options": tables.worker_options,
}


def with_tables(text: str) -> str:
    """Return a text with each of its tables as the code has it now.

    Raises:
        KeyError: it has a place for a table that nobody makes.
    """

    def fill(place: "re.Match[str]") -> str:
        return f"{place['start']}\n{TABLES[place['name']]().strip()}\n<!-- end -->"

    marked = r"(?P<start><!-- table: (?P<name>[\w-]+) -->)\n.*?<!-- end -->"
    return re.sub(marked, fill, text, flags=re.DOTALL)


if __name__ == "__main__":
    path = Path(sys.argv[1]) if sys.argv[1:] else GUIDE
    path.write_text(with_tables(path.read_text()))
