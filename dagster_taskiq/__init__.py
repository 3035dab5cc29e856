"""Run Dagster on a task queue: an executor, a run launcher, a worker and brokers, on taskiq."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dagster_shared.libraries import DagsterLibraryRegistry

from dagster_taskiq.distribution.package_files import warn_if_not_ours
from dagster_taskiq.version import __version__

if TYPE_CHECKING:
    from dagster_taskiq.executor import TaskiqExecutor, taskiq_executor
    from dagster_taskiq.launcher import TaskiqRunLauncher

__all__ = ["TaskiqExecutor", "TaskiqRunLauncher", "__version__", "taskiq_executor"]

# Imported when they are asked for: Dagster takes seconds to import, and a worker has better to do
# meanwhile (see cli).
_WHERE = {
    "TaskiqExecutor": "dagster_taskiq.executor",
    "TaskiqRunLauncher": "dagster_taskiq.launcher",
    "taskiq_executor": "dagster_taskiq.executor",
}

# Dagster shows the libraries of a code location. Those of its own have the releases of Dagster.
DagsterLibraryRegistry.register("dagster-taskiq", __version__, is_dagster_package=False)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)


warn_if_not_ours(stacklevel=2)
