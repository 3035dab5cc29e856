"""Whether a Dagster instance is one that a command of Dagster's has made for itself alone."""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from dagster_taskiq.dagster_internals.part import DagsterPart

if TYPE_CHECKING:
    from dagster import DagsterInstance

#: How Dagster names such a directory.
TEMPORARY_HOME_PREFIX = ".tmp_dagster_home_"


def _check() -> str:
    prefix = import_module("dagster._cli.utils").TMP_DAGSTER_HOME_PREFIX
    return "" if prefix == TEMPORARY_HOME_PREFIX else f"it is {prefix!r}"


PART = DagsterPart(
    name="temporary instances",
    touches="dagster._cli.utils.TMP_DAGSTER_HOME_PREFIX (relied on)",
    why=(
        "If $DAGSTER_HOME is not set, `dagster dev`, `dagster job execute` and their like make a "
        "directory in the working directory, keep an instance there, hand it on to the processes "
        "they start, and remove it when they end. Such an instance is an ordinary, persistent one, "
        "and only the name of the directory tells. No worker finds a queue there, and a run would "
        'wait for ever. Dagster keeps the name fixed "so that consumer projects can reliably '
        'manage" it.'
    ),
    otherwise=(
        "No instance counts as temporary; a run that waits for a worker names its broker, with the "
        "path."
    ),
    check=_check,
)


def temporary_home_of(instance: "DagsterInstance") -> str | None:
    """Return the temporary directory of an instance; ``None`` if the instance stays."""
    if not instance.is_persistent:
        return None
    directory = instance.root_directory
    return directory if Path(directory).name.startswith(TEMPORARY_HOME_PREFIX) else None


def note_on_temporary_home(instance: "DagsterInstance") -> str:
    """Return a sentence on which workers can execute a temporary instance's run; else nothing."""
    # Imported here: this module is read by commands that do without Dagster.
    from dagster._core.storage.runs import SqliteRunStorage  # noqa: PLC0415

    home = temporary_home_of(instance)
    if home is None or not isinstance(instance.run_storage, SqliteRunStorage):
        return ""
    return (
        f"DAGSTER_HOME is not set, so this run is in a temporary Dagster instance ({home}): only "
        "workers on this machine can read it, and only until the command that made it ends."
    )
