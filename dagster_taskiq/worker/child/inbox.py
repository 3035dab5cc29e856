"""What a child receives from its parent, sorted for the threads that wait for it."""

import select
import socket
import threading
from collections import defaultdict, deque
from typing import Any

from dagster_taskiq.worker import frames

#: The frames that a child receives, by the field that makes each of them one.
KINDS = ("run", "stop", "recorded", "slot")
#: Those with which a child is told to run a task, and to run or stop one of several at once.
TASKS = "run"


class Inbox:
    """The frames that have come. Of the threads that wait, one reads for all.

    Frames about one of several tasks have its id in the field ``id``; others are for the only one.
    """

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._changed = threading.Condition()
        self._kept: defaultdict[tuple[str, str], deque[dict[str, Any]]] = defaultdict(deque)
        self._is_read = False
        self._is_closed = False

    def receive(self, kind: str, task_id: str = "") -> dict[str, Any] | None:
        """Return the next frame of a kind; ``None`` when the channel is closed.

        Args:
            kind: one of ``KINDS``.
            task_id: the task it is about, if there are several.
        """
        while True:
            with self._changed:
                while not self._kept[kind, task_id] and not self._is_closed and self._is_read:
                    self._changed.wait()
                if self._kept[kind, task_id]:
                    return self._kept[kind, task_id].popleft()
                if self._is_closed:
                    return None
                self._is_read = True
            self._read_one()

    def poll(self, kind: str, task_id: str = "") -> dict[str, Any] | None:
        """As :meth:`receive`, without waiting; ``None`` as well if no such frame has come."""
        while True:
            with self._changed:
                if self._kept[kind, task_id]:
                    return self._kept[kind, task_id].popleft()
                # If another thread reads, it keeps the frame as soon as that comes.
                if self._is_closed or self._is_read or not self._has_more():
                    return None
                self._is_read = True
            self._read_one()

    def _has_more(self) -> bool:
        return bool(select.select([self._channel], [], [], 0)[0])

    def _read_one(self) -> None:
        """Read and keep a frame, as the thread that reads."""
        frame: dict[str, Any] | None = None
        is_complete = False
        try:
            frame = frames.receive(self._channel)
            is_complete = True
        finally:  # an interrupt lets another thread go on
            with self._changed:
                self._is_read = False
                self._is_closed = self._is_closed or (is_complete and frame is None)
                if frame is not None:
                    self._kept[_place_of(frame)].append(frame)
                self._changed.notify_all()


def _place_of(frame: dict[str, Any]) -> tuple[str, str]:
    """Return the kind of a frame, and the task for which it waits."""
    task_id: str = frame.get("id", "")
    kind = next(each for each in KINDS if each in frame)
    if task_id and kind in ("run", "stop"):
        return TASKS, ""  # for the thread that starts and stops the tasks of this child
    return kind, task_id
