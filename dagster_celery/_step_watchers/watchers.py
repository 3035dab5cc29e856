"""The tasks that watch a step, by their names, and how they are sent and called."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from dagster_celery._step_watchers import docker, kubernetes
from dagster_celery._step_watchers.watcher import Watcher
from dagster_taskiq.wire.labels import WATCHES_LABEL
from dagster_taskiq.wire.step_task_ids import first_incarnation
from dagster_taskiq.wire.task_request import TaskRequest
from dagster_taskiq.wire.watching_tasks import EXECUTE_STEP_DOCKER, EXECUTE_STEP_K8S_JOB

#: The tasks of dagster-celery-docker and dagster-celery-k8s.
WATCHERS: Mapping[str, Watcher] = {
    EXECUTE_STEP_DOCKER: docker.WATCHER,
    EXECUTE_STEP_K8S_JOB: kubernetes.WATCHER,
}


def for_watcher(request: TaskRequest) -> TaskRequest:
    """Return the request to send a step, completed if its task is one of :data:`WATCHERS`."""
    watcher = WATCHERS.get(request.name)
    if watcher is None:
        return request
    prepared = watcher.prepare(request)
    if first_incarnation(request.id) != request.id:
        # The step has begun, and has to be watched or ended, whenever that is.
        prepared = replace(prepared, expires_at=0.0)
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
