"""What the fork server imports, once for all children of a worker: Dagster, what runs a task, and
what nearly every task imports as it starts.

Afterwards all of this is excluded from garbage collection for good. So the children do not search
it, and its memory stays shared between them, which is so only as long as it is not written to
(``gc.freeze`` in Python's library reference).
"""

import gc
from importlib import import_module

from dagster_taskiq.bulk_imports import bulk_imports

_MODULES = (
    "dagster_taskiq.worker.child.main",
    "dagster_taskiq.transport.sql.sqlite.transport",
    "dagster_taskiq.transport.redis.broker",
    "dagster_taskiq.transport.redis.backend",
    "dagster_taskiq.executor",
    "dagster_taskiq.runs.run_loop",
    "dagster._core.executor.in_process",
    "dagster._core.storage.event_log.sqlite.sqlite_event_log",
    "dagster._core.storage.local_compute_log_manager",
    "dagster._core.storage.root",
    "dagster._core.storage.runs.sqlite.sqlite_run_storage",
    "dagster._core.storage.schedules.sqlite.sqlite_schedule_storage",
    "dagster._core.storage.sqlite_storage",
    "dagster._core.workspace.autodiscovery",
    "upath",
)

with bulk_imports():
    for _name in _MODULES:
        import_module(_name)
    from dagster_taskiq.dagster_internals import migrations, registry

    # Before any of it is replaced; what is found out is there in all children.
    registry.find_problems()
    migrations.install()
    gc.freeze()
