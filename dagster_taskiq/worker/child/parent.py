"""The parent process of a child: what it receives from it and reports to it."""

import copy
import os
import socket
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from taskiq import BrokerMessage

from dagster_taskiq.wire.records import TaskState
from dagster_taskiq.wire.task_counts import Outcome
from dagster_taskiq.worker import frames
from dagster_taskiq.worker.child.inbox import Inbox


class Parent:
    """The other end of a child's channel.

    Frames from the parent: the first is the set-up (:mod:`dagster_taskiq.worker.child.setup`). Then

    ``run`` (a message), ``typed`` (whether an error that the task raises is to keep its type): run
        a task. With an ``id``: run this async task beside others that have one.
    ``stop`` (the reason), ``cause``: the task is being stopped; SIGTERM follows. Read by
        :mod:`dagster_taskiq.worker.child.stop_reasons` while the task is executed. With an ``id``,
        no signal follows: the task is cancelled in its event loop.
    ``recorded``: the end of the task is on record.
    ``slot``: the task, which had lent its slot to another, has one again.

    Frames to the parent are the methods ``report_...``. One that cannot be sent, since there is no
    parent any more, ends this process at once.

    Frames may be sent and received on any thread: a frame that another thread waits for is kept.
    """

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._sending = threading.Lock()
        self._inbox = Inbox(channel)
        #: The task that it is about, if this child runs several; see :meth:`about`.
        self._task_id = ""

    def about(self, task_id: str) -> "Parent":
        """Return the same for one of several tasks that this child runs at once."""
        view = copy.copy(self)
        view._task_id = task_id
        return view

    def receive_setup(self) -> dict[str, Any] | None:
        """Return the first frame; ``None`` when the parent has closed the channel."""
        return frames.receive(self._channel)

    def receive(self, kind: str) -> dict[str, Any] | None:
        """Return the next frame that has a field ``kind``; ``None`` when the channel is closed."""
        return self._inbox.receive(kind, self._task_id)

    def poll(self, kind: str) -> dict[str, Any] | None:
        """Return the next frame that has a field ``kind``, if it has come; do not wait."""
        return self._inbox.poll(kind, self._task_id)

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

    def report_ready(
        self,
        problem: str,
        dagster_parts: Mapping[str, str],
        has_hooks: bool,
        async_tasks: Sequence[str],
    ) -> None:
        """Report that this child can run tasks.

        Args:
            problem: why it cannot; empty if it can.
            dagster_parts: what is not as expected in Dagster, see
                :mod:`dagster_taskiq.dagster_internals.registry`.
            has_hooks: whether the project has middlewares that want to know of the ends of tasks.
            async_tasks: the names of the users' own tasks that are coroutines.
        """
        self._send(
            {
                "ready": True,
                "problem": problem,
                "dagster_parts": dict(dagster_parts),
                "has_hooks": has_hooks,
                "async_tasks": list(async_tasks),
            }
        )

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

    def report_done(
        self,
        result: str,
        resident_bytes: int,
        is_last: bool,
        left: list[str],
        end: tuple[TaskState, str] | None = None,
        outcome: tuple[Outcome, str] | None = None,
    ) -> None:
        """Report the end of a task.

        Args:
            result: of the task, as JSON.
            resident_bytes: how much memory this process holds.
            is_last: whether this child ends now.
            left: what the task has left behind that cannot be restored, in words.
            end: the state, and the reason, with which the result may be recorded as it is.
            outcome: how a step or run has ended in Dagster, and why.
        """
        done = {"done": result, "rss": resident_bytes, "last": is_last, "left": left}
        if end is not None:
            done |= {"state": end[0].value, "error": end[1]}
        if outcome is not None:
            done |= {"outcome": outcome[0].value, "why": outcome[1]}
        self._send(done)

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
        if self._task_id:
            frame = {**frame, "id": self._task_id}
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
