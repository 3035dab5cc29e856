"""The tables as Markdown, for ``docs/reference/celery-settings.md``."""

from collections.abc import Callable, Iterable, Sequence

from dagster_celery._translate.connections.option_rows import TLS, TRANSPORT
from dagster_celery._translate.rows import Row
from dagster_celery._translate.settings.names import old_name
from dagster_celery._translate.settings.rows import SETTINGS, UNDECLARED
from dagster_celery._translate.urls.backend_schemes import BACKENDS
from dagster_celery._translate.urls.broker_schemes import BROKERS
from dagster_celery._translate.worker.option_rows import WORKER_OPTIONS


def broker_schemes() -> str:
    """Return the table of every broker scheme that kombu knows."""
    return _table(("broker", "fate", "here"), BROKERS.values(), lambda row: (f"`{row.name}://`",))


def backend_schemes() -> str:
    """Return the table of every result backend scheme that Celery knows."""
    return _table(("backend", "fate", "here"), BACKENDS.values(), lambda row: (f"`{row.name}://`",))


def celery_settings() -> str:
    """Return the table of all settings that Celery declares, and of those it reads undeclared."""
    declared = _table(
        ("setting", "older name", "fate", "here"),
        SETTINGS.values(),
        lambda row: (f"`{row.name}`", f"`{old_name(row.name)}`"),
    )
    return declared + _lines(UNDECLARED.values(), lambda row: (f"`{row.name}`", ""))


def worker_options() -> str:
    """Return the table of every option of ``celery worker``."""
    return _table(
        ("option of `celery worker`", "fate", "of `dagster-taskiq worker start`"),
        WORKER_OPTIONS.values(),
        lambda row: (", ".join(f"`{flag}`" for flag in WORKER_OPTIONS[row.name].flags),),
    )


def transport_options() -> str:
    """Return the table of what ``broker_transport_options`` may hold."""
    return _table(
        ("transport option", "fate", "here"), TRANSPORT.values(), lambda row: (f"`{row.name}`",)
    )


def tls_options() -> str:
    """Return the table of what ``broker_use_ssl`` and ``redis_backend_use_ssl`` may hold."""
    return _table(
        ("TLS option, also with `ssl_`", "fate", "in `broker_options`"),
        TLS.values(),
        lambda row: (f"`{row.name}`",),
    )


def _table(head: Sequence[str], rows: Iterable[Row], first: Callable[[Row], Sequence[str]]) -> str:
    return f"{_line(head)}{_line(['---'] * len(head))}{_lines(rows, first)}"


def _lines(rows: Iterable[Row], first: Callable[[Row], Sequence[str]]) -> str:
    return "".join(_line((*first(row), row.fate.value, _sentence(row.explanation))) for row in rows)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n"


def _sentence(explanation: str) -> str:
    return f"{explanation[0].upper()}{explanation[1:]}"
