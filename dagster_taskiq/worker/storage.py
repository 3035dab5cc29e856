"""Sparing a child the making of a SQLAlchemy engine for each event of a SQLite event log.

Dagster's SQLite storages make an engine, use it for one statement and drop it, and with it every
statement that it has compiled: a third of what an event costs. In a child, which writes some ten
events for each step, engines are kept by their URL. What is executed, and when it is committed, is
unchanged; storages on a server keep their engine by themselves, and are left alone.
"""

import importlib
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

#: The modules of Dagster that make engines so.
_MODULES = (
    "dagster._core.storage.event_log.sqlite.sqlite_event_log",
    "dagster._core.storage.runs.sqlite.sqlite_run_storage",
)
#: How many engines are kept: a few files for each run, and few runs at a time.
MOST_ENGINES = 32


def install() -> int:
    """Let this process keep the engines of Dagster's SQLite storages, from now on.

    Returns:
        In how many of Dagster's modules that was done. One whose inside is not as expected is left
        as it is.
    """
    done = 0
    make = _keeping(sa.create_engine)
    for name in _MODULES:
        try:
            module: Any = importlib.import_module(name)
        except ImportError:
            continue
        if getattr(module, "create_engine", None) is sa.create_engine:
            module.create_engine = make
            done += 1
    return done


def _keeping(create_engine: Callable[..., sa.Engine]) -> Callable[..., sa.Engine]:
    engines: dict[str, sa.Engine] = {}

    def create_kept_engine(url: str, **options: Any) -> sa.Engine:
        # Only engines without a pool: one with a pool would also share connections.
        if options.get("poolclass") is not sa.pool.NullPool:
            return create_engine(url, **options)
        key = f"{url} {sorted(options.items(), key=str)}"
        engine = engines.pop(key, None) or create_engine(url, **options)
        engines[key] = engine
        while len(engines) > MOST_ENGINES:
            engines.pop(next(iter(engines))).dispose()
        return engine

    return create_kept_engine
