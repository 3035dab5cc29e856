"""The task of dagster-celery-docker: it runs a step in a container, and waits for that.

The library gives the container no name, so nothing could find it again. Here it gets one, by the
arguments of the library's own configuration: that of the attempt at its step. A task that finds a
container of this name goes on waiting for it. A second container of the name cannot be started, so
the step runs once, whatever becomes of the workers that wait.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

from dagster_celery._step_watchers.watcher import Call, Watcher
from dagster_taskiq.errors import WorkerLostError
from dagster_taskiq.execution.task_context import current_context
from dagster_taskiq.wire.labels import CANCEL_SECONDS_LABEL
from dagster_taskiq.wire.step_task_ids import first_incarnation
from dagster_taskiq.wire.task_request import TaskRequest

#: How long a container of a step that is stopped may take to end after SIGTERM, in seconds. Docker
#: kills it then.
STOP_SECONDS = 10
#: The name under which the events about a step have that of its container.
_CONTAINER = "Container"


def _prepare(request: TaskRequest) -> TaskRequest:
    """Name the container, unless the user does, and label it with its run and step."""
    config = dict(request.kwargs["docker_config"])
    given = dict(config.get("container_kwargs") or {})
    given.setdefault("name", _container_name(request))
    labels = given.get("labels")
    if labels is None or isinstance(labels, Mapping):
        of_step = {"dagster/run-id": request.run_id, "dagster/op": request.step_key}
        given["labels"] = {**of_step, **(labels or {})}
    config["container_kwargs"] = given
    return replace(
        request,
        kwargs={**request.kwargs, "docker_config": config},
        # The task is stopped at once when it is cancelled, and ends the container.
        labels={**request.labels, CANCEL_SECONDS_LABEL: 0},
    )


def _container_name(request: TaskRequest) -> str:
    """Return a name that no other attempt at any step has."""
    attempt = first_incarnation(request.id)
    key = re.sub(r"[^A-Za-z0-9_.-]+", "-", request.step_key)[:40]
    return f"dagster-step-{key}-{hashlib.sha256(attempt.encode()).hexdigest()[:16]}"


def _watch(call: Call, kwargs: Mapping[str, Any]) -> Any:
    """Run the step's container, or go on waiting for it.

    Raises:
        docker.errors.ContainerError: it has ended with another exit code than 0.
        WorkerLostError: it has gone, and was not watched when it did.
    """
    # Installed where a worker has the library. And processes that only send steps need no Dagster.
    import docker  # noqa: PLC0415

    from dagster_celery._step_watchers.step_of import WatchedStep  # noqa: PLC0415

    step = WatchedStep(kwargs)
    name = kwargs["docker_config"]["container_kwargs"]["name"]
    client = docker.client.from_env()
    with _ended_if_stopped(client, name):
        container = _find(client, name)
        if container is not None:
            step.report(
                f'Container {name} of step "{step.key}" goes on; worker '
                f"{current_context().worker} waits for it now.",
            )
            return _wait_for(container)
        if name in step.metadata(_CONTAINER):
            raise WorkerLostError(
                f'Container {name} of step "{step.key}" has gone while no worker waited for it, '
                "and has written no end of the step. It is not started again."
            )
        step.report(f'Step "{step.key}" runs in container {name}.', {_CONTAINER: name})
        return call()


WATCHER = Watcher(_prepare, _watch)


@contextmanager
def _ended_if_stopped(client: Any, name: str) -> Iterator[None]:
    """End the container if the task is stopped in the block.

    A worker that is to end does not stop the task: it kills its process, and the container goes on.
    """
    try:
        yield
    except BaseException:
        if current_context().stop_request() is not None:
            container = _find(client, name)
            if container is not None:
                with suppress(_gone()):  # it removes itself unless the user has that otherwise
                    container.stop(timeout=STOP_SECONDS)
                    container.remove(force=True)
        raise


def _wait_for(container: Any) -> list[str]:
    """Wait until a container has ended; return no events, which are in the log of the run.

    Raises:
        docker.errors.ContainerError: it has ended with another exit code than 0.
    """
    import docker  # noqa: PLC0415

    try:
        # Opened before the container ends, after which it removes itself with what it has written.
        output = container.logs(stdout=True, stderr=True, stream=True, follow=True)
        code = int(container.wait()["StatusCode"])
    except _gone():
        return []  # it has ended and removed itself: how, is in the log of the run
    if code:
        config = container.attrs["Config"]
        text = b"".join(output).decode(errors="replace")
        raise docker.errors.ContainerError(
            container, code, config.get("Cmd"), config.get("Image"), text
        )
    return []


def _find(client: Any, name: str) -> Any:
    """Return the container of a name; ``None`` if there is none."""
    try:
        return client.containers.get(name)
    except _gone():
        return None


def _gone() -> type[Exception]:
    """Return the error of Docker that there is no such container."""
    import docker  # noqa: PLC0415

    error: type[Exception] = docker.errors.NotFound
    return error
