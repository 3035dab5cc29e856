"""What a run loop's parts work with, without Dagster's storage, servers or time that passes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from dagster import job, op
from dagster._core.execution.api import create_execution_plan
from dagster._core.execution.plan.step import ExecutionStep

from dagster_taskiq.errors import ServerUnavailableError
from dagster_taskiq.runs.event_tail import Tailed
from dagster_taskiq.runs.run_log import RunLog
from dagster_taskiq.runs.step_client import InProcessTasks
from dagster_taskiq.runs.steps_in_flight import StepInFlight
from dagster_taskiq.transport.eviction import Eviction
from dagster_taskiq.wire.notifications import Notification
from dagster_taskiq.wire.records import Running, Task, TaskState, Worker
from dagster_taskiq.wire.task_request import TaskRequest

#: The queue of all steps here, and its worker.
QUEUE = "q"
LEASE = 30.0
HEARTBEAT_INTERVAL = 5.0


@op
def nothing() -> None: ...


@job
def three() -> None:
    for name in ("a", "b", "c"):
        nothing.alias(name)()


_PLAN = create_execution_plan(three)


def make_step(key: str, task_id: str = "", *, begun: bool = False) -> StepInFlight:
    """Return a step in flight: "a", "b" or "c"; its task has the same id if none is given."""
    step = _PLAN.get_executable_step_by_key(key)
    return StepInFlight(step, task_id or key, QUEUE, since=0.0, begun=begun)


def make_worker(name: str = "w", *, runs: Sequence[str] = (), age: float = 0.0) -> Worker:
    """Return a worker with two slots.

    Args:
        name: its name and id.
        runs: the ids of the tasks that it reports to run.
        age: seconds since its last heartbeat.
    """
    running = tuple(Running(task_id, "task", "run", task_id, 1, 1.0) for task_id in runs)
    return Worker(name, name, "host", 1, (QUEUE,), 2, "1.0", lease=LEASE, running=running, age=age)


@dataclass
class Clock:
    """A clock that stands still until a test moves it."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class FakeClient:
    """A ``StepClient`` whose servers have what a test puts there."""

    records: dict[str, Task] = field(default_factory=dict)
    known_workers: list[Worker] = field(default_factory=list)
    empty_queues: set[str] = field(default_factory=set)
    in_process: InProcessTasks | None = None
    #: While it is set, no call is answered.
    is_down: bool = False
    #: While it is set, the broker alone does not answer, which is another server than the backend.
    broker_is_down: bool = False
    #: What was called, in order.
    calls: list[str] = field(default_factory=list)
    revoked: dict[str, str] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)
    sent: list[TaskRequest] = field(default_factory=list)

    def add(self, task_id: str, state: TaskState, worker: str = "", name: str = "") -> None:
        self.records[task_id] = Task(task_id, name, queue=QUEUE, state=state, worker=worker)

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if self.is_down:
            raise ServerUnavailableError("The server does not answer.")

    def submit(self, *requests: TaskRequest) -> list[str]:
        self._call("submit")
        self.sent += requests
        return [request.id for request in requests]

    def revoke(self, task_ids: Sequence[str], reason: str) -> None:
        self._call("revoke")
        self.revoked.update(dict.fromkeys(task_ids, reason))

    def tasks(self, task_ids: Sequence[str]) -> dict[str, Task]:
        self._call("tasks")
        return {each: self.records[each] for each in task_ids if each in self.records}

    def mark_lost(self, task: Task, error: str) -> bool:
        self._call("mark_lost")
        self.lost[task.id] = error
        return True

    def workers(self) -> list[Worker]:
        self._call("workers")
        return list(self.known_workers)

    def is_empty(self, queue: str) -> bool:
        self._call("is_empty")
        if self.broker_is_down:
            raise ServerUnavailableError("The broker does not answer.")
        return queue in self.empty_queues

    def evictions(self) -> dict[str, Eviction]:
        self._call("evictions")
        return {}

    def wait(
        self, channel: str, after: str, timeout: float, interrupted: Callable[[], bool]
    ) -> list[Notification]:
        self._call("wait")
        return []

    def close_channel(self, channel: str) -> None:
        self._call("close_channel")


class EmptyLog(RunLog):
    """The log of a run of which nothing has been written but its beginning."""

    may_miss_rows = False
    missing_rows: frozenset[int] = frozenset()

    def __init__(self) -> None:
        self.reports: list[str] = []

    def read_past(self) -> list[Tailed]:
        return []

    def report(self, text: str, step: ExecutionStep | None = None) -> None:
        self.reports.append(text)

    def report_sent(self, step: StepInFlight, priority: int, broker: str) -> None:
        self.reports.append(f"sent {step.task_id}")
