"""Why the task of a child is being stopped: its parent sends the reason before the signal."""

from dagster_taskiq.execution.task_context import StopRequest
from dagster_taskiq.wire.stop_causes import StopCause
from dagster_taskiq.worker.child.parent import Parent


class StopReasons:
    """Reads the reason from the child's end of the channel while a task is executed."""

    def __init__(self, parent: Parent) -> None:
        self._parent = parent
        self._request: StopRequest | None = None

    def read(self) -> StopRequest | None:
        """Return why the task is being stopped; ``None`` if it is not.

        A child whose task was stopped gets no other, so the answer stays.
        """
        if self._request is None:
            frame = self._parent.poll("stop")
            if frame is not None:
                self._request = StopRequest(frame["stop"], StopCause(frame["cause"]))
        return self._request
