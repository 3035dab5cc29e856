"""The parent process of a child: what it receives from it and reports to it."""

import os
import select
import socket
import threading
from collections import defaultdict, deque
from collections.abc import Mapping
from typing import Any

from taskiq import BrokerMessage

from dagster_taskiq.worker import frames


class Parent:
    """The other end of a child's channel.

    Frames from the parent: the first is the set-up (:mod:`dagster_taskiq.worker.child.setup`). Then

    ``run`` (a message), ``typed`` (whether an error that the task raises is to keep its type): run
        a task.
    ``stop`` (the reason), ``is_cancellation``: the task is being stopped; SIGTERM follows. Read by
        :mod:`dagster_taskiq.worker.child.stop_reasons` while the task is executed.
    ``recorded``: the end of the task is on record.
    ``slot``: the task, which had lent its slot to another, has one again.

    Frames to the parent are the methods ``report_...``. One that cannot be sent, since there is no
    parent any more, ends this process at once.

    Frames may be sent and received on any thread: a frame that another thread waits for is kept.
    """

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._sending = threading.Lock()
        self._receiving = threading.Lock()
        self._kept: defaultdict[str, deque[dict[str, Any]]] = defaultdict(deque)
        self._is_closed = False

    def receive_setup(self) -> dict[str, Any] | None:
        """Return the first frame; ``None`` when the parent has closed the channel."""
        return frames.receive(self._channel)

    def receive(self, kind: str) -> dict[str, Any] | None:
        """Return the next frame that has a field ``kind``; ``None`` when the channel is closed."""
        while True:
            with self._receiving:
                if self._kept[kind]:
                    return self._kept[kind].popleft()
                if self._is_closed:
                    return None
                self._receive_one()

    def poll(self, kind: str) -> dict[str, Any] | None:
        """Return the next frame that has a field ``kind``, if it has come; do not wait."""
        if not self._kept[kind] and self._receiving.acquire(blocking=False):
            # Else another thread receives, and keeps it as soon as it comes.
            try:
                while not self._is_closed and select.select([self._channel], [], [], 0)[0]:
                    self._receive_one()
            finally:
                self._receiving.release()
        return self._kept[kind].popleft() if self._kept[kind] else None

    def record_end(self, result: str) -> None:
        """Have the end of the task recorded, and return when it is.

        Args:
            result: of the task, as JSON.
        """
        self._send({"end": result})
        if self.receive("recorded") is None:
            os._exit(1)  # as in _send()

    def wait_for_slot(self) -> None:
        """Report that the task is to work on after a wait, and return when it may."""
        self._send({"working": True})
        if self.receive("slot") is None:
            os._exit(1)  # as in _send()

    def _receive_one(self) -> None:
        frame = frames.receive(self._channel)
        if frame is None:
            self._is_closed = True
            return
        for kind in ("run", "stop", "recorded", "slot"):
            if kind in frame:
                self._kept[kind].append(frame)

    def report_ready(self, problem: str, dagster_parts: Mapping[str, str], has_hooks: bool) -> None:
        """Report that this child can run tasks.

        Args:
            problem: why it cannot; empty if it can.
            dagster_parts: what is not as expected in Dagster, see
                :mod:`dagster_taskiq.dagster_internals.registry`.
            has_hooks: whether the project has middlewares that want to know of the ends of tasks.
        """
        ready = {"problem": problem, "dagster_parts": dict(dagster_parts), "has_hooks": has_hooks}
        self._send({"ready": True, **ready})

    def report_wake(self) -> None:
        """Report that the task has written to the event log of its run."""
        self._send({"wake": True})

    def report_orchestrating(self) -> None:
        """Report that the task is a run that only waits for its own steps from now on."""
        self._send({"orchestrating": True})

    def report_begun(self) -> None:
        """Report that the task, a run, does what no other process could go on with."""
        self._send({"begun": True})

    def report_stay(self) -> None:
        """Report that the task must not be handed over to another worker."""
        self._send({"stay": True})

    def report_waiting(self) -> None:
        """Report that the task waits for the results of others, and lends its slot meanwhile."""
        self._send({"waiting": True})

    def report_output(self, path: str, stream: int) -> None:
        """Report a file with output to copy to stdout (1) or stderr (2), or that it ends (0)."""
        self._send({"mirror": path, "stream": stream})

    def report_done(self, result: str, resident_bytes: int, is_last: bool, left: list[str]) -> None:
        """Report the end of a task.

        Args:
            result: of the task, as JSON.
            resident_bytes: how much memory this process holds.
            is_last: whether this child ends now.
            left: what the task has left behind that cannot be restored, in words.
        """
        self._send({"done": result, "rss": resident_bytes, "last": is_last, "left": left})

    def report_put_back(
        self, message: BrokerMessage | None, resident_bytes: int, is_last: bool, left: list[str]
    ) -> None:
        """Report that a task has ended without a result, and is to wait again.

        Args:
            message: its new message, if there is one.
            resident_bytes: as in :meth:`report_done`.
            is_last: as there.
            left: as there.
        """
        put_back = None if message is None else {"body": message.message.decode(), **_head(message)}
        done = {"done": "", "rss": resident_bytes, "last": is_last, "left": left}
        self._send({"put_back": put_back, **done})

    def _send(self, frame: dict[str, Any]) -> None:
        try:
            with self._sending:
                self._channel.sendall(frames.pack(frame))
        except ConnectionError:
            # The worker has died, and the fork server will kill this process in a moment. The task
            # is lost with its worker: an error here would fail a step, or end a run that is to be
            # resumed, so nothing more of the task may be executed.
            os._exit(1)


def _head(message: BrokerMessage) -> dict[str, Any]:
    return {"id": message.task_id, "name": message.task_name, "labels": message.labels}
