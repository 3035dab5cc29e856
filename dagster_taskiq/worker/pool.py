"""The child processes of a worker, and the slots they stand for.

Children start from a preloaded fork server, so that one is there in milliseconds, and stay warm
between tasks. A task that is cancelled, or whose child dies, costs that one child and nothing else.
A child that is not wanted any more ends by itself, as Python processes do, when its channel is
closed; one whose task is stopped and does not end is killed.

A slot is for work. A run that only waits for its own steps says so, and gives its slot back: its
child goes on beside the others, and another takes its place. How many runs are held in all is
bounded by their seats.
"""

import asyncio
import logging
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from taskiq import TaskiqMessage, TaskiqResult

from dagster_taskiq.errors import (
    ChildDiedError,
    ConfigError,
    DagsterTaskiqError,
    TaskCutShortError,
    TaskRevokedError,
    TimeLimitError,
)
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.wire.labels import (
    CODE_LABEL,
    EXPIRED,
    QUEUE_LABEL,
    RUN_LABEL,
    SOFT_TIME_LIMIT_LABEL,
    STEP_LABEL,
    TIME_LIMIT_LABEL,
    has_expired,
    read_time,
)
from dagster_taskiq.wire.queues import is_run_queue
from dagster_taskiq.wire.records import Running
from dagster_taskiq.worker import frames
from dagster_taskiq.worker.fork_server import process
from dagster_taskiq.worker.fork_server.client import Exit, ForkedChild, ForkServer, name_of_code
from dagster_taskiq.worker.options import PoolOptions
from dagster_taskiq.worker.output_mirror import Mirror

logger = logging.getLogger("dagster_taskiq.worker.pool")

#: How long a new child may take to import what it needs, in seconds.
CHILD_START_SECONDS = 120.0
#: How long a slot is kept for a message that taskiq was handed and that never reaches a child,
#: because a middleware raised, in seconds.
EXPECT_SECONDS = 60.0
#: Seconds between two tries to start a child when it does not come up.
RESTART_SECONDS = 1.0
#: How long a child that is not wanted any more may take to end, exit hooks and threads included,
#: before it is killed, in seconds.
EXIT_SECONDS = 5.0
#: How long after the end of its channel a child may be there before it is said not to end, in
#: seconds.
VANISH_SECONDS = 10.0
#: How long after a child was sent a signal by others the worker may be told to drain, for both to
#: be taken for one event: a service manager signals one process after the other. In seconds.
SAME_SIGNAL_SECONDS = 1.0
#: How long a child that is one too many stays, in case another run comes, in seconds.
SPARE_SECONDS = 60.0
#: How much longer than any other task a run may take to stop that waits for its own steps, which
#: stop first, in seconds.
ORCHESTRATOR_GRACE_SECONDS = 30.0

#: Called when a child says that the loop of its task's run should look at the event log.
OnWake = Callable[[TaskiqMessage], None]


@dataclass(frozen=True)
class _Limits:
    """How long a task may run, in seconds; 0 for as long as it likes."""

    hard: float = 0.0
    soft: float = 0.0


_NO_LIMITS = _Limits()


@dataclass(eq=False)
class _Child:
    """One process, as its parent sees it."""

    process: ForkedChild
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    tasks_done: int = 0
    message: TaskiqMessage | None = None
    since: float = 0.0
    #: The code it has loaded, by its working directory; ``None`` while it has loaded none. Modules
    #: of the same name in two directories would be taken for one another.
    code: str | None = None
    #: Its task is a run that waits for its own steps, and holds no slot.
    orchestrating: bool = False
    #: Its task is this worker's own, and no broker knows of it.
    internal: bool = False
    #: Why its task is being stopped; ``None`` while nobody asked for that.
    stop_reason: str | None = None
    #: That reason is a time limit, and so the task's own failure.
    over_limit: bool = False
    timers: list[asyncio.TimerHandle] = field(default_factory=list)
    #: Files into which its output is being captured.
    captures: set[str] = field(default_factory=set)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def is_usable(self) -> bool:
        ended = self.process.exit.done() or self.reader.at_eof()
        return not ended and self.stop_reason is None


