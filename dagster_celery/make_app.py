"""``make_app``: the app that workers are started with and tasks are sent by."""

import os
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from dagster_celery import defaults
from dagster_celery._celery_app import CeleryApp, Queue, as_mapping
from dagster_celery._door import door
from dagster_celery.config import (
    TASK_EXECUTE_JOB_NAME,
    TASK_EXECUTE_PLAN_NAME,
    TASK_RESUME_JOB_NAME,
)
from dagster_celery.defaults import task_default_priority, task_default_queue

#: The module with a worker's settings, which ``dagster-celery worker start -y`` writes.
CONFIG_MODULE = "dagster_celery_config"
#: The file that the module was written from, for warnings about what is in it.
CONFIG_FILE_ENV = "DAGSTER_CELERY_CONFIG_FILE"


def make_app(app_args: dict[str, Any] | None = None) -> CeleryApp:
    """Return an app for Dagster's tasks.

    Args:
        app_args: ``broker``, ``backend``, ``include``, ``config_source`` as Celery's constructor
            takes them; from the module ``dagster_celery_config``, if there is one, where ``None``.

    Raises:
        ConfigError: a setting or URL that cannot be translated.
    """
    routes = {
        name: {"queue": task_default_queue, "routing_key": f"{task_default_queue}.{name}"}
        for name in (TASK_EXECUTE_PLAN_NAME, TASK_EXECUTE_JOB_NAME, TASK_RESUME_JOB_NAME)
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
    held: Mapping[str, Any] = {
        **as_mapping(defaults),
        "task_queues": [queue],
        "task_routes": task_routes,
        "task_queue_max_priority": 10,
        "task_default_priority": task_default_priority,
    }
    if app_args is None:
        found = find_spec(CONFIG_MODULE) is not None
        if not found:
            return CeleryApp(defaults=held)
        module = import_module(CONFIG_MODULE)
        file = os.environ.get(CONFIG_FILE_ENV) or str(module.__file__)
        return CeleryApp(config_source=as_mapping(module), defaults=held, file=file)
    names = ("broker", "backend", "include", "config_source", "task_default_queue")
    arguments: dict[str, Any] = {name: app_args.get(name) for name in names}
    return CeleryApp(defaults=held, **arguments)


__all__ = ["make_app", "make_app_with_task_routes"]

door(__name__)
