"""The backend of a worker's child."""

from collections.abc import Sequence
from typing import Any

from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.transport.backend import StateBackend
from dagster_taskiq.transport.eviction import Eviction
from dagster_taskiq.transport.messages import Outgoing
from dagster_taskiq.transport.relay.connection import RelayConnection
from dagster_taskiq.transport.relay.schedule_store import RelayedScheduleStore
from dagster_taskiq.wire.notifications import Notification
from dagster_taskiq.wire.records import Task, TaskState, Worker


class RelayedBackend(StateBackend):
    """Has the worker call its own backend."""

    def __init__(self, settings: Settings, connection: RelayConnection) -> None:
        super().__init__(settings)
        self.connection: RelayConnection = connection
        self.is_worker_process = True

    async def ping(self) -> None:
        """See the base class."""
        await self._call("ping")

    async def eviction(self) -> Eviction | None:
        """See the base class."""
        found: Eviction | None = await self._call("eviction")
        return found

    async def submitted(self, tasks: Sequence[Task]) -> None:
        """See the base class."""
        await self._call("submitted", list(tasks))

    async def start(self, task: Task, *, recorded: bool = False) -> TaskState | None:
        """See the base class."""
        state: TaskState | None = await self._call("start", task, recorded=recorded)
        return state

    async def put_back(self, task: Task, message: Outgoing | None) -> bool:
        """See the base class."""
        return bool(await self._call("put_back", task, message))

    async def conclude(
        self, task: Task, state: TaskState, error: str, result: bytes | None
    ) -> bool:
        """See the base class."""
        return bool(await self._call("conclude", task, state, error, result))

    async def finish(self, task: Task, state: TaskState, error: str, result: bytes | None) -> bool:
        """See the base class."""
        return bool(await self._call("finish", task, state, error, result))

    async def revoke(self, task_ids: Sequence[str], reason: str) -> dict[str, str]:
        """See the base class."""
        return dict(await self._call("revoke", list(task_ids), reason))

    async def tasks(self, task_ids: Sequence[str]) -> dict[str, Task]:
        """See the base class."""
        return dict(await self._call("tasks", list(task_ids)))

    async def beat(self, worker: Worker) -> list[str]:
        """See the base class."""
        return list(await self._call("beat", worker))

    async def deregister(self, worker_id: str) -> None:
        """See the base class."""
        await self._call("deregister", worker_id)

    async def workers(self) -> list[Worker]:
        """See the base class."""
        return list(await self._call("workers"))

    async def post(self, channel: str, body: dict[str, Any]) -> None:
        """See the base class."""
        await self._call("post", channel, body)

    async def collect(self, channel: str, after: str, timeout: float) -> list[Notification]:
        """See the base class. A wait that is cancelled here goes on there until ``timeout``."""
        return list(await self._call("collect", channel, after, timeout))

    async def close_channel(self, channel: str) -> None:
        """See the base class."""
        await self._call("close_channel", channel)

    async def load_result(self, task_id: str) -> bytes | None:
        """See the base class."""
        result: bytes | None = await self._call("load_result", task_id)
        return result

    async def store_progress(self, task_id: str, progress: bytes) -> None:
        """See the base class."""
        await self._call("store_progress", task_id, progress)

    async def load_progress(self, task_id: str) -> bytes | None:
        """See the base class."""
        progress: bytes | None = await self._call("load_progress", task_id)
        return progress

    async def forget(self, task_ids: Sequence[str]) -> None:
        """See the base class."""
        await self._call("forget", list(task_ids))

    async def sweep(self) -> None:
        """See the base class."""
        await self._call("sweep")

    def schedule_store(self) -> RelayedScheduleStore:
        """See the base class."""
        return RelayedScheduleStore(self.connection)

    async def _call(self, method: str, *args: Any, **options: Any) -> Any:
        return await self.connection.call("backend", method, args, options)