class Pool:
    """``concurrency`` warm children, handed one task at a time; the gate of a listening broker."""

    def __init__(
        self, settings: Settings, options: PoolOptions, worker_name: str, on_wake: OnWake
    ) -> None:
        self.settings = settings
        self.options = options
        self.worker_name = worker_name
        self._on_wake = on_wake
        self._slots = asyncio.Semaphore(options.concurrency)
        self._expected: dict[str, asyncio.TimerHandle] = {}
        self._seated: set[str] = set()
        self._seats_open = asyncio.Event()
        self._seats_open.set()
        self._no_more_runs = False
        self._drains = False
        #: Called when the last run has left its seat, once no more are taken.
        self.on_no_runs: Callable[[], None] = lambda: None
        self._coming = 0
        self._idle: list[_Child] = []
        self._busy: dict[str, _Child] = {}
        self._stopped_early: dict[str, str] = {}
        self._waiting: dict[str, TaskiqMessage] = {}
        self._came_idle = asyncio.Condition()
        self._background: set[asyncio.Task[Any]] = set()
        #: The ends of children that are under way.
        self._ending: set[asyncio.Task[None]] = set()
        self._server: ForkServer | None = None
        self._connecting = asyncio.Lock()
        self._has_ignored_signal = False
        self._deadline = 0.0
        self._renewed = asyncio.Event()
        #: When the lease was last renewed after it had run out, of ``time.monotonic()``.
        self._renewed_late_at = 0.0
        self._closing = False
        self._mirror = Mirror()

    async def start(self) -> None:
        """Start all children, side by side, and return when the first is ready.

        Raises:
            ConfigError: a module that ``include`` names cannot be imported.
            ChildDiedError: a child does not come up.
        """
        self._mirror.start()
        # Nothing runs here yet that could be lost; the first beat begins the lease.
        self.renew(time.monotonic() + CHILD_START_SECONDS)
        first = await self._spawn()
        self._idle.append(first)
        self._top_up()

    async def close(self) -> None:
        """End the children: as Python processes end where they are idle, by SIGKILL else."""
        self._closing = True
        for task in list(self._background):
            task.cancel()
        for child in self._idle:
            self._end_in_background(child)
        self._idle.clear()
        await asyncio.gather(*map(self._kill, self._busy.values()), *self._ending)
        if self._server is not None:
            await self._server.close()
        self._mirror.close()

    @property
    def running(self) -> list[Running]:
        """What runs now, or is about to, for the heartbeat."""
        now = time.monotonic()
        rows = [_running(message) for message in self._waiting.values()]
        for child in self._busy.values():
            if child.message is not None and not child.internal:
                rows.append(_running(child.message, child, now - child.since))
        return rows

    def holds(self, task_id: str) -> bool:
        """Return whether a task runs here, or is about to."""
        return task_id in self._busy or task_id in self._waiting

    @property
    def runs_held(self) -> int:
        """How many runs have a seat here."""
        return len(self._seated)

    @property
    def takes_runs(self) -> bool:
        """Whether there is a seat for another run."""
        return self._seats_open.is_set()

    async def until_takes_runs(self) -> None:
        """Wait for a seat."""
        await self._seats_open.wait()

    def take_no_more_runs(self) -> None:
        """Take steps only, from now on: those of the runs that are held here among them."""
        self._no_more_runs = self._drains = True
        self._mind_seats()
        if not self._seated:
            self.on_no_runs()

    def end_listening(self) -> None:
        """Note that the worker drains, also where it was told so by way of taskiq's own command."""
        self._drains = True

    async def reserve(self) -> None:
        """Wait for a free slot, and hold it."""
        await self._slots.acquire()

    def unreserve(self) -> None:
        """Free a slot that was held for nothing."""
        self._slots.release()

    def expect(self, task_id: str, is_run: bool) -> None:
        """Keep the held slot for a task, and a seat for a run; free both when the task has not
        come in a minute.
        """

        def forget() -> None:
            if self._expected.pop(task_id, None) is not None:
                logger.error(
                    "Task %s was received and never started; a middleware may have raised.", task_id
                )
                self._slots.release()
                self._unseat(task_id)

        if is_run:
            self._seat(task_id)
        late = self._expected.pop(task_id, None)
        if late is not None:  # the same message twice: the first one's slot is free again
            late.cancel()
            self._slots.release()
        loop = asyncio.get_running_loop()
        self._expected[task_id] = loop.call_later(EXPECT_SECONDS, forget)

    def release_reservation(self, task_id: str) -> None:
        """Free the slot that is kept for a task which will not run here after all."""
        timer = self._expected.pop(task_id, None)
        if timer is not None:
            timer.cancel()
            self._slots.release()
            if not self.holds(task_id):
                self._unseat(task_id)

    def renew(self, deadline: float) -> None:
        """Let the children live until ``deadline`` (of ``time.monotonic()``)."""
        if not self._is_leased:
            self._renewed_late_at = time.monotonic()
        self._deadline = deadline
        self._renewed.set()
        if self._server is not None:
            self._server.renew(deadline)

    async def run(self, message: TaskiqMessage) -> TaskiqResult[Any]:
        """Run one task in a child, in the slot kept for it, and return how it ended.

        Raises:
            TaskRevokedError: :meth:`stop` ended it; a ``TaskCutShortError`` where it could not say
                anything more, or has expired and was not begun.
            TimeLimitError: it ran longer than it may.
            ChildDiedError: its process died; the text has the signal or exit code.
            ConfigError: one of its labels that say when and for how long is no number.
        """
        task_id = message.task_id
        timer = self._expected.pop(task_id, None)
        if timer is not None:
            timer.cancel()
        else:
            await self._slots.acquire()
        self._waiting[task_id] = message
        if is_run_queue(str(message.labels.get(QUEUE_LABEL))):
            # Again: of two deliveries of it at once, the one that was dropped has left the seat.
            self._seat(task_id)
        orchestrated = False
        try:
            limits = self._limits_of(message)
            if has_expired(message.labels):
                raise TaskCutShortError(EXPIRED)
            child = await self._idle_child(message)
            try:
                return await self._run_in(child, message, limits)
            finally:
                orchestrated, child.orchestrating = child.orchestrating, False
        finally:
            self._waiting.pop(task_id, None)
            self._stopped_early.pop(task_id, None)
            self._unseat(task_id)
            if not orchestrated:
                self._slots.release()

    async def run_internal(self, message: TaskiqMessage) -> TaskiqResult[Any]:
        """Run a task of this worker's own, for which no slot is free and none is needed.

        Raises:
            ChildDiedError: its process died, or does not come up.
        """
        child = await self._spawn()
        child.internal = True
        try:
            return await self._run_in(child, message, _NO_LIMITS)
        finally:
            child.internal = False

    def stop(
        self, task_id: str, reason: str, at_once: bool = False, is_cancellation: bool = True
    ) -> bool:
        """Stop a task: SIGTERM to its child, SIGKILL to all it started after the grace period.

        Args:
            task_id: the task.
            reason: for the log and for whoever asks what became of the task.
            at_once: SIGKILL now; the task must not do anything more.
            is_cancellation: whether somebody wants the task not to be done; otherwise it may be
                done again, elsewhere or by its RetryPolicy.

        Returns:
            Whether the task was here to be stopped.
        """
        child = self._busy.get(task_id)
        if child is None:
            if task_id in self._waiting:
                self._stopped_early[task_id] = reason
                return True
            return False
        loop = asyncio.get_running_loop()
        if child.stop_reason is None:
            child.stop_reason = reason
            why = reason.rstrip(".")
            logger.info("Stopping task %s in child %d: %s.", task_id, child.pid, why)
            if not at_once:
                said = {"stop": reason, "is_cancellation": is_cancellation}
                child.writer.write(frames.pack(said))
                child.process.request_stop()
                grace = self.options.kill_grace
                if child.orchestrating:
                    grace += ORCHESTRATOR_GRACE_SECONDS
                child.timers.append(loop.call_later(grace, child.process.kill))
        if at_once:
            child.process.kill()
        return True

    def stop_all(self, reason: str, at_once: bool = False) -> None:
        """Stop every task that runs here, because of the worker and not of the task."""
        for task_id in [*self._busy, *self._waiting]:
            self.stop(task_id, reason, at_once, is_cancellation=False)

    def _limits_of(self, message: TaskiqMessage) -> _Limits:
        labels, options = message.labels, self.options
        return _Limits(
            hard=read_time(labels, TIME_LIMIT_LABEL) or options.time_limit or 0.0,
            soft=read_time(labels, SOFT_TIME_LIMIT_LABEL) or options.soft_time_limit or 0.0,
        )

    def _limit(self, child: _Child, limits: _Limits) -> list[asyncio.TimerHandle]:
        """Have a task stopped when it runs longer than it may; return what calls that off."""
        later = asyncio.get_running_loop().call_later
        timers = []
        if limits.hard:
            reason = f"It exceeded its time limit of {limits.hard:g} s."
            timers.append(later(limits.hard, self._exceed, child, reason, True))
        if limits.soft:
            reason = f"It exceeded its soft time limit of {limits.soft:g} s."
            timers.append(later(limits.soft, self._exceed, child, reason, False))
        return timers

    def _exceed(self, child: _Child, reason: str, at_once: bool) -> None:
        if child.message is None:
            return
        if child.stop_reason is None:
            child.over_limit = True
        elif child.over_limit and at_once:
            child.stop_reason = reason  # it has not ended by the soft limit
        self.stop(child.message.task_id, reason, at_once, is_cancellation=False)

    async def _run_in(
        self, child: _Child, message: TaskiqMessage, limits: _Limits
    ) -> TaskiqResult[Any]:
        task_id = message.task_id
        child.message, child.since = message, time.monotonic()
        if not child.internal:
            child.code = _code_of(message)
        self._busy[task_id] = child
        self._waiting.pop(task_id, None)
        reusable = False
        timers = self._limit(child, limits)
        try:
            early = self._stopped_early.pop(task_id, None)
            if early is not None:
                reusable = True
                raise TaskCutShortError(early)
            # The outcome of a step is read by people, of any other task by the code that sent it.
            typed = RUN_LABEL not in message.labels
            body = {"run": message.model_dump(mode="json"), "typed": typed}
            child.writer.write(frames.pack(body))
            while (frame := await frames.read(child.reader)) is not None:
                if "wake" in frame:
                    self._on_wake(message)
                    continue
                if "mirror" in frame:
                    self._follow(child, frame["mirror"], frame["stream"])
                    continue
                if "orchestrating" in frame:
                    self._free_slot_of(child, task_id)
                    continue
                child.tasks_done += 1
                result = TaskiqResult[Any].model_validate_json(frame["done"])
                reusable = self._is_reusable(child, message, frame)
                if child.stop_reason is not None and result.is_err:
                    raise _stopped(child, TaskRevokedError)
                return result
            how = await _exit_of(child)
            if child.stop_reason is not None:
                raise _stopped(child, TaskCutShortError)
            end = self._lease_end if self._has_lapsed(child, how) else describe_exit(how)
            raise ChildDiedError(
                f"The process that ran the task (pid {child.pid}, worker {self.worker_name}) {end}."
            )
        finally:
            for timer in timers:
                timer.cancel()
            self._busy.pop(task_id, None)
            child.message = None
            if reusable and child.is_usable and not self._closing:
                await self._make_idle(child)
            else:
                self._end_in_background(child)
                self._top_up()

    def _has_lapsed(self, child: _Child, how: Exit | None) -> bool:
        """Whether a child has died of the end of the lease, also where a beat came after that."""
        if how is None:
            return False
        lapsed = not self._is_leased or child.since < self._renewed_late_at
        return how.lease_ended or (how.with_server and lapsed)

    @property
    def _is_leased(self) -> bool:
        return time.monotonic() < self._deadline - frames.EARLY_SECONDS

    @property
    def _lease_end(self) -> str:
        return (
            f"ended with the lease of its worker, which could not beat for {self.settings.lease:g} "
            "s: it was frozen, had no time on its machine, or did not reach the backend. Another "
            "worker may run the task from then on"
        )

    async def _until_leased(self) -> None:
        """Wait, where the lease has run out, for the next beat: no child would live till then."""
        while not self._is_leased:
            self._renewed.clear()
            await self._renewed.wait()

    def _free_slot_of(self, child: _Child, task_id: str) -> None:
        """Give the slot of a run that waits for its own steps to another task."""
        if child.orchestrating or task_id not in self._seated:
            return
        child.orchestrating = True
        self._slots.release()
        self._top_up()

    def _seat(self, task_id: str) -> None:
        self._seated.add(task_id)
        self._mind_seats()

    def _unseat(self, task_id: str) -> None:
        if task_id not in self._seated:
            return
        self._seated.discard(task_id)
        self._mind_seats()
        if self._no_more_runs and not self._seated:
            self.on_no_runs()

    def _mind_seats(self) -> None:
        if len(self._seated) < self.options.max_runs and not self._no_more_runs:
            self._seats_open.set()
        else:
            self._seats_open.clear()

    def _follow(self, child: _Child, path: str, stream: int) -> None:
        self._mirror.report(path, stream)
        if stream:
            child.captures.add(path)
        else:
            child.captures.discard(path)

    def _is_reusable(self, child: _Child, message: TaskiqMessage, done: dict[str, Any]) -> bool:
        if done["left"]:
            _say_left(child, message, done["left"])
        if done["last"]:
            return False
        most_tasks, most_memory = (
            self.options.max_tasks_per_child,
            self.options.max_memory_per_child,
        )
        if most_tasks is not None and child.tasks_done >= most_tasks:
            return False
        return most_memory is None or int(done["rss"]) <= most_memory

    async def _idle_child(self, message: TaskiqMessage) -> _Child:
        """Wait for a child that has loaded no code but the task's: the warmest there is."""
        task_id, code = message.task_id, _code_of(message)
        async with self._came_idle:
            while True:
                if task_id in self._stopped_early:
                    raise TaskCutShortError(self._stopped_early.pop(task_id))
                for child in [each for each in self._idle if not each.is_usable]:
                    self._retire(child)
                suited = [each for each in self._idle if each.code in (None, code)]
                if suited:
                    child = max(suited, key=lambda each: each.code is not None)
                    self._idle.remove(child)
                    return child
                while self._idle and not self._coming:
                    # All that are idle have other code in them. Those idle longest go, until a new
                    # one comes: this task has a slot, so there is one less busy than there may be.
                    self._retire(self._idle[0])
                await self._came_idle.wait()

    async def _make_idle(self, child: _Child) -> None:
        async with self._came_idle:
            self._idle.append(child)
            self._came_idle.notify_all()
        if self._missing < 0:
            asyncio.get_running_loop().call_later(SPARE_SECONDS, self._trim)

    def _retire(self, child: _Child) -> None:
        self._idle.remove(child)
        self._end_in_background(child)
        self._top_up()

    @property
    def _missing(self) -> int:
        """How many children there are too few; less than zero when there are too many."""
        busy = self._busy.values()
        slotless = sum(child.orchestrating or child.internal for child in busy)
        there = len(self._idle) + len(busy) + self._coming
        return self.options.concurrency + slotless - there

    def _top_up(self) -> None:
        """Start as many children as are missing: one for each slot that can be taken."""
        for _ in range(self._missing if not self._closing else 0):
            self._coming += 1
            self._in_background(self._add_child())

    def _trim(self) -> None:
        """End the children that are too many, those first that were idle longest."""
        for child in self._idle[: max(0, -self._missing)]:
            self._retire(child)

    async def _add_child(self) -> None:
        """Start a child, however often that takes."""
        try:
            while not self._closing:
                try:
                    child = await self._spawn()
                except (ConfigError, ChildDiedError, OSError) as error:
                    logger.error("A child process does not start: %s", error)  # noqa: TRY400
                    await asyncio.sleep(RESTART_SECONDS)
                    continue
                await self._make_idle(child)
                return
        finally:
            self._coming -= 1

    async def _spawn(self) -> _Child:
        await self._until_leased()
        process = await (await self._connected_server()).spawn()
        reader, writer = await asyncio.open_connection(sock=process.channel)
        child = _Child(process, reader, writer)
        process.on_foreign_signal = partial(self._note_foreign_signal, child)
        setup = {
            "worker_name": self.worker_name,
            "settings": self.settings.to_dict(),
            "include": list(self.options.include),
            "allow": list(self.options.allow),
            "app": self.options.app,
            "path": sys.path,
            "argv": sys.argv,
        }
        writer.write(frames.pack(setup))
        try:
            ready = await asyncio.wait_for(frames.read(reader), CHILD_START_SECONDS)
        except (asyncio.TimeoutError, asyncio.CancelledError):
            await self._kill(child)
            raise
        if ready is None:
            how = await _exit_of(child)
            await self._kill(child)
            raise ChildDiedError(f"A new child process (pid {child.pid}) {describe_exit(how)}.")
        if ready["problem"]:
            await self._kill(child)
            raise ConfigError(ready["problem"])
        process.exit.add_done_callback(lambda _: self._note_exit(child))
        return child

    async def _connected_server(self) -> ForkServer:
        """Return the fork server; another one where it has died."""
        async with self._connecting:
            if self._server is None or not self._server.is_alive:
                self._server = await ForkServer.connect(process.take())
                self._server.renew(self._deadline)
            return self._server

    def _note_exit(self, child: _Child) -> None:
        """Replace a child that has ended while it was idle."""
        if child in self._idle:
            self._retire(child)

    def _note_foreign_signal(self, child: _Child, number: int) -> None:
        """Consider a SIGTERM or SIGINT that a child got from others; the child goes on."""
        if not self._ignores_signal(child):
            loop = asyncio.get_running_loop()
            loop.call_later(SAME_SIGNAL_SECONDS, self._obey_signal, child, child.message, number)

    def _ignores_signal(self, child: _Child) -> bool:
        if not self._drains:
            return False
        if not self._has_ignored_signal:
            self._has_ignored_signal = True
            logger.info(
                "Child %d was sent a signal as well, and goes on: this worker drains.", child.pid
            )
        return True

    def _obey_signal(self, child: _Child, message: TaskiqMessage | None, number: int) -> None:
        """Stop the task of a child that was signalled by others, unless the worker drains."""
        if child.message is not message or self._ignores_signal(child):
            return
        if message is not None:
            name = name_of_code(-number)
            reason = f"its process was sent {name}, and not by this worker"
            self.stop(message.task_id, reason, is_cancellation=False)
        elif child in self._idle:
            self._retire(child)

    def _end_in_background(self, child: _Child) -> None:
        task = asyncio.ensure_future(self._end(child))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _end(self, child: _Child) -> None:
        """Let a child end as any Python process does; kill it if it does not, or had to stop."""
        if child.stop_reason is None:
            child.writer.close()
            done, _ = await asyncio.wait({child.process.exit}, timeout=EXIT_SECONDS)
            if not done:
                logger.warning("Child %d does not end, and is killed.", child.pid)
        await self._kill(child)

    async def _kill(self, child: _Child) -> None:
        """Kill a child, unless it has ended, and let go of what is held for it."""
        for timer in child.timers:
            timer.cancel()
        if not child.process.exit.done():
            child.process.kill()
            await asyncio.wait({child.process.exit}, timeout=VANISH_SECONDS)
        for path in child.captures:
            self._mirror.report(path, 0)
        child.writer.close()

    def _in_background(self, work: Any) -> "asyncio.Task[Any]":
        task: asyncio.Task[Any] = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return task


