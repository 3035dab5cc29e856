"""``app.control``: which workers there are, what they run, and commands to them."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from dagster_celery._celery_app.absent import absent
from dagster_taskiq.client import Client
from dagster_taskiq.errors import ConfigError
from dagster_taskiq.wire.commands import Command
from dagster_taskiq.wire.commands import command as worker_command
from dagster_taskiq.wire.records import Running, TaskState, Worker
from dagster_taskiq.wire.task_names import EXECUTE_JOB, EXECUTE_PLAN, RESUME_JOB

#: The reply to ``ping``.
PONG = {"ok": "pong"}
#: What takes the place of the commands that are not here.
_COMMANDS = (
    "Queues and slots are given to workers at their start, and limits to tasks; see "
    "`dagster-taskiq status` and `dagster-taskiq worker -h`."
)

Replies = dict[str, Any]


class ControlledApp(Protocol):
    """What control uses of an app."""

    @property
    def client(self) -> Client:
        """The client of broker and backend, connected."""

    @property
    def tasks(self) -> Mapping[str, object]:
        """The app's tasks by their names."""


class Control:
    """Commands to workers, and questions about them.

    Its methods raise ``ServerUnavailableError`` if the broker or backend does not answer. Celery's
    further arguments are accepted and have no effect.
    """

    def __init__(self, app: ControlledApp) -> None:
        self._app = app

    def inspect(
        self, destination: Sequence[str] | None = None, timeout: float = 1.0, **_: Any
    ) -> "Inspect":
        """Return an object that reports what workers do.

        Args:
            destination: names of workers; all workers for ``None``.
            timeout: has no effect: the answers are what each worker reported with its last
                heartbeat, so there is nothing to wait for.
        """
        del timeout
        return Inspect(self._app, destination)

    def broadcast(
        self,
        command: str,
        arguments: dict[str, Any] | None = None,
        destination: Sequence[str] | None = None,
        reply: bool = False,
        **_: Any,
    ) -> list[dict[str, Any]] | None:
        """Send a command to workers.

        Args:
            command: ``shutdown``, ``ping`` or ``revoke``.
            arguments: those of ``revoke``.
            destination: names of workers; all workers for ``None``.
            reply: whether to return the workers that it was sent to.

        Raises:
            ConfigError: another command.
        """
        known = {"shutdown": self._shutdown, "ping": self.ping, "revoke": self._revoke}
        handler = known.get(command)
        if handler is None:
            raise ConfigError(
                f"Workers here do not know the command {command!r}. They know shutdown, ping and "
                "revoke; queues and concurrency are given at their start."
            )
        replies = handler(destination=destination, **(arguments or {}))
        return replies if reply else None

    def ping(
        self, destination: Sequence[str] | None = None, timeout: float = 1.0, **_: Any
    ) -> list[dict[str, Any]]:
        """Return one reply for each worker that is alive."""
        del timeout
        return [{each.name: PONG} for each in alive(self._app.client, destination)]

    def shutdown(self, destination: Sequence[str] | None = None, **_: Any) -> None:
        """Let workers finish what they run, and end."""
        self._shutdown(destination)

    def revoke(
        self,
        task_id: str | Sequence[str],
        destination: Sequence[str] | None = None,
        terminate: bool = False,
        **_: Any,
    ) -> None:
        """Cancel tasks that wait.

        Args:
            task_id: one id, or several.
            destination: has no effect: a task that waits is in its queue, and the worker of one
                that runs is known.
            terminate: whether tasks that run are stopped, too.
        """
        del destination
        ids = [task_id] if isinstance(task_id, str) else list(task_id)
        revoke_tasks(self._app.client, ids, terminate)

    def terminate(self, task_id: str | Sequence[str], **_: Any) -> None:
        """Cancel tasks, and stop those that run."""
        self.revoke(task_id, terminate=True)

    def _revoke(
        self, destination: Sequence[str] | None = None, **arguments: Any
    ) -> list[dict[str, Any]]:
        self.revoke(**arguments)
        return [{each.name: {"ok": "revoked"}} for each in alive(self._app.client, destination)]

    def _shutdown(self, destination: Sequence[str] | None = None) -> list[dict[str, Any]]:
        client = self._app.client
        workers = alive(client, destination)
        for worker in workers:
            client.send_command(worker.id, worker_command(Command.DRAIN))
        return [{each.name: {"ok": "shutdown"}} for each in workers]

    # Hidden from type checkers: they are to report an attribute that is not here.
    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> NoReturn:
            raise absent("Celery's app.control", name, _COMMANDS)


