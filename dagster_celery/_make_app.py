"""``make_app``: makes the app that workers are started with and tasks are sent with."""

import os
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from dagster_celery import _defaults
from dagster_celery._celery_app.app import CeleryApp
from dagster_celery._celery_app.conf import as_mapping
from dagster_celery._celery_app.routing import Queue
from dagster_celery._configuration import CONFIG_FILE_ENV, CONFIG_MODULE
from dagster_celery._defaults import task_default_priority, task_default_queue
from dagster_celery._warnings import warn_of_loss
from dagster_taskiq.wire.task_names import EXECUTE_JOB, EXECUTE_PLAN, RESUME_JOB

#: The arguments of the app that have a meaning of their own; all others are settings.
_ARGUMENTS = ("broker", "backend", "include", "config_source")
#: What the ``app_args`` of an executor have for the executor alone.
_NOT_FOR_THE_APP = ("retries",)
#: Arguments of Celery's constructor that exchange its parts, or choose how it keeps itself.
_OF_CELERYS_OWN = frozenset(
    {
        "amqp",
        "autofinalize",
        "config_source_silent",
        "control",
        "events",
        "fixups",
        "loader",
        "log",
        "namespace",
        "set_as_current",
        "strict_typing",
        "task_cls",
        "tasks",
    }
)


def make_app(app_args: dict[str, Any] | None = None) -> CeleryApp:
    """Return an app for Dagster's tasks.

    Args:
        app_args: ``broker``, ``backend``, ``include``, ``config_source`` as Celery's constructor
            takes them, and any setting by its name, which wins over ``config_source``; ``None`` for
            those of the module ``dagster_celery_config``, if there is one.

    Raises:
        ConfigError: a setting or URL that cannot be translated.
    """
    routes = {
        name: {"queue": task_default_queue, "routing_key": f"{task_default_queue}.{name}"}
        for name in (EXECUTE_PLAN, EXECUTE_JOB, RESUME_JOB)
    }
    return make_app_with_task_routes(task_routes=routes, app_args=app_args)


def make_app_with_task_routes(
    task_routes: dict[str, Any], app_args: dict[str, Any] | None = None
) -> CeleryApp:
    """Return an app whose tasks go to the queues that ``task_routes`` names for them.

    Args:
        task_routes: ``{"queue": ..., "routing_key": ...}`` by the name of a task, or a pattern of
            names.
        app_args: as for :func:`make_app`.

    Raises:
        ConfigError: a setting or URL that cannot be translated.
    """
    queue = Queue(task_default_queue, f"{task_default_queue}.#", {"x-max-priority": 10})
    defaults: Mapping[str, Any] = {
        **as_mapping(_defaults),
        "task_queues": [queue],
        "task_routes": task_routes,
        "task_queue_max_priority": 10,
        "task_default_priority": task_default_priority,
    }
    if app_args is None:
        if find_spec(CONFIG_MODULE) is None:
            return CeleryApp(defaults=defaults)
        module = import_module(CONFIG_MODULE)
        file = os.environ.get(CONFIG_FILE_ENV) or str(module.__file__)
        return CeleryApp(config_source=as_mapping(module), defaults=defaults, file=file)
    given = {name: value for name, value in app_args.items() if name not in _NOT_FOR_THE_APP}
    arguments = {name: given.pop(name, None) for name in _ARGUMENTS}
    settings = dict(given.pop("changes", None) or {})
    without_effect = sorted(name for name in _OF_CELERYS_OWN & given.keys() if given[name])
    if without_effect:
        warn_of_loss(
            f"make_app takes {', '.join(without_effect)} and does nothing with it: the app here is "
            "no Celery app, and has no such parts to exchange."
        )
    settings.update((name, given[name]) for name in given if name not in _OF_CELERYS_OWN)
    return CeleryApp(defaults=defaults, settings=settings, **arguments)
