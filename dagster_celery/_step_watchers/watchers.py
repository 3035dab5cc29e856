"""The tasks that watch a step, by their names, and how they are sent and called."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from dagster_celery._step_watchers import docker, kubernetes
from dagster_celery._step_watchers.watcher import Watcher
from dagster_taskiq.wire.labels import WATCHES_LABEL
from dagster_taskiq.wire.task_request import TaskRequest

#: The tasks of dagster-celery-docker and dagster-celery-k8s. Both have had these names in every
#: release.
WATCHERS: Mapping[str, Watcher] = {
    "execute_step_docker": docker.WATCHER,
    "execute_step_k8s_job": kubernetes.WATCHER,
}


def for_watcher(request: TaskRequest) -> TaskRequest:
    """Return the request to send a step, completed if its task is one of :data:`WATCHERS`."""
    watcher = WATCHERS.get(request.name)
    if watcher is None:
        return request
    prepared = watcher.prepare(request)
    return replace(prepared, labels={**prepared.labels, WATCHES_LABEL: True})


def call_as_watcher(
    name: str, task: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Any:
    """Call a task in a worker, and return its value.

    Args:
        name: its name; one of :data:`WATCHERS` is called through that.
        task: calls its function.
        args: its positional arguments.
        kwargs: its arguments by name.

    Raises:
        Exception: what the function raises.
    """
    watcher = WATCHERS.get(name)
    if watcher is None or args:  # the libraries pass all of them by name
        return task(*args, **kwargs)
    return watcher.watch(lambda: task(**kwargs), kwargs)
