"""Reading Dagster's migrations once for all children of a worker."""

import importlib
from typing import Any

import wrapt

from dagster_taskiq.dagster_internals.part import DagsterPart

#: The module of Dagster that compares revisions, and the class with which it does so.
_MODULE = "dagster._core.storage.sql"
_CLASS = "ScriptDirectory"
#: A module in whose directory Dagster's Alembic configuration is; all storages have the same.
_CONFIGURED = "dagster._core.storage.event_log.sqlite.sqlite_event_log"


def _check() -> str:
    module = importlib.import_module(_MODULE)
    missing = [name for name in (_CLASS, "get_alembic_config") if not hasattr(module, name)]
    return f"there is no {missing[0]}" if missing else ""


PART = DagsterPart(
    name="migrations read once",
    touches=f"{_MODULE}.{_CLASS} (wrapped)",
    why=(
        "Each SQL storage that is opened compares the revision of its tables with the newest one, "
        "and reads all of some ninety migrations to find that. The three storages of an instance "
        "do so one after the other, which takes as long as several small steps. The fork server "
        "reads them once, and its children use what it has read."
    ),
    otherwise="Each child reads all migrations when it opens an instance.",
    check=_check,
)


class _ReadOnce(wrapt.ObjectProxy):  # type: ignore[misc,type-arg,unused-ignore]
    """Alembic's ``ScriptDirectory``, of which there is one object for each directory."""

    def __init__(self, wrapped: Any) -> None:
        super().__init__(wrapped)
        self._self_read: dict[str, Any] = {}

    def from_config(self, config: Any) -> Any:
        """Return the migrations in the directory that a configuration names (Alembic's own)."""
        directory = str(config.get_main_option("script_location"))
        if directory not in self._self_read:
            self._self_read[directory] = self.__wrapped__.from_config(config)
        return self._self_read[directory]


def install() -> bool:
    """Read the migrations, and let this process and its forks use what was read.

    Returns:
        Whether Dagster is as expected; otherwise nothing is changed.
    """
    if PART.find_problem():
        return False
    module: Any = importlib.import_module(_MODULE)
    scripts = wrapt.wrap_object(module, _CLASS, _ReadOnce)
    config = module.get_alembic_config(importlib.import_module(_CONFIGURED).__file__)
    scripts.from_config(config).as_revision_number("head")
    return True
