"""What an app sends in tests with the plugin ``dagster_taskiq.testing``, which tells of it.

There, a task is executed where it is sent. What is sent is noted for the fixture ``sent_tasks``.
"""

from contextlib import AbstractContextManager
from contextvars import ContextVar

from dagster_taskiq.execution.task_context import holding
from dagster_taskiq.transport import current
from dagster_taskiq.transport.json_messages import PlainFormatter
from dagster_taskiq.transport.memory.server import server_at
from dagster_taskiq.wire.task_request import TaskRequest

#: Whether what is executed in this process is so because it was sent.
_is_sending: ContextVar[bool] = ContextVar("dagster_celery_is_sending", default=False)


def sending(is_sent: bool = True) -> AbstractContextManager[None]:
    """Let the tasks that are executed inside a block count as sent, or as only called."""
    return holding(_is_sending, is_sent)


def is_sending() -> bool:
    """Return whether what is executed now counts as sent."""
    return _is_sending.get()


def are_held() -> bool:
    """Return whether the test only wants to see what is sent, and nothing executed."""
    return server_at(current.MEMORY_URL).is_held


def note_sent(request: TaskRequest) -> None:
    """Note what is sent, if there is a test that asks; no step or run."""
    sent = server_at(current.MEMORY_URL).sent if current.is_kept_in_memory() else None
    if sent is not None and not request.run_id:
        sent.append(PlainFormatter().dumps(request.message()))