def describe_exit(how: Exit | None) -> str:
    """Return how a child ended, to follow "the process"; ``None``: it has not."""
    if how is None:
        return "closed its connection and does not end"
    if how.code >= 0:
        return f"ended with {name_of_code(how.code)} in the middle of it"
    if how.with_server:
        return "was killed because the process that it was forked from has died"
    hint = ""
    if how.code == -signal.SIGKILL:
        hint = "; if nobody sent that, the machine was out of memory"
    return f"was killed by {name_of_code(how.code)} (signal {-how.code}{hint})"


async def _exit_of(child: _Child) -> Exit | None:
    """Wait for the end of a child whose channel is closed."""
    done, _ = await asyncio.wait({child.process.exit}, timeout=VANISH_SECONDS)
    return child.process.exit.result() if done else None


def _stopped(child: _Child, otherwise: type[TaskRevokedError]) -> DagsterTaskiqError:
    """Return the end of a task that was stopped: a limit is its own fault, else somebody asked."""
    return (TimeLimitError if child.over_limit else otherwise)(child.stop_reason)


def _say_left(child: _Child, message: TaskiqMessage, left: Sequence[str]) -> None:
    """Tell the operator why a child is not used again."""
    step, run = message.labels.get(STEP_LABEL), message.labels.get(RUN_LABEL)
    what = f'Step "{step}" of run {run}' if step else f"Task {message.task_id}"
    logger.warning(
        "%s left behind: %s. Its process (pid %d) is replaced, so that the next task finds a clean "
        "one.",
        what,
        "; ".join(left),
        child.pid,
    )


def _code_of(message: TaskiqMessage) -> str:
    return str(message.labels.get(CODE_LABEL, ""))


def _running(message: TaskiqMessage, child: _Child | None = None, seconds: float = 0.0) -> Running:
    return Running(
        id=message.task_id,
        name=message.task_name,
        run_id=str(message.labels.get(RUN_LABEL, "")),
        step_key=str(message.labels.get(STEP_LABEL, "")),
        pid=child.pid if child else 0,
        seconds=round(seconds, 3),
        orchestrating=child is not None and child.orchestrating,
    )
