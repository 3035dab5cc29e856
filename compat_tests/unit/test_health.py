"""What the loop of a run does about lost workers, records and messages, and unserved queues."""

from collections.abc import Collection, Sequence

import pytest

from compat_tests.unit.doubles import (
    HEARTBEAT_INTERVAL,
    LEASE,
    QUEUE,
    Clock,
    FakeClient,
    make_step,
    make_worker,
)
from dagster_taskiq.errors import ServerUnavailableError
from dagster_taskiq.runs import servers as servers_module
from dagster_taskiq.runs.health import Health
from dagster_taskiq.runs.lost_messages import MOST_RESENDS, LostMessages
from dagster_taskiq.runs.lost_records import LostRecords
from dagster_taskiq.runs.lost_workers import LostWorkers
from dagster_taskiq.runs.servers import Servers
from dagster_taskiq.runs.steps_in_flight import StepInFlight, StepsInFlight
from dagster_taskiq.runs.unserved_queues import (
    UNSERVED_AGAIN_SECONDS,
    UNSERVED_SECONDS,
    UnservedQueues,
)
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.wire.records import TaskState

SETTINGS = Settings(broker="memory://", lease=LEASE, heartbeat_interval=HEARTBEAT_INTERVAL)


class Run:
    """A run whose health is checked: what a test puts in, and what came of it."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.client = FakeClient()
        self.steps = StepsInFlight()
        self.reports: list[str] = []
        self.failures: dict[str, str] = {}
        self.sent_again: list[StepInFlight] = []
        #: The steps of which the event log turns out to have the end, once it is read.
        self.ended_in_log: set[str] = set()
        self.servers = Servers(self.client, self.steps, self.reports.append, self.clock)
        self.health = Health(
            self.servers,
            self.steps,
            interval=HEARTBEAT_INTERVAL,
            lost_workers=LostWorkers(self.servers, SETTINGS, self.clock),
            lost_records=LostRecords(
                self.servers,
                self.steps,
                SETTINGS,
                update=self.read_log,
                report=self.reports.append,
                send=self.send,
                fail=self.fail,
                describe_evictions=lambda: " The server has evicted 2 keys.",
                clock=self.clock,
            ),
            lost_messages=LostMessages(
                self.servers, self.steps, report=self.reports.append, send=self.send
            ),
            unserved_queues=UnservedQueues("redis://server", self.reports.append, self.clock),
            clock=self.clock,
        )

    def send(self, steps: Sequence[StepInFlight]) -> None:
        self.sent_again += steps

    def fail(self, step: StepInFlight, why: str) -> None:
        self.failures[step.key] = why

    def read_log(self, step_keys: Collection[str]) -> None:
        for key in self.ended_in_log.intersection(step_keys):
            step = self.steps.get(key)
            if step is not None:
                self.steps.end_step(step)

    def add(
        self, key: str, state: TaskState | None, *, worker: str = "w", begun: bool = True
    ) -> StepInFlight:
        """Put a step in flight; its task has no record if it is given no state."""
        step = make_step(key, begun=begun)
        step.since = self.clock.now
        self.steps.add(step)
        if state is not None:
            self.client.add(key, state, worker)
        return step

    def pass_time(self, seconds: float) -> None:
        """Let time pass, and have the health checked as often as the loop does."""
        end = self.clock.now + seconds
        while self.clock.now < end:
            self.clock.now = min(end, self.clock.now + HEARTBEAT_INTERVAL)
            self.health.check()


@pytest.fixture
def run() -> Run:
    return Run()


def test_a_check_is_made_once_in_an_interval_and_asks_each_server_once(run: Run) -> None:
    run.add("a", TaskState.STARTED)
    run.add("b", TaskState.STARTED)
    run.client.known_workers = [make_worker(runs=["a", "b"])]
    for _ in range(10):
        run.health.check()
    assert run.client.calls == []
    run.pass_time(2 * HEARTBEAT_INTERVAL)
    assert run.client.calls == ["tasks", "workers"] * 2
    assert (run.client.lost, run.reports, run.steps.take_ended()) == ({}, [], [])


def test_nothing_is_asked_while_nothing_is_in_flight(run: Run) -> None:
    run.pass_time(10 * HEARTBEAT_INTERVAL)
    assert run.client.calls == []


def test_a_task_that_has_ended_without_a_notification_is_found(run: Run) -> None:
    step = run.add("a", TaskState.SUCCESS)
    run.pass_time(HEARTBEAT_INTERVAL)
    assert run.steps.take_ended() == [step]


# Workers.


def test_a_worker_without_heartbeat_for_its_lease_is_lost_with_its_steps(run: Run) -> None:
    step = run.add("a", TaskState.STARTED)
    run.client.known_workers = [make_worker(age=LEASE)]
    run.pass_time(5 * HEARTBEAT_INTERVAL)
    assert run.client.lost == {}
    run.client.known_workers = [make_worker(age=LEASE + 1)]
    run.pass_time(HEARTBEAT_INTERVAL)
    assert "has been silent for 31 s" in run.client.lost["a"]
    assert run.steps.take_ended() == [step]


def test_a_worker_that_has_no_record_is_lost_after_a_lease(run: Run) -> None:
    run.add("a", TaskState.STARTED, worker="gone")
    run.pass_time(LEASE)
    assert run.client.lost == {}
    run.pass_time(2 * HEARTBEAT_INTERVAL)
    assert run.client.lost == {"a": "The backend has no record of the worker that ran it any more."}


def test_a_worker_whose_record_comes_back_has_its_whole_lease_again(run: Run) -> None:
    run.add("a", TaskState.STARTED)
    run.pass_time(LEASE)
    run.client.known_workers = [make_worker(runs=["a"])]
    run.pass_time(HEARTBEAT_INTERVAL)
    run.client.known_workers = []
    run.pass_time(LEASE)
    assert run.client.lost == {}


def test_after_an_outage_a_worker_has_two_heartbeats_before_it_is_lost(run: Run) -> None:
    run.add("a", TaskState.STARTED)
    run.client.known_workers = [make_worker(age=LEASE + 1)]
    run.client.is_down = True
    run.pass_time(10 * HEARTBEAT_INTERVAL)
    run.client.is_down = False
    run.pass_time(2 * HEARTBEAT_INTERVAL)
    assert run.client.lost == {}
    run.pass_time(HEARTBEAT_INTERVAL)
    assert run.client.lost.keys() == {"a"}


def test_a_loop_that_was_frozen_takes_no_worker_for_lost_at_once(run: Run) -> None:
    run.add("a", TaskState.STARTED)
    run.client.known_workers = [make_worker(age=10 * LEASE)]
    run.clock.now += 10 * LEASE
    run.health.check()
    assert run.client.lost == {}
    run.pass_time(3 * HEARTBEAT_INTERVAL)
    assert run.client.lost.keys() == {"a"}


# Records.


def test_a_step_that_has_not_begun_is_sent_again_when_its_record_is_lost(run: Run) -> None:
    step = run.add("a", None, begun=False)
    run.pass_time(HEARTBEAT_INTERVAL)
    assert run.sent_again == []
    run.pass_time(HEARTBEAT_INTERVAL)
    assert run.sent_again == [step]
    sentence = 'Sent step "a" again: the broker has lost it. The server has evicted 2 keys.'
    assert run.reports == [sentence]


def test_a_step_that_has_begun_fails_a_lease_after_its_record_is_lost(run: Run) -> None:
    step = run.add("a", None)
    run.pass_time(LEASE + HEARTBEAT_INTERVAL)
    assert run.failures == {}
    run.pass_time(HEARTBEAT_INTERVAL)
    why = run.failures["a"]
    assert why.startswith('Step "a" has begun, and has not ended. Its record has been lost')
    assert why.endswith("The server has evicted 2 keys.")
    assert run.client.revoked.keys() == {"a"}
    assert step.task_ended
    assert run.sent_again == []


def test_a_lost_record_of_a_task_that_a_worker_runs_is_no_loss(run: Run) -> None:
    run.add("a", None)
    run.client.known_workers = [make_worker(runs=["a"])]
    run.pass_time(10 * LEASE)
    run.client.known_workers = [make_worker()]
    run.pass_time(LEASE + HEARTBEAT_INTERVAL)
    assert run.failures == {}


def test_a_step_whose_end_is_in_the_log_is_neither_sent_again_nor_failed(run: Run) -> None:
    run.add("a", None, begun=False)
    run.add("b", None)
    run.ended_in_log = {"a", "b"}
    run.pass_time(10 * LEASE)
    assert (run.sent_again, run.failures, run.steps.keys) == ([], {}, [])
    # Their tasks have no record either: nothing is waited for any more.
    assert run.steps.take_ended() == []
    assert run.steps.finalizing == []


def test_a_task_that_waits_is_over_once_the_log_has_the_end_of_its_step(run: Run) -> None:
    run.steps.end_step(run.add("a", TaskState.WAITING))
    run.steps.end_step(run.add("b", TaskState.WAITING))
    run.client.known_workers = [make_worker(runs=["b"])]
    run.pass_time(HEARTBEAT_INTERVAL)
    assert run.client.revoked.keys() == {"a"}
    assert run.steps.take_ended() == []
    # Some worker is still busy with the other, whatever the backend has.
    assert [step.key for step in run.steps.finalizing] == ["b"]


def test_a_task_that_was_started_by_nobody_is_over_after_a_lease(run: Run) -> None:
    run.steps.end_step(run.add("a", TaskState.STARTED, worker="unknown"))
    run.pass_time(LEASE + 2 * HEARTBEAT_INTERVAL)
    assert run.steps.take_ended() == []
    assert run.steps.finalizing == []


# Messages.


def test_a_message_that_is_missing_twice_is_sent_again(run: Run) -> None:
    step = run.add("a", TaskState.WAITING, begun=False)
    run.client.known_workers = [make_worker()]
    run.client.empty_queues = {QUEUE}
    run.pass_time(HEARTBEAT_INTERVAL)
    assert run.sent_again == []
    run.pass_time(HEARTBEAT_INTERVAL)
    assert run.sent_again == [step]
    assert run.reports == [f'Sent step "a" again: its message is not in queue "{QUEUE}".']


@pytest.mark.parametrize("reason", ["busy", "lost", "not empty", "unsent"])
def test_a_message_is_not_missing_while_it_may_just_be_waiting(run: Run, reason: str) -> None:
    step = run.add("a", TaskState.WAITING, begun=False)
    run.client.empty_queues = set() if reason == "not empty" else {QUEUE}
    busy = ("x", "y") if reason == "busy" else ()
    run.client.known_workers = [make_worker(runs=busy, age=LEASE + 1 if reason == "lost" else 0.0)]
    if reason == "unsent":
        run.steps.mark_unsent(step)
    run.pass_time(10 * HEARTBEAT_INTERVAL)
    assert run.sent_again == []


def test_a_message_that_is_lost_again_and_again_is_given_up(run: Run) -> None:
    step = run.add("a", TaskState.WAITING, begun=False)
    run.client.known_workers = [make_worker()]
    run.client.empty_queues = {QUEUE}
    run.pass_time(2 * MOST_RESENDS * HEARTBEAT_INTERVAL)
    assert run.sent_again == [step] * MOST_RESENDS
    assert run.client.revoked == {}
    run.pass_time(2 * HEARTBEAT_INTERVAL)
    assert run.sent_again == [step] * MOST_RESENDS
    assert f"It was sent {MOST_RESENDS + 1} times" in run.client.revoked["a"]


# Queues.


def test_an_unserved_queue_is_reported_less_and_less_often(run: Run) -> None:
    run.add("a", TaskState.WAITING, begun=False)
    run.pass_time(UNSERVED_SECONDS - HEARTBEAT_INTERVAL)
    assert run.reports == []
    run.pass_time(HEARTBEAT_INTERVAL)
    (first,) = run.reports
    assert first == (
        f'1 step(s) have waited up to 10 s in queue "{QUEUE}", which no worker serves. Workers '
        "that are there, at redis://server: none. Start one with: dagster-taskiq worker start "
        f"-q {QUEUE}"
    )
    again, _ = UNSERVED_AGAIN_SECONDS
    run.pass_time(again)
    assert len(run.reports) == 2
    run.pass_time(again)
    assert len(run.reports) == 2
    run.pass_time(again)
    assert len(run.reports) == 3


def test_a_queue_that_loses_its_worker_again_is_reported_at_once(run: Run) -> None:
    run.add("a", TaskState.WAITING, begun=False)
    run.pass_time(UNSERVED_SECONDS)
    run.client.known_workers = [make_worker()]
    run.pass_time(HEARTBEAT_INTERVAL)
    run.client.known_workers = []
    run.pass_time(HEARTBEAT_INTERVAL)
    assert len(run.reports) == 2


# Servers that do not answer.


def test_an_outage_is_reported_when_it_begins_and_when_it_ends(run: Run) -> None:
    run.add("a", TaskState.STARTED)
    run.client.known_workers = [make_worker(runs=["a"])]
    run.client.is_down = True
    run.pass_time(3 * HEARTBEAT_INTERVAL)
    assert run.reports == [
        "The server does not answer. Running steps go on; trying again until it answers."
    ]
    run.client.is_down = False
    run.pass_time(HEARTBEAT_INTERVAL)
    assert run.reports[1:] == ["Broker and backend answer again, after 15 s."]


def test_a_broker_that_is_away_while_nothing_is_sent_is_no_outage_of_the_run(run: Run) -> None:
    run.add("a", TaskState.WAITING)
    run.client.known_workers = [make_worker()]
    run.client.empty_queues = {QUEUE}
    run.client.broker_is_down = True
    for _ in range(4):
        run.pass_time(HEARTBEAT_INTERVAL)
    assert run.client.calls.count("is_empty") == 4
    assert run.reports == []
    assert run.sent_again == []


def test_a_server_that_answers_reads_alone_is_still_away(run: Run) -> None:
    run.add("a", TaskState.STARTED)
    unsent = run.add("b", None)
    run.client.known_workers = [make_worker(runs=["a"])]
    run.client.is_down = True
    run.pass_time(HEARTBEAT_INTERVAL)
    run.steps.mark_unsent(unsent)
    run.client.is_down = False
    run.pass_time(HEARTBEAT_INTERVAL)
    assert len(run.reports) == 1
    run.steps.mark_sent(unsent)
    run.servers.end_outage()
    assert len(run.reports) == 2


def test_an_outage_that_does_not_end_is_raised(run: Run) -> None:
    run.add("a", TaskState.STARTED)
    run.client.is_down = True
    run.pass_time(servers_module.OUTAGE_SECONDS)
    with pytest.raises(ServerUnavailableError, match="The server does not answer"):
        run.pass_time(2 * HEARTBEAT_INTERVAL)
