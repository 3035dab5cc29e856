"""The backend in this process's memory."""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.transport import transitions
from dagster_taskiq.transport.backend import StateBackend
from dagster_taskiq.transport.memory.schedule_store import MemoryScheduleStore
from dagster_taskiq.transport.memory.server import MemoryServer, server_at
from dagster_taskiq.transport.messages import Outgoing
from dagster_taskiq.wire.notifications import FROM_START, Notification
from dagster_taskiq.wire.records import Task, TaskState, Worker, end_notification


class MemoryBackend(StateBackend):
    """Dictionaries; every call is atomic because nothing in it awaits."""

    puts_messages = True

    def __init__(self, settings: Settings, connection: MemoryServer | None = None) -> None:
        super().__init__(settings)
        self.connection: MemoryServer = connection or server_at(settings.backend_url)

    async def ping(self) -> None:
        """Return."""

    async def submitted(self, tasks: Sequence[Task]) -> None:
        """Add the missing records."""
        for task in tasks:
            self._store(transitions.submit(self._known(task.id), task, time.time()))

    async def start(self, task: Task, *, recorded: bool = False) -> TaskState | None:
        """Change WAITING to STARTED."""
        known = self._known(task.id)
        record, refused = transitions.start(known, task, time.time(), recorded=recorded)
        self._store(record)
        return refused

    async def put_back(self, task: Task, message: Outgoing | None) -> bool:
        """Change STARTED to WAITING, and add the message."""
        waiting = transitions.put_back(self._known(task.id), task, time.time())
        if waiting is None:
            return False
        if message is not None:
            self.connection.put(message)
        self._store(waiting)
        return True

    async def conclude(
        self, task: Task, state: TaskState, error: str, result: bytes | None
    ) -> bool:
        """Change WAITING to a final state, or add the record."""
        ended = transitions.conclude(self._known(task.id), task, state, error, time.time())
        return self._end(ended, result)

    async def finish(self, task: Task, state: TaskState, error: str, result: bytes | None) -> bool:
        """Change STARTED to a final state."""
        ended = transitions.finish(self._known(task.id), task, state, error, time.time())
        return self._end(ended, result)

    def _end(self, ended: Task | None, result: bytes | None) -> bool:
        if ended is None:
            return False
        if result is not None:
            self.connection.results[ended.id] = result
        self._store(ended)
        return True

    async def revoke(self, task_ids: Sequence[str], reason: str) -> dict[str, str]:
        """Decide for each by its state."""
        started = {}
        for task_id in task_ids:
            known = self._known(task_id)
            if known is not None and known.state is TaskState.STARTED:
                started[task_id] = known.worker
            self._store(transitions.revoke(known, task_id, reason, time.time()))
        return started

    async def tasks(self, task_ids: Sequence[str]) -> dict[str, Task]:
        """Look up the records."""
        known = self.connection.tasks
        return {task_id: known[task_id] for task_id in task_ids if task_id in known}

    async def beat(self, worker: Worker) -> list[str]:
        """Keep the worker's record; look at what it runs."""
        now = time.time()
        self.connection.workers[worker.id] = (worker, now)
        stop = []
        for each in worker.running:
            task = transitions.adopt(self._known(each.id), each, worker.id, now)
            self._store(task)
            if transitions.must_stop(task, each, worker.id):
                stop.append(task.id)
        return stop

    async def deregister(self, worker_id: str) -> None:
        """Delete the worker's record."""
        self.connection.workers.pop(worker_id, None)

    async def workers(self) -> list[Worker]:
        """List the workers with their ages."""
        now = time.time()
        known = self.connection.workers.values()
        found = [replace(worker, age=max(0.0, now - beat_at)) for worker, beat_at in known]
        return sorted(found, key=lambda worker: (worker.name, worker.id))

    async def post(self, channel: str, body: dict[str, Any]) -> None:
        """Add a notification."""
        self.connection.post(channel, body)
        self.connection.changed()

    async def collect(self, channel: str, after: str, timeout: float) -> list[Notification]:
        """Read the channel; wait for a change if nothing is new."""
        cursor = int(after) if after != FROM_START else 0
        deadline = time.monotonic() + timeout
        while True:
            mark = self.connection.mark()
            channels = self.connection.notifications
            found = [each for each in channels[channel] if int(each.cursor) > cursor]
            left = deadline - time.monotonic()
            if found or left <= 0:
                return found
            await self.connection.wait_beyond(mark, left)

    async def close_channel(self, channel: str) -> None:
        """Delete the channel."""
        self.connection.notifications.pop(channel, None)

    async def load_result(self, task_id: str) -> bytes | None:
        """Look up the result."""
        return self.connection.results.get(task_id)

    async def store_progress(self, task_id: str, progress: bytes) -> None:
        """Keep it, if there is a record."""
        if task_id in self.connection.tasks:
            self.connection.progress[task_id] = progress

    async def load_progress(self, task_id: str) -> bytes | None:
        """Look it up."""
        return self.connection.progress.get(task_id)

    async def forget(self, task_ids: Sequence[str]) -> None:
        """Delete the records of tasks that have ended."""
        for task_id in task_ids:
            if transitions.may_forget(self._known(task_id)):
                self._delete(task_id)

    async def sweep(self) -> None:
        """Delete tasks and results past their time to live."""
        oldest = time.time() - self.settings.result_ttl
        for task in list(self.connection.tasks.values()):
            if task.state.is_final and task.finished_at < oldest:
                self._delete(task.id)

    def schedule_store(self) -> MemoryScheduleStore:
        """See the base class."""
        return MemoryScheduleStore(self.connection.schedules)

    def _known(self, task_id: str) -> Task | None:
        return self.connection.tasks.get(task_id)

    def _store(self, task: Task) -> None:
        """Keep a record; notify the run's loop if the change was the end of the task."""
        before = self._known(task.id)
        self.connection.tasks[task.id] = task
        if task.loop_channel and transitions.has_ended(before, task):
            self.connection.post(task.loop_channel, end_notification(task, task.state))
        self.connection.changed()

    def _delete(self, task_id: str) -> None:
        del self.connection.tasks[task_id]
        self.connection.results.pop(task_id, None)
        self.connection.progress.pop(task_id, None)
