"""This process's broker, for taskiq's own commands and for a project's own tasks.

``taskiq worker dagster_taskiq.app:broker`` and ``taskiq scheduler`` find it here, and a module of
tasks writes ``from dagster_taskiq.app import broker`` and ``@broker.task``. Which broker that is
is said by the environment, or by whoever called :func:`use` before: a worker tells its children.
"""

import os
import signal
import sys
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from dagster_taskiq.backends import make_backend
from dagster_taskiq.brokers import make_broker
from dagster_taskiq.brokers.base import QueueBroker
from dagster_taskiq.env import read_variable
from dagster_taskiq.errors import ConfigError
from dagster_taskiq.settings import Settings
from dagster_taskiq.worker.cores import usable_cores

#: Slots of a worker that was not told how many.
CONCURRENCY_ENV = "DAGSTER_TASKIQ_CONCURRENCY"
#: Queues of a worker that was started by ``taskiq worker``, with commas between.
QUEUES_ENV = "DAGSTER_TASKIQ_QUEUES"

#: The attributes of a module that may hold its broker, in the order they are looked for.
APP_ATTRIBUTES = ("broker", "app")

_current: QueueBroker | None = None


def make(settings: Settings) -> QueueBroker:
    """Return a new broker with its backend; nothing is connected.

    Raises:
        ConfigError: the settings name a broker or backend that nothing serves.
    """
    settings = settings.resolved()
    broker = make_broker(settings)
    broker.result_backend = make_backend(settings, beside=broker)
    broker.make_service = partial(_service_from_environment, broker)
    return broker


def use(settings: Settings) -> QueueBroker:
    """Make a broker, and make it the one that ``dagster_taskiq.app.broker`` is in this process."""
    global _current  # noqa: PLW0603 - it is what the attribute of this module reads
    _current = make(settings)
    return _current


def load(app: str) -> QueueBroker:
    """Return the broker of a project's own app, whose module is imported for it.

    Args:
        app: ``module``, which has it as ``broker`` or ``app``, or ``module:name``.

    Raises:
        ConfigError: there is no such module, or no broker of this package in it.
    """
    module_name, _, name = app.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    if not module_name:
        raise ConfigError(f"The app {app!r} names no module. Write MODULE, or MODULE:NAME.")
    try:
        module = import_module(module_name)
    except ConfigError:
        raise
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
        raise ConfigError(
            f"Cannot import the module {module_name} of the app: {problem}"
        ) from error
    names = (name,) if name else APP_ATTRIBUTES
    for each in names:
        found = getattr(module, each, None)
        # An object of another kind may have one inside, made when it is asked for.
        found = found if isinstance(found, QueueBroker) else getattr(found, "taskiq_broker", None)
        if isinstance(found, QueueBroker):
            return found
    raise ConfigError(
        f"The module {module_name} has no broker of dagster_taskiq named {' or '.join(names)}. "
        "Import dagster_taskiq.app.broker there, or make one with dagster_taskiq.app.make()."
    )


def __getattr__(name: str) -> Any:
    if name != "broker":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _current if _current is not None else use(Settings.from_dict({}))


def default_concurrency() -> tuple[int, str]:
    """Return how many slots a worker has that was not told, and where the number comes from.

    That is ``$DAGSTER_TASKIQ_CONCURRENCY``, or the cores that this process may use.

    Raises:
        ConfigError: the variable is not a positive integer.
    """
    text = read_variable(CONCURRENCY_ENV)
    if text is None:
        return usable_cores()
    if not text.isdigit() or int(text) < 1:
        raise ConfigError(f"{CONCURRENCY_ENV} must be a positive integer, but it is {text!r}.")
    return int(text), CONCURRENCY_ENV


def _service_from_environment(broker: QueueBroker) -> Any:
    # Imported here: a sender has no use for what a worker needs.
    from dagster_taskiq.allowed_code import allowed_entries  # noqa: PLC0415
    from dagster_taskiq.worker.pool import PoolOptions, default_max_runs  # noqa: PLC0415
    from dagster_taskiq.worker.service import (  # noqa: PLC0415
        WorkerOptions,
        WorkerService,
        default_name,
    )

    queues = (read_variable(QUEUES_ENV) or "").split(",")
    names = tuple(name.strip() for name in queues if name.strip())
    slots, slots_source = default_concurrency()
    options = WorkerOptions(
        name=default_name(),
        queues=names or (broker.settings.queue,),
        slots_source=slots_source,
        pool=PoolOptions(
            concurrency=slots, max_runs=default_max_runs(slots), allow=allowed_entries(())
        ),
    )
    # taskiq's own worker process ends on these two, gently and at once.
    drain = partial(os.kill, os.getpid(), signal.SIGTERM)
    kill = partial(os.kill, os.getpid(), signal.SIGKILL)
    return WorkerService(broker, options, on_drain=drain, on_kill=kill)
