"""The broker of this process, be it a worker, a child of one, or a sender of tasks."""

import sys
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from dataclasses import dataclass
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import Any, Protocol, TypeVar
from weakref import WeakSet, WeakValueDictionary

from dagster_taskiq.errors import ConfigError
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.transport import registry
from dagster_taskiq.transport.broker import QueueBroker
from dagster_taskiq.transport.home_loop import background
from dagster_taskiq.transport.relay.relay import Relay

T = TypeVar("T")

#: The attributes of a module that may hold its broker, in the order they are looked for.
APP_ATTRIBUTES = ("broker", "app")
#: The broker of a process whose brokers are all in its memory.
MEMORY_URL = "memory://"

_current: QueueBroker | None = None
#: The brokers of this process, if all are in its memory, whatever their settings; else ``None``.
_in_memory: WeakSet[QueueBroker] | None = None
#: The way to the servers of the worker whose child this process is, if its children share that.
_relay: Relay | None = None
#: The brokers that the project of this process has made itself, in this order.
_made_by_project: WeakValueDictionary[int, QueueBroker] = WeakValueDictionary()
_numbers = count()


class Start(Protocol):
    """Starts a coroutine on some event loop, and returns its future."""

    def __call__(self, work: Callable[[], Coroutine[Any, Any, T]], /) -> Future[T]:
        """Start it."""


@dataclass(frozen=True)
class Project:
    """What the project of this process has around its tasks, and how that is called."""

    #: Has the project's middlewares.
    broker: QueueBroker
    #: Starts a coroutine that calls their hooks, on the event loop on which they were started.
    start: Start


#: That of a worker's child, which has loaded the project and executes its tasks.
_project: Project | None = None


def use_relay(relay: Relay) -> None:
    """Have :func:`make` use the connection of this process's worker to the worker's servers."""
    global _relay  # noqa: PLW0603 - it is what make() uses
    _relay = relay


def keep_in_memory() -> None:
    """Have :func:`make` make brokers in this process's memory from now on.

    Raises:
        ConfigError: this process has a broker already, which something may have imported.
    """
    global _in_memory  # noqa: PLW0603 - it is what make() uses
    if _in_memory is not None:
        return
    if _current is not None:
        raise ConfigError(
            f"This process has a broker already: {_current.settings!r}. Load the plugin of tests "
            'before the modules of the project: `addopts = "-p dagster_taskiq.testing"` in the '
            "configuration of pytest."
        )
    _in_memory = WeakSet()


def is_kept_in_memory() -> bool:
    """Return whether :func:`keep_in_memory` was called, so that there are no workers."""
    return _in_memory is not None


def brokers_in_memory() -> list[QueueBroker]:
    """Return the brokers that were made since :func:`keep_in_memory`, and are still there."""
    return list(_in_memory or ())


def make(settings: Settings) -> QueueBroker:
    """Return a new broker with its backend; nothing is connected.

    In the child of a worker, one on the worker's own servers may go through the worker. After
    :func:`keep_in_memory`, it is on no server at all.

    Raises:
        ConfigError: the settings name a broker or backend that nothing serves.
        MissingExtraError: as :func:`dagster_taskiq.transport.registry.make_broker`.
    """
    if _relay is not None and _relay.leads_to(settings):
        return _relay.make(settings)
    if _in_memory is None:
        return registry.make(settings)
    broker = registry.make(
        settings.replace(broker=MEMORY_URL, backend=None, broker_options={}, backend_options={})
    )
    _in_memory.add(broker)
    return broker


def use(settings: Settings) -> QueueBroker:
    """Make a broker, and make it ``dagster_taskiq.app.broker`` of this process.

    Raises:
        ConfigError: the settings name a broker or backend that nothing serves.
    """
    global _current  # noqa: PLW0603 - it is what broker() returns
    _current = make(settings)
    return _current


def note_made_by_project(broker: QueueBroker) -> None:
    """Note a broker that the project has made itself; it may define its tasks there."""
    _made_by_project[next(_numbers)] = broker


def made_by_project(settings: Settings) -> QueueBroker | None:
    """Return the last broker that the project has made for the same servers, if there is one."""
    servers = _servers_of(settings)
    made = [each for each in _made_by_project.values() if _servers_of(each.settings) == servers]
    return made[-1] if made else None


def use_project(project: Project) -> None:
    """Have :func:`project` return this one, in a worker's child."""
    global _project  # noqa: PLW0603 - it is what project() returns
    _project = project


def project() -> Project | None:
    """Return what the project of this process has around its tasks; ``None`` if it has no broker.

    Outside of a worker that is on the broker that the project has made last, else on the broker of
    this process; hooks are called on the event loop in the background, as for a task that
    synchronous code sends.
    """
    if _project is not None:
        return _project
    made = list(_made_by_project.values())
    broker = made[-1] if made else _current
    return None if broker is None else Project(broker, background().portal.start_task_soon)


def _servers_of(settings: Settings) -> tuple[str, str, str]:
    return settings.broker, settings.backend_url, settings.prefix


def broker() -> QueueBroker:
    """Return the broker of this process: that of :func:`use`, else that of the environment.

    Raises:
        ConfigError: the environment names a broker or backend that nothing serves.
    """
    return _current if _current is not None else use(Settings.from_dict({}))


def load(app: str) -> QueueBroker:
    """Import the module of a project's own app, and return its broker.

    Args:
        app: ``module``, whose attribute ``broker`` or ``app`` it is, or ``module:name``.

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
        # An app object of another kind may make one when this attribute is read.
        found = found if isinstance(found, QueueBroker) else getattr(found, "taskiq_broker", None)
        if isinstance(found, QueueBroker):
            return found
    raise ConfigError(
        f"The module {module_name} has no broker of dagster_taskiq named {' or '.join(names)}. "
        "Import dagster_taskiq.app.broker there, or make one with dagster_taskiq.app.make()."
    )
