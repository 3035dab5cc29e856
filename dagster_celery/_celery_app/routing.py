"""To which queue a task goes."""

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dagster_celery._celery_app.conf import Conf


@dataclass(frozen=True)
class Queue:
    """A queue as ``task_queues`` lists it; kombu's own objects serve as well."""

    name: str
    routing_key: str = ""
    queue_arguments: Mapping[str, Any] = field(default_factory=dict)


def queue_of(name: str, options: Mapping[str, Any], conf: Conf, default: str) -> str:
    """Return the queue of a task.

    Args:
        name: the task's name.
        options: those of the task and the call: ``queue`` counts first, then ``routing_key``, by
            which ``task_queues`` may name a queue.
        conf: has ``task_routes``, which counts next, and ``task_queues``.
        default: the queue of a task that none of these name one for.
    """
    if options.get("queue"):
        return str(options["queue"])
    route = _route(name, conf.task_routes or {})
    routing_key = options.get("routing_key") or route.get("routing_key")
    if "queue" in route and not options.get("routing_key"):
        return str(route["queue"])
    for queue in conf.task_queues or ():
        if routing_key and getattr(queue, "routing_key", None) == routing_key:
            return str(queue.name)
    return default


def _route(name: str, routes: Any) -> Mapping[str, Any]:
    """Return the route of a task: that of its name, else that of the first pattern it matches."""
    if not isinstance(routes, Mapping):
        return {}
    fitting = (each for each in routes if fnmatch.fnmatchcase(name, str(each)))
    found: str | Mapping[str, Any] = routes.get(name) or routes.get(next(fitting, None)) or {}
    return {"queue": found} if isinstance(found, str) else found
