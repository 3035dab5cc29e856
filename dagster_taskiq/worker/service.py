"""One worker: its children, its heartbeat, its commands, from the start of its broker to the end.

It starts and stops with the broker, so it is there in whichever way the broker is made to listen:
by ``dagster-taskiq worker start`` or by ``taskiq worker``.
"""

import asyncio
import logging
import os
import socket
import time
import uuid
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, Protocol

from taskiq import TaskiqMessage
from taskiq.decor import AsyncTaskiqDecoratedTask

from dagster_taskiq.errors import ServerUnavailableError
from dagster_taskiq.settings.dagster_storage import warning_of_missing_package
from dagster_taskiq.settings.default_broker import warning_of_one_machine
from dagster_taskiq.settings.urls import redact
from dagster_taskiq.transport.backend import StateBackend
from dagster_taskiq.transport.broker import QueueBroker
from dagster_taskiq.transport.json_messages import PlainFormatter
from dagster_taskiq.transport.relay.server import RelayServer
from dagster_taskiq.version import __version__
from dagster_taskiq.wire.labels import RUN_LABEL
from dagster_taskiq.wire.notifications import FLEET_CHANNEL, run_channel, worker_channel
from dagster_taskiq.wire.records import Worker
from dagster_taskiq.worker import process_trees, taskiq_log
from dagster_taskiq.worker.activity import Activity
from dagster_taskiq.worker.cancellation import Cancellation
from dagster_taskiq.worker.control import Control
from dagster_taskiq.worker.dagster_parts import log_parts, unexpected_parts
from dagster_taskiq.worker.handover import Handover
from dagster_taskiq.worker.heartbeat import Heartbeat
from dagster_taskiq.worker.local_status.server import LocalStatusServer
from dagster_taskiq.worker.local_status.sockets import LocalStatus
from dagster_taskiq.worker.memory import total_resident_bytes
from dagster_taskiq.worker.namesakes import warn_of_namesake
from dagster_taskiq.worker.options import WorkerOptions, included
from dagster_taskiq.worker.pool import Pool
from dagster_taskiq.worker.task_counts import WorkerCounts
from dagster_taskiq.worker.task_handler import TaskHandler
from dagster_taskiq.worker.wakeups import WakeUps

logger = logging.getLogger(__name__)

#: How often a worker that is the first process of a container looks for zombies, in seconds.
REAP_SECONDS = 2.0


class StatusServer(Protocol):
    """Answers those who ask this process whether it lives."""

    async def start(self) -> None:
        """Begin to answer; nothing happens if it does already."""

    async def close(self) -> None:
        """Answer no longer."""


