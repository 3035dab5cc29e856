"""What the fork server imports, once for all children of a worker: Dagster, what runs a task, and
what nearly every task imports as it starts.

The garbage collector rests meanwhile: of what is imported nothing is garbage, and looking for some
takes up to two fifths of the time. Afterwards it is told to leave all of this alone for good. So
the children do not look through it either, and its memory stays shared between them, which it is
only for as long as nobody writes to it (``gc.freeze`` in Python's library reference).
"""

import gc
from importlib import import_module

_MODULES = (
    "dagster_taskiq.worker.child",
    "dagster_taskiq.brokers.sql",
    "dagster_taskiq.backends.sql",
    "dagster_taskiq.brokers.redis",
    "dagster_taskiq.backends.redis",
    "dagster._core.storage.event_log.sqlite.sqlite_event_log",
    "dagster._core.storage.runs.sqlite.sqlite_run_storage",
)

gc.disable()
try:
    for _name in _MODULES:
        import_module(_name)
    gc.freeze()
finally:
    gc.enable()
