"""The app of ``-A``: its place, and the options of a worker that its configuration has."""

import sys
from importlib import import_module
from pathlib import Path

from dagster_celery._celery_app.adopted import is_celerys, served
from dagster_celery._celery_app.app import CeleryApp
from dagster_taskiq.errors import ConfigError
from dagster_taskiq.transport.broker import QueueBroker

#: In this module, the engine finds the app that stands for one of Celery's own.
ADOPTED = "dagster_celery._adopted_apps"


def find_app(app: str) -> tuple[str, CeleryApp | QueueBroker]:
    """Import an app.

    Args:
        app: ``module``, which has the app as ``app``, as ``celery`` or under any other name;
            ``module:name``; or ``module.name``. Modules in the current directory can be imported.

    Returns:
        Its place in the form ``module:name``, which the engine's ``-A`` takes, and the app.

    Raises:
        ConfigError: there is no such module, or no app in it; or one of Celery's own, with settings
            that cannot be translated.
    """
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    name, _, attribute = app.partition(":")
    try:
        module = import_module(name)
    except ModuleNotFoundError as error:
        parent, _, last = name.rpartition(".")
        if attribute or not parent or error.name not in (name, parent):
            raise ConfigError(f"Cannot import the app {app}: {error}.") from error
        return find_app(f"{parent}:{last}")
    names = [attribute] if attribute else ["app", "celery", *vars(module)]
    for each in names:
        found = getattr(module, each, None)
        if isinstance(found, CeleryApp | QueueBroker):
            return f"{name}:{each}", found
        if is_celerys(found):
            return f"{ADOPTED}:{name}:{each}", served(found)
    raise ConfigError(f"The module {name} has no app: write `app = make_app()` there.")


def worker_arguments(app: CeleryApp | QueueBroker, has_queues: bool) -> list[str]:
    """Return the options of a worker that the configuration of its app has, as arguments.

    Args:
        app: the app; a broker of taskiq's has none.
        has_queues: whether the queues to serve are given otherwise.

    Returns:
        Arguments of ``dagster-taskiq worker start``.
    """
    if not isinstance(app, CeleryApp):
        return []
    arguments = []
    for parameter, value in app.configuration.worker.items():
        if parameter == "queues" and has_queues:
            continue
        option = "--queue" if parameter == "queues" else f"--{parameter.replace('_', '-')}"
        for each in value if isinstance(value, list | tuple) else (value,):
            arguments += [option, str(each)]
    return arguments