class WorkerService:
    """One worker in this process."""

    def __init__(
        self,
        broker: QueueBroker,
        options: WorkerOptions,
        on_drain: Callable[[], None],
        on_kill: Callable[[], None],
    ) -> None:
        """Have a broker listen for this worker; nothing is started yet.

        Args:
            broker: the broker.
            options: the worker's.
            on_drain: called when the command to drain has been received.
            on_kill: called when the command to end at once has been received.
        """
        backend = broker.result_backend
        if not isinstance(backend, StateBackend):
            raise TypeError(f"{backend!r} keeps no state of tasks and workers.")
        self.id = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self.broker = broker
        self.backend: StateBackend = backend
        backend.is_worker_process = True
        self.options = options
        self._is_draining = False
        self._is_ready = False
        self._status_servers: list[StatusServer] = [
            LocalStatusServer(options.started_with, self._local_status)
        ]
        self._started_at = time.monotonic()
        self._background: set[asyncio.Task[None]] = set()
        self._wake_ups = WakeUps(self._post_wake_up, self._in_background)
        user_modules = {task.original_func.__module__ for task in _user_tasks(broker)}
        pool_options = replace(
            options.pool,
            include=included([*broker.settings.include, *options.pool.include, *user_modules]),
        )
        self.pool = Pool(broker.settings, pool_options, options.name, self._wake_run_of)
        #: Lets the children use this process's connection; ``None`` if they make their own.
        self._relay: RelayServer | None = None
        if broker.shares_connection or backend.shares_connection:
            self._relay = RelayServer(broker, backend)
        cancellation = Cancellation(self.pool)
        self._counts = WorkerCounts(options.queues)
        self._heartbeat = Heartbeat(
            backend, self.pool, cancellation, self.describe, broker.settings.heartbeat_interval
        )
        self._handover = Handover(backend, self.pool, self.id)
        self._control = Control(
            backend, self.id, cancellation, on_drain, on_kill, self._heartbeat.watch
        )
        taskiq_log.shorten()
        # What the project has on its broker is for its tasks, which the children execute.
        broker.middlewares = []
        broker.event_handlers.clear()
        # A serializer of the project's own reads messages where their tasks are executed.
        broker.formatter = PlainFormatter()
        broker.queues = options.queues
        broker.consumer = self.id
        broker.starts_with_claim = broker.may_start_with_claim(backend.connection)
        broker.gate = self.pool.slots
        #: Work in the background that not every worker has.
        self._more_work: list[Callable[[], Coroutine[Any, Any, None]]] = []
        # Imported here: aiohttp and Prometheus' client take a moment, and few workers have these.
        if options.http_port is not None:
            from dagster_taskiq.worker.http_probes import HttpProbes  # noqa: PLC0415

            self._status_servers.append(
                HttpProbes(options.http_port, self._state, self._ping, self.describe)
            )
        if options.pod_deletion_cost:
            from dagster_taskiq.worker.pod_deletion_cost import PodDeletionCost  # noqa: PLC0415

            self._more_work.append(PodDeletionCost(lambda: bool(self.pool.running)).run)
        #: What is done with each message.
        activity = Activity(
            self._counts,
            self._heartbeat.note_change,
            worker=options.name,
            broker=broker.settings.broker,
        )
        self.handler = TaskHandler(broker, backend, self.pool, self._wake_ups, activity, self.id)

    @property
    def is_ready(self) -> bool:
        """Whether it has started: a child can run a task."""
        return self._is_ready

    @property
    def is_draining(self) -> bool:
        """Whether it ends when its tasks have ended, which its heartbeats show."""
        return self._is_draining

    async def start(self) -> None:
        """Start the children, then send heartbeats and receive commands in the background.

        Raises:
            ConfigError: a module to include cannot be imported.
            ChildStartError: no child can be started.
            OSError: there can be no socket for the children.
        """
        await self.serve_status()
        await self.pool.start(await self._relay.start() if self._relay is not None else "")
        self._is_ready = True
        for work in (
            self._heartbeat.run(),
            self._control.run(),
            self._warn_of_eviction(),
            warn_of_namesake(self.backend, self.describe()),
        ):
            self._in_background(work)
        for each in self._more_work:
            self._in_background(each())
        if os.getpid() == 1:
            self._in_background(_reap_orphans())
        logger.info(
            "Worker %s is ready: %d slots (%s), queues %s, broker %s.",
            self.options.name,
            self.options.pool.concurrency,
            self.options.slots_source,
            ", ".join(self.options.queues),
            redact(self.broker.settings.broker),
        )
        log_parts(self.pool.dagster_parts)
        settings = self.broker.settings
        one_machine = warning_of_one_machine(settings.broker, settings.backend_url)
        for warning in (one_machine, warning_of_missing_package()):
            if warning is not None:
                logger.warning("%s", warning)

    async def stop(self) -> None:
        """Send no more heartbeats, end the children, leave the last record, and deregister."""
        await self.handler.finish()
        for task in list(self._background):
            task.cancel()
        await self.pool.close()
        if self._relay is not None:
            await self._relay.close()
        try:
            await self.backend.post(FLEET_CHANNEL, {"ended": self.describe().dumps()})
            await self.backend.deregister(self.id)
            await self.backend.close_channel(worker_channel(self.id))
        except ServerUnavailableError as error:
            logger.warning("Could not deregister this worker: %s", error)
        await self.serve_no_status()

    async def serve_status(self) -> None:
        """Answer those who ask this process whether it lives: before the rest of it is started.

        Raises:
            ConfigError: it cannot serve HTTP where it is told to.
        """
        for each in self._status_servers:
            await each.start()

    async def serve_no_status(self) -> None:
        """Answer no longer."""
        for each in self._status_servers:
            await each.close()

    def begin_to_drain(self) -> None:
        """Show at once, with a heartbeat, that this worker takes no new runs and will end.

        What only waits for steps, or watches one, is handed over to other workers.
        """
        self._is_draining = True
        self._heartbeat.send_soon()
        if self._is_ready:  # before, nothing is held here, and the backend may not be open
            self._in_background(self._handover.run())

    def hand_over_all(self) -> None:
        """Hand over every task that only waits or watches, whether or not a worker is there."""
        self._handover.hand_over_all()

    def stop_tasks(self, why: str, at_once: bool = False) -> bool:
        """Stop all tasks that run.

        Args:
            why: what has happened to this worker, to follow its name.
            at_once: kill them; otherwise they have the grace period that a cancelled task has.

        Returns:
            Whether there was one to stop; those that are handed over do not count.
        """
        worker = f"worker {self.options.name} ({socket.gethostname()})"
        return self.pool.stop_all(f"{worker} {why}", at_once)

    def describe(self) -> Worker:
        """Return this worker as its next heartbeat shows it."""
        return Worker(
            id=self.id,
            name=self.options.name,
            host=socket.gethostname(),
            pid=os.getpid(),
            queues=self.options.queues,
            concurrency=self.options.pool.concurrency,
            max_runs=self.options.pool.max_runs,
            kill_grace=self.options.pool.kill_grace,
            version=__version__,
            lease=self.broker.settings.lease,
            running=tuple(self.pool.running),
            draining=self._is_draining,
            uptime=round(time.monotonic() - self._started_at, 1),
            unexpected_parts=unexpected_parts(self.pool.dagster_parts),
            memory=total_resident_bytes(self.pool.pids),
            counts=self._counts.rows,
            ended=self._counts.ended if self._heartbeat.is_watched else (),
        )

    def _local_status(self) -> LocalStatus:
        return LocalStatus(self.options.name, socket.gethostname(), os.getpid(), self._state())

    async def _ping(self) -> None:
        await self.broker.ping()
        await self.backend.ping()

    def _state(self) -> str:
        if self._is_draining:
            return "draining"
        if not self._is_ready:
            return "starting"
        return "busy" if self.pool.running else "idle"

    async def _warn_of_eviction(self) -> None:
        """Log which servers delete data when they are full, if they can be asked now."""
        try:
            found = [await self.broker.eviction(), await self.backend.eviction()]
        except ServerUnavailableError as error:
            logger.debug("Cannot find out whether a server deletes data when it is full: %s", error)
            return
        for warning in dict.fromkeys(each.warning for each in found if each is not None):
            logger.warning("%s", warning)

    def _wake_run_of(self, message: TaskiqMessage) -> None:
        run_id = message.labels.get(RUN_LABEL)
        if run_id:
            self._wake_ups.wake(str(run_id), message.task_id)

    async def _post_wake_up(self, run_id: str, task_id: str) -> None:
        try:
            await self.backend.post(run_channel(run_id), {"task": task_id})
        except ServerUnavailableError as error:
            logger.debug("Could not wake the loop of run %s: %s", run_id, error)

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)


async def _reap_orphans() -> None:
    """Reap the orphans that come to the first process of a container, until it is cancelled."""
    seen: set[int] = set()
    while True:
        await asyncio.sleep(REAP_SECONDS)
        seen = process_trees.reap_unclaimed(seen)


def _user_tasks(broker: QueueBroker) -> list[AsyncTaskiqDecoratedTask[Any, Any]]:
    """Return the tasks of a broker that are not this package's own."""
    ours = __package__.partition(".")[0]
    tasks = broker.get_all_tasks().values()
    return [task for task in tasks if task.original_func.__module__.partition(".")[0] != ours]
