"""The parent process of a child: what it receives from it and reports to it."""

import os
import socket
from collections.abc import Mapping
from typing import Any

from dagster_taskiq.worker import frames


class Parent:
    """The other end of a child's channel.

    Frames from the parent: the first is the set-up (:mod:`dagster_taskiq.worker.child.setup`). Then

    ``run`` (a message), ``typed`` (whether an error that the task raises is to keep its type): run
        a task.
    ``stop`` (the reason), ``is_cancellation``: the task is being stopped; SIGTERM follows. Read by
        :mod:`dagster_taskiq.worker.child.stop_reasons` while the task is executed.

    Frames to the parent are the methods ``report_...``. One that cannot be sent, since there is no
    parent any more, ends this process at once.
    """

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel

    def receive(self) -> dict[str, Any] | None:
        """Return the next frame; ``None`` when the parent has closed the channel."""
        return frames.receive(self._channel)

    def report_ready(self, problem: str, dagster_parts: Mapping[str, str]) -> None:
        """Report that this child can run tasks.

        Args:
            problem: why it cannot; empty if it can.
            dagster_parts: what is not as expected in Dagster, see
                :mod:`dagster_taskiq.dagster_internals.registry`.
        """
        self._send({"ready": True, "problem": problem, "dagster_parts": dict(dagster_parts)})

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

    def _send(self, frame: dict[str, Any]) -> None:
        try:
            self._channel.sendall(frames.pack(frame))
        except ConnectionError:
            # The worker has died, and the fork server will kill this process in a moment. The task
            # is lost with its worker: an error here would fail a step, or end a run that is to be
            # resumed, so nothing more of the task may be executed.
            os._exit(1)
