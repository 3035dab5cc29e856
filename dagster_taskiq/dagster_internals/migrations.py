"""Sparing each child the reading of Dagster's migrations, of which there are some ninety.

Whenever one of Dagster's SQL storages is opened, it compares the revision of its tables with the
newest there is, and reads all migrations to find out which that is; the three of an instance do so
one after the other, which takes as long as several small steps. The fork server reads them once,
and the children have them from there.
"""

import importlib
from typing import Any

#: The module of Dagster that compares revisions.
_MODULE = "dagster._core.storage.sql"
#: A module whose place is that of Dagster's Alembic configuration, for that of all.
_CONFIGURED = "dagster._core.storage.event_log.sqlite.sqlite_event_log"


def install() -> bool:
    """Read the migrations, and let this process and its forks use what was read.

    Returns:
        Whether that was possible. Where Dagster's inside is not as expected, nothing is changed.
    """
    module: Any = importlib.import_module(_MODULE)
    if not hasattr(module, "ScriptDirectory") or not hasattr(module, "get_alembic_config"):
        return False
    theirs: Any = module.ScriptDirectory
    read: dict[str, Any] = {}

    class KeptScripts(theirs):  # type: ignore[misc] # whatever it is there
        """Alembic's directory of migrations, read once for each place."""

        @classmethod
        def from_config(cls, config: Any) -> Any:
            place = str(config.get_main_option("script_location"))
            if place not in read:
                read[place] = theirs.from_config(config)
            return read[place]

    config = module.get_alembic_config(importlib.import_module(_CONFIGURED).__file__)
    KeptScripts.from_config(config).as_revision_number("head")
    module.ScriptDirectory = KeptScripts
    return True
