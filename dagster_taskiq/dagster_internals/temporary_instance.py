"""Whether a Dagster instance is one that a command of Dagster's has made for itself alone.

Touched: nothing of Dagster is replaced. Where ``$DAGSTER_HOME`` is not set, ``dagster dev``,
``dagster job execute`` and their like make a directory in the working directory, keep an instance
there, hand it on to the processes they start, and remove it when they end.

Why: such an instance is an ordinary, persistent one, and no property of it tells. No worker finds a
queue in that directory, and a run would wait there for ever.

Checked: the directory's name begins as ``dagster._cli.utils.TMP_DAGSTER_HOME_PREFIX``, which
Dagster keeps fixed "so that consumer projects can reliably manage" it. A test compares both.

Where Dagster is not as expected: no instance counts as temporary, and a run that waits for a worker
names the broker it waits at, with its path.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dagster import DagsterInstance

#: How Dagster names such a directory.
TEMPORARY_HOME_PREFIX = ".tmp_dagster_home_"


def temporary_home_of(instance: "DagsterInstance") -> str | None:
    """Return the temporary directory that an instance lives in; ``None`` for one that stays."""
    if not instance.is_persistent:
        return None
    directory = instance.root_directory
    return directory if Path(directory).name.startswith(TEMPORARY_HOME_PREFIX) else None


def note_on_temporary_home(instance: "DagsterInstance") -> str:
    """Return a sentence on who can execute what is in a temporary instance; empty for another."""
    # Imported here: this module is read by commands that do without Dagster.
    from dagster._core.storage.runs import SqliteRunStorage  # noqa: PLC0415

    home = temporary_home_of(instance)
    if home is None or not isinstance(instance.run_storage, SqliteRunStorage):
        return ""
    return (
        f"DAGSTER_HOME is not set, so this run is in a temporary Dagster instance ({home}): only "
        "workers on this machine can read it, and only until the command that made it ends."
    )
