"""The backend in this process's memory."""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.transport import transitions
from dagster_taskiq.transport.backend import StateBackend
from dagster_taskiq.transport.memory.server import MemoryServer, server_at
from dagster_taskiq.wire.notifications import FROM_START, Notification
from dagster_taskiq.wire.records import Task, TaskState, Worker, end_notification


class MemoryBackend(StateBackend):
    """Dictionaries; every call is atomic because nothing in it awaits."""

    def __init__(self, settings: Settings, connection: MemoryServer | None = None) -> None:
        super().__init__(settings)
        self.connection: MemoryServer = connection or server_at(settings.backend_url)

    async def ping(self) -> None:
        """Return."""

    async def submitted(self, tasks: Sequence[Task]) -> None:
        """Add what is missing."""
        for task in tasks:
            transitions.submit(self.connection.tasks, task, time.time())

    async def start(self, task: Task, *, recorded: bool = False) -> TaskState | None:
        """Change WAITING to STARTED."""
        tasks = self.connection.tasks
        refused = transitions.start(tasks, task, time.time(), recorded=recorded)
        self.connection.changed()
        return refused

    async def finish(self, task: Task, state: TaskState, error: str, result: bytes | None) -> bool:
        """Change STARTED to a final state."""
        if not transitions.finish(self.connection.tasks, task, state, error, time.time()):
            return False
        if result is not None:
            self.connection.results[task.id] = result
        self._post_end(self.connection.tasks[task.id])
        return True

    async def revoke(self, task_ids: Sequence[str], reason: str) -> dict[str, str]:
        """Decide for each by its state."""
        started = {}
        for task_id in task_ids:
            before = transitions.revoke(self.connection.tasks, task_id, reason, time.time())
            if before.state is TaskState.STARTED:
                started[task_id] = before.worker
            elif before.state is TaskState.WAITING:
                self._post_end(self.connection.tasks[task_id])
        return started

    async def tasks(self, task_ids: Sequence[str]) -> dict[str, Task]:
        """Look up."""
        known = self.connection.tasks
        return {task_id: known[task_id] for task_id in task_ids if task_id in known}

    async def beat(self, worker: Worker) -> list[str]:
        """Keep the worker; look at what it runs."""
        self.connection.workers[worker.id] = (worker, time.time())
        tasks = self.connection.tasks
        for each in worker.running:
            transitions.put_back(tasks, each, worker.id, time.time())
        return [
            each.id for each in worker.running if transitions.must_stop(tasks[each.id], worker.id)
        ]

    async def deregister(self, worker_id: str) -> None:
        """Drop the worker."""
        self.connection.workers.pop(worker_id, None)

    async def workers(self) -> list[Worker]:
        """List them with their ages."""
        now = time.time()
        known = self.connection.workers.values()
        found = [replace(worker, age=max(0.0, now - beat_at)) for worker, beat_at in known]
        return sorted(found, key=lambda worker: (worker.name, worker.id))

    async def post(self, channel: str, body: dict[str, Any]) -> None:
        """Add a mail."""
        self.connection.post(channel, body)
        self.connection.changed()

    async def collect(self, channel: str, after: str, timeout: float) -> list[Notification]:
        """Read the channel, waiting for a change where nothing is new."""
        cursor = int(after) if after != FROM_START else 0
        deadline = time.monotonic() + timeout
        while True:
            mark = self.connection.mark()
            found = [each for each in self.connection.mail[channel] if int(each.cursor) > cursor]
            left = deadline - time.monotonic()
            if found or left <= 0:
                return found
            await self.connection.wait_beyond(mark, left)

    async def close_channel(self, channel: str) -> None:
        """Drop the mails."""
        self.connection.mail.pop(channel, None)

    async def load_result(self, task_id: str) -> bytes | None:
        """Look up."""
        return self.connection.results.get(task_id)

    async def forget(self, task_ids: Sequence[str]) -> None:
        """Drop those that have ended."""
        for task_id in task_ids:
            if transitions.forget(self.connection.tasks, task_id) is not None:
                self.connection.results.pop(task_id, None)

    async def sweep(self) -> None:
        """Drop tasks and results past their time to live."""
        oldest = time.time() - self.settings.result_ttl
        for task in list(self.connection.tasks.values()):
            if task.state.is_final and task.finished_at < oldest:
                del self.connection.tasks[task.id]
                self.connection.results.pop(task.id, None)

    def _post_end(self, task: Task) -> None:
        if task.loop_channel:
            self.connection.post(task.loop_channel, end_notification(task, task.state))
        self.connection.changed()