class Inspect:
    """What workers do, by their names; each method returns ``None`` if there is no worker."""

    def __init__(self, app: ControlledApp, destination: Sequence[str] | None) -> None:
        self._app = app
        self._destination = destination

    def active(self, safe: bool | None = None) -> Replies | None:
        """Return the tasks that each worker runs."""
        del safe
        return self._of_each(lambda worker: [_active(worker, each) for each in worker.running])

    def active_queues(self) -> Replies | None:
        """Return the queues that each worker serves."""
        return self._of_each(lambda worker: [_queue(name) for name in worker.queues])

    def reserved(self, safe: bool | None = None) -> Replies | None:
        """Return what each worker holds without running it: nothing; work waits in the broker."""
        del safe
        return self._of_each(lambda worker: [])

    def scheduled(self, safe: bool | None = None) -> Replies | None:
        """Return what each worker holds until its time comes: nothing, as for :meth:`reserved`."""
        return self.reserved(safe)

    def stats(self) -> Replies | None:
        """Return each worker's process, slots and uptime."""
        return self._of_each(_stats)

    def registered(self, *_: str) -> Replies | None:
        """Return the names of this app's tasks, and of those that every worker has."""
        names = sorted({EXECUTE_PLAN, EXECUTE_JOB, RESUME_JOB, *self._app.tasks})
        return self._of_each(lambda worker: names)

    def ping(self, destination: Sequence[str] | None = None) -> Replies | None:
        """Return the reply of each worker that is alive."""
        chosen = Inspect(self._app, destination or self._destination)
        return chosen._of_each(lambda worker: PONG)

    def _of_each(self, describe: Callable[[Worker], Any]) -> Replies | None:
        workers = alive(self._app.client, self._destination)
        return {each.name: describe(each) for each in workers} or None

    # Hidden from type checkers, as above.
    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> NoReturn:
            raise absent("Celery's app.control.inspect()", name, _COMMANDS)


def alive(client: Client, names: Sequence[str] | None = None) -> list[Worker]:
    """Return the workers that are not lost.

    Args:
        client: the client of the backend that has them.
        names: those of the workers to return; all of them for ``None``.

    Raises:
        ServerUnavailableError: the backend does not answer.
    """
    return [
        each
        for each in client.workers()
        if not each.is_lost and (names is None or each.name in names)
    ]


def revoke_tasks(client: Client, task_ids: Sequence[str], terminate: bool) -> None:
    """Cancel tasks that wait.

    Args:
        client: the client of broker and backend.
        task_ids: their ids.
        terminate: whether tasks that run are stopped, too.

    Raises:
        ServerUnavailableError: broker or backend does not answer.
    """
    if not terminate:
        known = client.tasks(task_ids)
        task_ids = [
            each
            for each in task_ids
            if each not in known or known[each].state is not TaskState.STARTED
        ]
    client.revoke(task_ids, "it was revoked")


def _active(worker: Worker, task: Running) -> dict[str, Any]:
    return {
        "id": task.id,
        "name": task.name,
        "type": task.name,
        "args": [],
        "kwargs": {"run_id": task.run_id, "step_key": task.step_key},
        "hostname": worker.name,
        "time_start": time.time() - task.seconds - worker.age,
        "acknowledged": True,
        "delivery_info": {"redelivered": False},
        "worker_pid": task.pid,
    }


def _queue(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "exchange": {"name": name, "type": "direct"},
        "routing_key": f"{name}.#",
        "durable": True,
        "queue_arguments": None,
    }


def _stats(worker: Worker) -> dict[str, Any]:
    return {
        "pid": worker.pid,
        "uptime": round(worker.uptime + worker.age),
        "prefetch_count": worker.concurrency,
        "pool": {
            "implementation": "dagster_taskiq.worker.pool",
            "max-concurrency": worker.concurrency,
            "processes": sorted({each.pid for each in worker.running if each.pid}),
        },
    }
