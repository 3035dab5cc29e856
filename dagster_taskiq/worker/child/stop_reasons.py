"""Why the task of a child is being stopped: its parent sends the reason before the signal."""

import select
import socket

from dagster_taskiq.execution.task_context import StopRequest
from dagster_taskiq.worker import frames


class StopReasons:
    """Reads the reason from the child's end of the channel while a task is executed."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._request: StopRequest | None = None

    def read(self) -> StopRequest | None:
        """Return why the task is being stopped; ``None`` if it is not.

        A child whose task was stopped gets no other, so the answer stays.
        """
        if self._request is None and select.select([self._channel], [], [], 0)[0]:
            # While a task is executed, the parent sends nothing else.
            frame = frames.receive(self._channel)
            if frame is not None:
                self._request = StopRequest(frame["stop"], frame["is_cancellation"])
        return self._request
