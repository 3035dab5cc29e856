"""The task of dagster-celery-docker: it runs a step in a container, and waits for that.

The library gives the container no name, so nothing could find it again. Here it gets one, by the
arguments of the library's own configuration, and labels, one of which is the attempt at its step. A
task that finds the container of its attempt goes on waiting for it, and starts it first if an
earlier task has only created it. A second container of the name cannot be created, so the step runs
once, whatever becomes of the workers that wait. A container of that name which has not the labels
of the attempt is none of ours: it is neither waited for nor removed.
"""

import hashlib
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from dagster_celery._step_watchers.watcher import Call, Watcher
from dagster_taskiq.errors import TaskRevokedError, WorkerLostError
from dagster_taskiq.execution.task_context import current_context
from dagster_taskiq.wire.labels import CANCEL_SECONDS_LABEL
from dagster_taskiq.wire.step_task_ids import first_incarnation
from dagster_taskiq.wire.task_request import TaskRequest

#: How long a container of a step that is stopped may take to end after SIGTERM, in seconds. Docker
#: kills it then.
STOP_SECONDS = 10
#: How long a container may take to appear after the request for it was cut off, in seconds. Docker
#: may complete it.
CREATE_SECONDS = 5.0
#: How long a task waits for the container of an earlier one before it looks at the run, in seconds.
LOOK_SECONDS = 10.0
#: The label of a container that tells attempts at steps apart, and the name of the same in the
#: events about a step: the id of the first task of the attempt.
_ATTEMPT = "dagster/task-id"
#: The name under which the events about a step have that of its container.
_CONTAINER = "Container"
#: Docker's answer that a name is taken, or that a container is being removed.
_CONFLICT = 409


@dataclass(frozen=True)
class _Attempt:
    """An attempt at a step, and the name that its container has."""

    id: str
    name: str

    def find(self, client: Any) -> Any:
        """Return its container; ``None`` if there is none, or one of the name that is not its."""
        import docker  # noqa: PLC0415

        try:
            found = client.containers.get(self.name)
        except docker.errors.NotFound:
            return None
        return found if found.labels.get(_ATTEMPT) == self.id else None

    def end(self, client: Any, seconds: float = 0.0) -> bool:
        """Stop its container and remove it, in whatever state it is.

        Args:
            client: Docker's.
            seconds: how long to wait for a container that is not there yet.

        Returns:
            Whether there was one.
        """
        import docker  # noqa: PLC0415

        deadline = time.monotonic() + seconds
        while (container := self.find(client)) is None:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.1)
        try:
            container.stop(timeout=STOP_SECONDS)
            container.remove(force=True)
        except docker.errors.NotFound:
            pass  # it has removed itself
        except docker.errors.APIError as error:
            if error.status_code != _CONFLICT:  # it is removing itself
                raise
        return True


def _prepare(request: TaskRequest) -> TaskRequest:
    """Name the container, unless the user does, and label it with its run, step and attempt."""
    config = dict(request.kwargs["docker_config"])
    given = dict(config.get("container_kwargs") or {})
    given.setdefault("name", _container_name(request))
    labels = given.get("labels") or {}
    if not isinstance(labels, Mapping):
        labels = dict.fromkeys(labels, "")  # what Docker's client makes of a list of names
    of_step = {"dagster/run-id": request.run_id, "dagster/op": request.step_key}
    given["labels"] = {**of_step, **labels, _ATTEMPT: first_incarnation(request.id)}
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
        TaskRevokedError: the run has ended or is being cancelled; the container was ended.
        WorkerLostError: it has gone, and was not watched when it did.
    """
    # Installed where a worker has the library. And processes that only send steps need no Dagster.
    import docker  # noqa: PLC0415

    from dagster_celery._step_watchers.step_of import WatchedStep  # noqa: PLC0415

    given = kwargs["docker_config"].get("container_kwargs") or {}
    labels = given.get("labels") or {}
    if _ATTEMPT not in labels:
        return call()  # it was not sent by this package
    attempt = _Attempt(labels[_ATTEMPT], given["name"])
    step = WatchedStep(kwargs)
    client = docker.client.from_env()
    with _ended_if_stopped(client, attempt):
        if step.run_is_over():
            raise _revoked(client, attempt, step)
        container = attempt.find(client)
        if container is None:
            if step.has_begun(_ATTEMPT, attempt.id):
                raise WorkerLostError(
                    f'Container {attempt.name} of step "{step.key}" has gone while no worker '
                    "waited for it, and has written no end of the step. It is not started again."
                )
            step.report(
                f'Step "{step.key}" runs in container {attempt.name}.',
                {_CONTAINER: attempt.name, _ATTEMPT: attempt.id},
            )
            try:
                return call()
            except docker.errors.APIError as error:
                # An earlier task has asked for the container, and Docker has made it only now.
                container = attempt.find(client) if error.status_code == _CONFLICT else None
                if container is None:
                    raise
        return _adopt(container, client, attempt, step)


WATCHER = Watcher(_prepare, _watch)


@contextmanager
def _ended_if_stopped(client: Any, attempt: _Attempt) -> Iterator[None]:
    """End the container if the task is stopped in the block.

    A worker that is to end does not stop the task: it kills its process, and the container goes on.
    """
    try:
        yield
    except BaseException:
        if current_context().stop_request() is not None:
            attempt.end(client, CREATE_SECONDS)
        raise


def _revoked(client: Any, attempt: _Attempt, step: Any) -> TaskRevokedError:
    """End the container of a run that is over, and return the error of its task."""
    if attempt.end(client):
        step.report(f'Container {attempt.name} of step "{step.key}" was ended: its run is over.')
    return TaskRevokedError(f'The run of step "{step.key}" has ended or is being cancelled.')


def _adopt(container: Any, client: Any, attempt: _Attempt, step: Any) -> list[str]:
    """Wait for the container of an earlier task; start it first if that task could not."""
    worker = current_context().worker
    what = f'Container {attempt.name} of step "{step.key}"'
    if container.status == "created":
        step.report(f"{what} was not started yet; worker {worker} starts it and waits for it now.")
        container.start()
    else:
        step.report(f"{what} goes on; worker {worker} waits for it now.")
    return _wait_for(container, client, attempt, step)


def _wait_for(container: Any, client: Any, attempt: _Attempt, step: Any) -> list[str]:
    """Wait until a container has ended; return no events, which are in the log of the run.

    Raises:
        docker.errors.ContainerError: it has ended with another exit code than 0.
        TaskRevokedError: the run has ended or is being cancelled; the container was ended.
    """
    import docker  # noqa: PLC0415
    import requests  # noqa: PLC0415

    try:
        # Opened before the container ends, after which it removes itself with what it has written.
        output = container.logs(stdout=True, stderr=True, stream=True, follow=True)
        code: int | None = None
        while code is None:
            try:
                code = int(container.wait(timeout=LOOK_SECONDS)["StatusCode"])
            except (requests.exceptions.ConnectionError, requests.exceptions.Timeout):
                container.reload()  # fails if it was more than the time that is over
                # Nobody stops this task if the loop of its run has ended before it started.
                if step.run_is_over():
                    raise _revoked(client, attempt, step) from None
    except docker.errors.NotFound:
        return []  # it has ended and removed itself: how, is in the log of the run
    if code:
        config = container.attrs["Config"]
        text = b"".join(output).decode(errors="replace")
        raise docker.errors.ContainerError(
            container, code, config.get("Cmd"), config.get("Image"), text
        )
    return []
