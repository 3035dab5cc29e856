"""Runs tasks in child processes, each in the slot that was reserved for it.

Children come from a preloaded fork server within milliseconds, and stay warm between tasks. A task
that is stopped, or whose child dies, costs that one child and nothing else.

The pool puts together what its parts do: :mod:`~dagster_taskiq.worker.slots` decides which messages
may come, :mod:`~dagster_taskiq.worker.children` keeps the processes,
:mod:`~dagster_taskiq.worker.running_task` is one task in one of them.
"""

import asyncio
import logging
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from taskiq import TaskiqMessage, TaskiqResult

from dagster_taskiq.errors import ChildDiedError, TaskCutShortError
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.tracing import auto
from dagster_taskiq.wire.labels import (
    CANCEL_SECONDS_LABEL,
    CODE_LABEL,
    EXPIRED,
    QUEUE_LABEL,
    WATCHES_LABEL,
    has_expired,
)
from dagster_taskiq.wire.queues import is_run_queue
from dagster_taskiq.wire.records import Running
from dagster_taskiq.wire.stop_causes import StopCause
from dagster_taskiq.worker import child_process
from dagster_taskiq.worker.async_hosts import AsyncHosts
from dagster_taskiq.worker.child_process import ChildProcess, describe_exit
from dagster_taskiq.worker.child_starter import ChildStarter
from dagster_taskiq.worker.children import Children
from dagster_taskiq.worker.fork_server.client import name_of_code
from dagster_taskiq.worker.lease import Lease
from dagster_taskiq.worker.limits import TimeLimits
from dagster_taskiq.worker.options import PoolOptions
from dagster_taskiq.worker.running_task import (
    EndReports,
    RunningTask,
    TaskEnd,
    TaskEvents,
    describe_task,
)
from dagster_taskiq.worker.slots import Slots

logger = logging.getLogger(__name__)

#: How long the reaction to a signal that a child got from another process is put off, in seconds. A
#: service manager that stops a worker signals all its processes, one after the other: if the worker
#: drains by then, the child's signal meant the same.
SAME_SIGNAL_SECONDS = 1.0

#: Called with the message of a task that has written to the event log of its run.
OnWake = Callable[[TaskiqMessage], None]


