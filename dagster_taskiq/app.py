"""This process's broker, for taskiq's own commands and for a project's own tasks.

``taskiq worker dagster_taskiq.app:broker`` and ``taskiq scheduler dagster_taskiq.app:scheduler``
find it here, and a module of tasks writes ``from dagster_taskiq.app import broker`` and
``@broker.task``. The broker is the one that the environment names; in a process of a worker it is
the worker's. ``schedule_source`` is for ``task.schedule_by_cron(schedule_source, ...)``.
"""

import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

from taskiq import BrokerMessage

from dagster_taskiq.schedules import Scheduler, StoredSchedules
from dagster_taskiq.settings.env import read_variable
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.transport import current
from dagster_taskiq.transport.broker import QueueBroker
from dagster_taskiq.transport.memory.broker import MemoryBroker

#: Queues of a worker that was started by ``taskiq worker``, separated by commas.
QUEUES_ENV = "DAGSTER_TASKIQ_QUEUES"


def make(settings: Settings) -> QueueBroker:
    """Return a new broker with its backend; nothing is connected.

    ``taskiq worker`` can be started on it: it starts the worker's own service.

    Raises:
        ConfigError: the settings name a broker or backend of a kind that does not exist.
    """
    broker = current.make(settings)
    current.note_made_by_project(broker)
    return _ready(broker)


def __getattr__(name: str) -> Any:
    if name == "broker":
        return _ready(current.broker())
    if name == "schedule_source":
        return StoredSchedules(current.broker())
    if name == "scheduler":
        return Scheduler(current.broker())
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _ready(broker: QueueBroker) -> QueueBroker:
    """Have a broker start the worker service when it listens in ``taskiq worker``.

    One that is in memory executes tasks where they are sent.
    """
    if isinstance(broker, MemoryBroker):
        broker.execute = partial(_execute_in_place, broker)
    if broker.make_service is None and not broker.is_worker_process:
        broker.make_service = partial(_service_from_environment, broker)
    return broker


async def _execute_in_place(broker: QueueBroker, message: BrokerMessage) -> None:
    # Imported here: what executes tasks takes a moment to import, and a sender does not need it.
    from dagster_taskiq.execution.in_place import execute_in_place  # noqa: PLC0415

    await execute_in_place(broker, message)


def _service_from_environment(broker: QueueBroker) -> Any:
    # Imported here: only a worker needs it, and a sender does not.
    from dagster_taskiq.execution.allowed_code import allowed_entries  # noqa: PLC0415
    from dagster_taskiq.worker.options import (  # noqa: PLC0415
        PoolOptions,
        WorkerOptions,
        default_async_tasks,
        default_concurrency,
        default_max_runs,
        default_name,
    )
    from dagster_taskiq.worker.service import WorkerService  # noqa: PLC0415

    # taskiq's command has imported the tasks with this directory in the path, and has taken it out
    # again; the children import them as well.
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    queues = (read_variable(QUEUES_ENV) or "").split(",")
    names = tuple(name.strip() for name in queues if name.strip())
    slots, slots_source = default_concurrency()
    options = WorkerOptions(
        name=default_name(),
        queues=names or (broker.settings.queue,),
        slots_source=slots_source,
        pool=PoolOptions(
            concurrency=slots,
            max_runs=default_max_runs(slots),
            async_tasks=default_async_tasks(),
            allow=allowed_entries(()),
        ),
    )
    # taskiq's own worker process ends on these two, gently and at once.
    drain = partial(os.kill, os.getpid(), signal.SIGTERM)
    kill = partial(os.kill, os.getpid(), signal.SIGKILL)
    return WorkerService(broker, options, on_drain=drain, on_kill=kill)
