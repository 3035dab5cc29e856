"""To which queue a task goes, and with which priority if a route has one."""

import fnmatch
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from dagster_celery._celery_app.conf import Conf
from dagster_celery._celery_app.task_options import OPTIONS
from dagster_taskiq.errors import ConfigError

#: Returns the route of a task: options by name, the name of a queue, or ``None`` for no opinion.
#: Its arguments: the task's name, its positional arguments, those by name, and its options; and
#: the task, as ``task``.
Router = Callable[..., Any]


@dataclass(frozen=True)
class Queue:
    """A queue as ``task_queues`` lists it; kombu's own objects serve as well."""

    name: str
    routing_key: str = ""
    queue_arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Call:
    """A call of a task, as routers see it."""

    name: str
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    #: The task, if it is defined on the app.
    task: object = None


def route_of(call: Call, options: Mapping[str, Any], conf: Conf) -> dict[str, Any]:
    """Return what ``task_routes`` have for a call.

    Args:
        call: the call.
        options: those of the task and the call, for routers that are functions.
        conf: has ``task_routes``: a mapping by the names of tasks or patterns of them, a function,
            the name of one (``module.function``), or a list of such, of which the first with an
            opinion counts.

    Returns:
        The route's options, such as ``queue``, ``routing_key`` and ``priority``; empty if there is
        no route.

    Raises:
        ConfigError: ``task_routes`` names a function that cannot be imported.
        Exception: what a function of ``task_routes`` raises.
    """
    routes = conf.task_routes
    for each in routes if isinstance(routes, list | tuple) else (routes,):
        if each is None:
            continue
        router = _router(each)
        found = router(call.name, call.args, call.kwargs, dict(options), task=call.task)
        if found is not None:
            return {"queue": found} if isinstance(found, str) else dict(found)
    return {}


def queue_of(options: Mapping[str, Any], route: Mapping[str, Any], conf: Conf, default: str) -> str:
    """Return the queue of a task.

    Args:
        options: those of the task and the call: ``queue`` counts first, then ``routing_key``, by
            which ``task_queues`` may name a queue.
        route: the task's, as :func:`route_of` returns it; counts next.
        conf: has ``task_queues``.
        default: the queue of a task that none of these name one for.
    """
    if options.get("queue"):
        return _name(options["queue"])
    routing_key = options.get("routing_key") or route.get("routing_key")
    if route.get("queue") and not options.get("routing_key"):
        return _name(route["queue"])
    for queue in conf.task_queues or ():
        if routing_key and getattr(queue, "routing_key", None) == routing_key:
            return str(queue.name)
    return default


def options_of(route: Mapping[str, Any]) -> dict[str, Any]:
    """Return those options of a route that a call may have as well, without the queue."""
    return {
        name: value
        for name, value in route.items()
        if name in OPTIONS and name not in ("queue", "routing_key") and value is not None
    }


def _name(queue: Any) -> str:
    """Return the name of a queue, which may be an object that has one."""
    return str(getattr(queue, "name", queue))


def _router(route: Any) -> Router:
    """Return the function for one entry of ``task_routes``."""
    if isinstance(route, str):
        route = _imported(route)
    if isinstance(route, Mapping):
        return _by_name(route.items())
    if isinstance(route, list | tuple):
        return _by_name(route)
    of_task = getattr(route, "route_for_task", None)
    if of_task is not None:
        return lambda name, args, kwargs, _, **__: of_task(name, args, kwargs)
    router: Router = route
    return router


def _by_name(routes: Iterable[Sequence[Any]]) -> Router:
    """Return the function for routes by name: an exact name first, then the first pattern."""
    pairs = [(name, route) for name, route in routes]

    def find(name: str, *_: Any, **__: Any) -> Any:
        exact = dict(each for each in pairs if isinstance(each[0], str))
        return exact[name] if name in exact else next(_matching(name, pairs), None)

    return find


def _matching(name: str, pairs: Iterable[tuple[Any, Any]]) -> Iterator[Any]:
    for key, route in pairs:
        # A name is a pattern if it has an asterisk, as in Celery.
        is_glob = isinstance(key, str) and "*" in key
        pattern = re.compile(fnmatch.translate(key)) if is_glob else key
        if isinstance(pattern, re.Pattern) and pattern.match(name):
            yield route


def _imported(place: str) -> Any:
    """Return the router that a text names, ``module.name`` or ``module:name``.

    Raises:
        ConfigError: it cannot be imported.
    """
    module, _, name = place.replace(":", ".").rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except (AttributeError, ImportError, ValueError) as error:
        raise ConfigError(
            f'The router "{place}" of task_routes cannot be imported: {error}. Name a function as '
            "module.function."
        ) from error
    # A class of routers is named, and an instance of it asked.
    return found() if hasattr(found, "route_for_task") and isinstance(found, type) else found