class Pool:
    """The tasks that run in this worker, or are about to."""

    def __init__(
        self, settings: Settings, options: PoolOptions, worker_name: str, on_wake: OnWake
    ) -> None:
        self.options = options
        self.worker_name = worker_name
        #: Which messages may be taken; the gate of the broker that listens.
        self.slots = Slots(options.concurrency, options.max_runs, options.async_tasks > 0)
        self._on_wake = on_wake
        self._lease = Lease(settings.lease)
        setup = {
            "worker_name": worker_name,
            "log_format": options.log_format.value,
            "settings": settings.to_dict(),
            "include": list(options.include),
            "allow": list(options.allow),
            "app": options.app,
            "path": sys.path,
            "argv": sys.argv,
            "instrumented": auto.path_of_parent(),
        }
        self._starter = ChildStarter(setup, self._lease, self._note_foreign_signal)
        self._children = Children(options.concurrency, self._starter.start_child)
        self._async_hosts = AsyncHosts(
            options.async_tasks, self._children, self.slots, lambda: self._starter.async_tasks
        )
        #: The tasks that have a slot, and no child yet.
        self._waiting: dict[str, TaskiqMessage] = {}
        #: Why those of them were stopped that were.
        self._stopped_early: dict[str, str] = {}
        self._running: dict[str, RunningTask] = {}
        self._has_ignored_signal = False

    async def start(self, relay: str = "") -> None:
        """Start all children, side by side, and return when the first is ready.

        Args:
            relay: the socket by which they use the worker's connection; nothing if they do not.

        Raises:
            ConfigError: a module that ``include`` names cannot be imported.
            ChildStartError: a child does not come up.
        """
        self._starter.open(relay)
        # Nothing runs here yet that could be lost; the first heartbeat begins the lease.
        self.renew(time.monotonic() + child_process.START_SECONDS)
        await self._children.open()

    async def close(self) -> None:
        """End the children: as Python processes end if they are idle, else by SIGKILL."""
        self._async_hosts.close()
        await self._children.close()
        await self._starter.close()

    @property
    def has_hooks(self) -> bool:
        """Whether the project has middlewares that want to know of the ends of tasks."""
        return self._starter.has_hooks

    @property
    def dagster_parts(self) -> Mapping[str, str]:
        """What is not as expected in Dagster, see :attr:`ChildStarter.dagster_parts`."""
        return self._starter.dagster_parts

    def renew(self, deadline: float) -> None:
        """Let the children live until ``deadline`` (of ``time.monotonic()``)."""
        self._starter.renew_lease(deadline)

    @property
    def pids(self) -> list[int]:
        """The ids of its processes: the children, and the server from which they are forked."""
        server = self._starter.server
        return [*self._children.pids, *([server.pid] if server is not None and server.pid else [])]

    @property
    def running(self) -> list[Running]:
        """What runs now, or is about to, for the heartbeat."""
        waiting = [describe_task(message) for message in self._waiting.values()]
        running = [
            task.describe()
            for task in self._running.values()
            if not task.is_internal and not task.is_recorded
        ]
        return [*waiting, *running]

    async def run(self, message: TaskiqMessage, end: EndReports) -> TaskEnd:
        """Run one task in a child, in the slot reserved for it, and return how it ended.

        Args:
            message: names the task.
            end: what is done at the reports of its end.

        Raises:
            TaskRevokedError: :meth:`stop` ended it.
            TaskCutShortError: the same, and it could not report anything more; or it has expired
                and was not begun.
            TaskHandedOverError: :meth:`hand_over` ended it.
            TimeLimitError: it ran longer than it may.
            ChildDiedError: its process died; the text has the signal or exit code.
            ConfigError: one of its labels that stand for a time is no number.
        """
        task_id = message.task_id
        is_run = is_run_queue(str(message.labels.get(QUEUE_LABEL)))
        in_host = self._async_hosts.serves(message)
        await self.slots.start(task_id, is_run, in_host)
        self._waiting[task_id] = message
        try:
            is_async = message.task_name in self._starter.async_tasks
            limits = TimeLimits.of(message.labels, self.options, is_async)
            if has_expired(message.labels):
                raise TaskCutShortError(EXPIRED)
            if in_host:
                return await self._run_in_host(message, limits, end)
            child = await self._children.take(str(message.labels.get(CODE_LABEL, "")))
            if task_id in self._stopped_early:
                self._children.give_back(child, is_reusable=True)
                raise TaskCutShortError(self._stopped_early[task_id])
            task = RunningTask(message, child, self.options)
            return await self._run_in_child(task, child, limits, end)
        finally:
            self._waiting.pop(task_id, None)
            self._stopped_early.pop(task_id, None)
            self.slots.end(task_id)

    async def run_internal(self, message: TaskiqMessage) -> TaskiqResult[Any]:
        """Run a task of this worker's own, which needs no slot, in a child started for it.

        Raises:
            ChildDiedError: its process died.
            ChildStartError: its process did not come up.
            ConfigError: a module that ``include`` names cannot be imported.
            OSError: there can be no more processes.
        """
        child = await self._children.start_extra()
        task = RunningTask(message, child, self.options, is_internal=True)
        outcome = await self._run_in_child(task, child, TimeLimits(), EndReports())
        if isinstance(outcome, TaskiqResult):
            return outcome
        raise ChildDiedError(f"The task {message.task_name} has ended without a result.")

    def stop(
        self,
        task_id: str,
        reason: str,
        at_once: bool = False,
        cause: StopCause = StopCause.CANCELLED,
    ) -> None:
        """Stop a task, if it is here: see :meth:`RunningTask.stop`.

        One that waits for a child is not begun.
        """
        task = self._running.get(task_id)
        if task is not None:
            task.stop(reason, at_once, cause)
        elif task_id in self._waiting:
            self._stopped_early[task_id] = reason

    def stop_all(self, reason: str, at_once: bool = False) -> bool:
        """Stop every task that runs here, because of the worker and not of the task.

        One that only watches a step is handed over: what it watches goes on. The worker's own tasks
        go on, which write what became of others, unless all must end at once.

        Returns:
            Whether there was one to stop.
        """
        self.hand_over(reason, lambda message: WATCHES_LABEL in message.labels)
        stopped = [
            task_id
            for task_id, task in self._running.items()
            if at_once or not (task.is_internal or task.is_handed_over)
        ]
        stopped += self._waiting
        for task_id in stopped:
            self.stop(task_id, reason, at_once, StopCause.WORKER)
        return bool(stopped)

    def cancel_seconds_of(self, task_id: str, default: float) -> float:
        """Return how many seconds a task that runs here has to end when it is cancelled."""
        task = self._running.get(task_id)
        value = task.message.labels.get(CANCEL_SECONDS_LABEL) if task is not None else None
        return default if value is None else float(value)

    def hand_over(self, reason: str, may_take: Callable[[TaskiqMessage], bool]) -> None:
        """End the processes of tasks that only wait or watch, for other workers to go on.

        Those are runs that wait for their steps, and tasks that watch a step which runs elsewhere.
        :meth:`run` raises ``TaskHandedOverError`` for each of them.

        Args:
            reason: for the log, and for the records of the tasks.
            may_take: returns whether another worker can go on with the task of a message.
        """
        for task in list(self._running.values()):
            if task.may_be_handed_over and may_take(task.message):
                task.hand_over(reason)

    async def _run_in_child(
        self, task: RunningTask, child: ChildProcess, limits: TimeLimits, end: EndReports
    ) -> TaskEnd:
        def free_slot() -> None:
            """Give the slot of a run that waits for its own steps to another task."""
            if self.slots.free_while_waiting(task.message.task_id):
                task.is_orchestrating = True
                self._children.note_slot_freed(child)

        def lend_slot() -> None:
            """Give the slot of a task that waits for the results of others to another task."""
            if self.slots.lend(task.message.task_id):
                self._children.note_slot_freed(child)

        async def take_slot_back() -> None:
            """Return when a task that has lent its slot may work on."""
            if await self.slots.take_back(task.message.task_id):
                self._children.note_slot_taken(child)

        events = TaskEvents(
            on_wake=lambda: self._on_wake(task.message),
            on_orchestrating=free_slot,
            on_waiting=lend_slot,
            until_working=take_slot_back,
            end=end,
        )
        try:
            return await self._follow(task, limits, events)
        finally:
            if child.is_stopped:
                # It may have reported its end: nothing of it runs any more when that is recorded.
                await child.kill_and_wait()
            self._running.pop(task.message.task_id, None)
            self._children.give_back(child, task.leaves_child_usable)

    async def _run_in_host(
        self, message: TaskiqMessage, limits: TimeLimits, end: EndReports
    ) -> TaskEnd:
        """Run a user's async task in a child that runs others beside it."""
        async with self._async_hosts.joined(message) as child:
            if message.task_id in self._stopped_early:
                raise TaskCutShortError(self._stopped_early[message.task_id])
            task = RunningTask(message, child, self.options)
            events = TaskEvents(
                on_wake=lambda: None,
                on_orchestrating=lambda: None,
                on_waiting=lambda: self._async_hosts.lend(child),
                until_working=lambda: self._async_hosts.take_back(child),
                end=end,
            )
            try:
                return await self._follow(task, limits, events)
            finally:
                self._running.pop(message.task_id, None)
                if not task.leaves_child_usable:
                    child.take_no_more()

    async def _follow(self, task: RunningTask, limits: TimeLimits, events: TaskEvents) -> TaskEnd:
        """Have a task run in its child, and return how it ended."""
        task_id = task.message.task_id
        self._running[task_id] = task
        self._waiting.pop(task_id, None)
        with limits.enforced(task.exceed_limit):
            outcome = await task.run(events)
        if outcome is None:
            raise await self._child_died_error(task)
        return outcome

    async def _child_died_error(self, task: RunningTask) -> ChildDiedError:
        how = await task.child.wait_for_exit()
        has_lease_ended = how is not None and (
            how.lease_ended
            # The kernel kills a fork server that is frozen then, and its children with it.
            or (how.with_server and self._lease.has_ended_since(task.started_at))
        )
        end = self._lease.describe_end() if has_lease_ended else describe_exit(how)
        return ChildDiedError(
            f"The process that ran the task (pid {task.child.pid}, worker {self.worker_name}) "
            f"{end}."
        )

    def _note_foreign_signal(self, child: ChildProcess, number: int) -> None:
        """Act soon on a SIGTERM or SIGINT that a child got from another process and ignored."""
        if not self._ignores_signal(child):
            loop = asyncio.get_running_loop()
            task = self._task_in(child)
            loop.call_later(SAME_SIGNAL_SECONDS, self._act_on_signal, child, task, number)

    def _act_on_signal(self, child: ChildProcess, task: RunningTask | None, number: int) -> None:
        """Stop the task of a child that got a signal, unless the worker drains."""
        if self._task_in(child) is not task or self._ignores_signal(child):
            return
        if task is None:
            self._children.replace_if_idle(child)
        else:
            reason = f"its process was sent {name_of_code(-number)}, and not by this worker"
            task.stop(reason, cause=StopCause.WORKER)

    def _ignores_signal(self, child: ChildProcess) -> bool:
        if not self.slots.is_draining:
            return False
        if not self._has_ignored_signal:
            self._has_ignored_signal = True
            logger.info(
                "Child %d received a signal as well and goes on: this worker drains.", child.pid
            )
        return True

    def _task_in(self, child: ChildProcess) -> RunningTask | None:
        return next((task for task in self._running.values() if task.child is child), None)
