#!/usr/bin/env python3
"""Writes the generated tables in docs/ anew, from the code that they describe.

    python scripts/update_docs.py [FILE...]

Each table is between a line <!-- table: NAME --> and a line <!-- end -->. Run it with a Python
that has this project installed: .venv/bin/python scripts/update_docs.py
"""

import inspect
import re
import sys
from pathlib import Path

# The releases that the tests pin are those of the tables about them.
sys.path.insert(0, str(Path(__file__).parent.parent))

from compat_tests import compatibility, texts
from dagster_celery._celery_app.carried import CARRIED
from dagster_celery._celery_app.signals import NOT_SENT, SENT
from dagster_celery._celery_app.task_options import (
    LOST,
    OF_A_CALL,
    OF_A_TASK,
    OPTIONS,
    REFUSED,
    WITHOUT_EFFECT,
)
from dagster_celery._translate import tables
from dagster_celery._translate.names import COMMANDS, NAMES
from dagster_taskiq import errors as public_errors
from dagster_taskiq.settings import reference

DOCS = Path(__file__).parent.parent / "docs"
#: The pages with generated tables.
PAGES = (
    DOCS / "how-to" / "celery-tasks.md",
    DOCS / "reference" / "compatibility.md",
    DOCS / "how-to" / "migration.md",
    DOCS / "reference" / "celery-settings.md",
    DOCS / "reference" / "errors.md",
    DOCS / "reference" / "settings.md",
    DOCS / "help" / "troubleshooting.md",
)


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


def errors() -> str:
    """Return the table of every error, with the class it derives from and its docstring."""
    rows = ["| error | is a | meaning |", "| --- | --- | --- |"]
    for each in vars(public_errors).values():
        if inspect.isclass(each) and each.__module__ == public_errors.__name__:
            text = " ".join((inspect.getdoc(each) or "").split()).replace("``", "`")
            rows.append(f"| `{each.__name__}` | `{each.__base__.__name__}` | {text} |")
    return "\n".join(rows)


#: Of what the refusals of a module are about, by the beginning of its path in the package.
ABOUT = {
    "transport/redis/": "Redis",
    "transport/rabbitmq/": "RabbitMQ",
    "transport/sql/postgresql/": "PostgreSQL",
    "transport/sql/sqlite/": "the embedded broker",
    "transport/sqs/": "SQS",
    "settings/sqs_names": "SQS",
    "settings/dagster_storage": "PostgreSQL",
    "settings/": "settings",
    "schedules/": "schedules",
    "monitor/": "the monitor",
    "worker/": "starting a worker",
    "cli/": "commands",
    "execution/allowed_code": "`--allow`",
    "launcher": "the run launcher",
    "runs/": "a run's start",
    "executor": "a run's start",
}


def refusals() -> str:
    """Return the table of every text with which a setting is refused."""
    rows: dict[str, str] = {}
    for each in texts.error_texts("ConfigError", "MissingExtraError"):
        place = each.path.removeprefix("dagster_taskiq/")
        is_ours = place != each.path and not place.startswith(("demo/", "distribution/"))
        if is_ours and each.is_sentence:
            about = next((ABOUT[start] for start in ABOUT if place.startswith(start)), "other")
            rows.setdefault(" ".join(each.text.split()), about)
    found = sorted(rows.items(), key=lambda row: (row[1], row[0]))
    lines = [f"| {about} | {_quoted(text)} |" for text, about in found]
    return "\n".join(("| about | message |", "| --- | --- |", *lines))


def _quoted(text: str) -> str:
    """Return a text as a code span in a table."""
    ticks = "``" if "`" in text else "`"
    space = " " if ticks == "``" else ""
    return f"{ticks}{space}{text}{space}{ticks}".replace("|", "\\|")


def task_options() -> str:
    """Return the table of the options of Celery's tasks and calls."""
    rows = [("option", "fate", "here"), ("---", "---", "---")]
    of_both = {*OPTIONS, *OF_A_TASK, *OF_A_CALL} - {"base", "bind", "name"} - set(CARRIED)
    served = of_both | {"headers", "ignore_result", "link", "link_error"}
    rows += [(f"`{name}`", "served", "") for name in sorted(served)]
    rows += [(f"`{name}`", "no effect", "") for name in sorted(WITHOUT_EFFECT)]
    for fate, reasons in (("lost", LOST), ("refused", REFUSED)):
        rows += [(f"`{name}`", fate, f"{_sentence(reasons[name])}.") for name in sorted(reasons)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def signals() -> str:
    """Return the table of Celery's signals."""
    rows = [("signal", "fate", "here"), ("---", "---", "---")]
    rows += [
        (f"`{name}`", "sent", SENT[name] and f"{_sentence(SENT[name])}.") for name in sorted(SENT)
    ]
    rows += [
        (f"`{name}`", "not sent", f"{_sentence(NOT_SENT[name])}.") for name in sorted(NOT_SENT)
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}"


TABLES = {
    "names": names,
    "task-options": task_options,
    "signals": signals,
    "broker-schemes": tables.broker_schemes,
    "backend-schemes": tables.backend_schemes,
    "settings": tables.celery_settings,
    "transport-options": tables.transport_options,
    "tls-options": tables.tls_options,
    "worker-options": tables.worker_options,
    "errors": errors,
    "refusals": refusals,
    "executor-fields": reference.executor_fields,
    "launcher-fields": reference.launcher_fields,
    "compatibility-libraries": compatibility.libraries_table,
    "compatibility-servers": compatibility.servers_table,
}


def with_tables(text: str) -> str:
    """Return a text with each of its tables as the code has it now.

    Raises:
        KeyError: it has a place for a table that is not in ``TABLES``.
    """

    def fill(place: "re.Match[str]") -> str:
        return f"{place['start']}\n{TABLES[place['name']]().strip()}\n<!-- end -->"

    marked = r"(?P<start><!-- table: (?P<name>[\w-]+) -->)\n.*?<!-- end -->"
    return re.sub(marked, fill, text, flags=re.DOTALL)


if __name__ == "__main__":
    for page in [Path(each) for each in sys.argv[1:]] or PAGES:
        page.write_text(with_tables(page.read_text()))
