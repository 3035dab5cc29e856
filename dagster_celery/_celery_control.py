"""``app.control``: who is there, what they do, and telling them to end, by Celery's names."""

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from dagster_taskiq.errors import ConfigError
from dagster_taskiq.wire.commands import Command
from dagster_taskiq.wire.commands import command as mail
from dagster_taskiq.wire.records import Running, TaskState, Worker
from dagster_taskiq.wire.task_names import EXECUTE_JOB, EXECUTE_PLAN, RESUME_JOB

if TYPE_CHECKING:
    from dagster_celery._celery_app import CeleryApp

#: What ``ping`` is answered with.
PONG = {"ok": "pong"}

Replies = dict[str, Any]


class Control:
    """What can be done to workers from outside."""

    def __init__(self, app: "CeleryApp") -> None:
        self._app = app

    def inspect(
        self, destination: Sequence[str] | None = None, timeout: float = 1.0, **_: Any
    ) -> "Inspect":
        """Return an object that asks for what workers do.

        Args:
            destination: names of workers; all of them where ``None``.
            timeout: not needed: what is returned is what each worker has said at its last
                heartbeat, and nobody is waited for.
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
        """Tell workers something.

        Args:
            command: ``shutdown``, ``ping`` or ``revoke``.
            arguments: those of ``revoke``.
            destination: names of workers; all of them where ``None``.
            reply: whether to return who was told.

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
        told = handler(destination=destination, **(arguments or {}))
        return told if reply else None

    def ping(
        self, destination: Sequence[str] | None = None, timeout: float = 1.0, **_: Any
    ) -> list[dict[str, Any]]:
        """Return one answer for each worker that lives."""
        del timeout
        return [{each.name: PONG} for each in alive(self._app, destination)]

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
            destination: ignored: what waits is nobody's, and what runs is found where it runs.
            terminate: stop those that run, too.
        """
        del destination
        ids = [task_id] if isinstance(task_id, str) else list(task_id)
        client = self._app.client
        if not terminate:
            known = client.tasks(ids)
            ids = [
                each
                for each in ids
                if each not in known or known[each].state is not TaskState.STARTED
            ]
        client.revoke(ids, "it was revoked")

    def terminate(self, task_id: str | Sequence[str], **_: Any) -> None:
        """Cancel tasks, and stop those that run."""
        self.revoke(task_id, terminate=True)

    def _revoke(
        self, destination: Sequence[str] | None = None, **arguments: Any
    ) -> list[dict[str, Any]]:
        self.revoke(**arguments)
        return [{each.name: {"ok": "revoked"}} for each in alive(self._app, destination)]

    def _shutdown(self, destination: Sequence[str] | None = None) -> list[dict[str, Any]]:
        told = alive(self._app, destination)
        for worker in told:
            self._app.client.tell(worker.id, mail(Command.DRAIN))
        return [{each.name: {"ok": "shutdown"}} for each in told]


class Inspect:
    """What workers do, by name; each method returns ``None`` when there is no worker."""

    def __init__(self, app: "CeleryApp", destination: Sequence[str] | None) -> None:
        self._app = app
        self._destination = destination

    def active(self, safe: bool | None = None) -> Replies | None:
        """Return what each worker runs."""
        del safe
        return self._of_each(lambda worker: [_active(worker, each) for each in worker.running])

    def active_queues(self) -> Replies | None:
        """Return which queues each worker serves."""
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
        """Return the tasks of this app, and those every worker has."""
        names = sorted({EXECUTE_PLAN, EXECUTE_JOB, RESUME_JOB, *self._app.tasks})
        return self._of_each(lambda worker: names)

    def ping(self, destination: Sequence[str] | None = None) -> Replies | None:
        """Return the answer of each worker that lives."""
        chosen = Inspect(self._app, destination or self._destination)
        return chosen._of_each(lambda worker: PONG)

    def _of_each(self, ask: Callable[[Worker], Any]) -> Replies | None:
        return {each.name: ask(each) for each in alive(self._app, self._destination)} or None


def alive(app: "CeleryApp", destination: Sequence[str] | None = None) -> list[Worker]:
    """Return the workers that live, or those of these names."""
    return [
        each
        for each in app.client.workers()
        if not each.is_lost and (destination is None or each.name in destination)
    ]


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
