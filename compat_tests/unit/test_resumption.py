"""Which tasks a resumed run goes on with, and under which ids it sends others."""

from collections.abc import Collection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from dagster import DagsterInstance, DagsterRun, reconstructable
from dagster._core.execution.api import create_execution_plan
from dagster._core.execution.plan.active import ActiveExecution
from dagster._core.execution.retries import RetryMode

from compat_tests.unit.doubles import LEASE, EmptyLog, FakeClient, make_worker, three
from dagster_taskiq.executor import TaskiqExecutor
from dagster_taskiq.runs.outcomes import Outcomes
from dagster_taskiq.runs.replay import Pools
from dagster_taskiq.runs.resumption import Resumption
from dagster_taskiq.runs.sending import StepSender
from dagster_taskiq.runs.servers import Servers
from dagster_taskiq.runs.step_requests import StepRequests
from dagster_taskiq.runs.steps_in_flight import StepsInFlight
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.wire.records import TaskState


class Run:
    """A run that is resumed, and the parts of its loop that do it."""

    def __init__(self, instance: DagsterInstance) -> None:
        plan = create_execution_plan(three)
        run = DagsterRun(job_name="three", run_id="run")
        context: Any = SimpleNamespace(
            reconstructable_job=reconstructable(three),
            run_id="run",
            dagster_run=run,
            instance=SimpleNamespace(get_ref=lambda: None),
        )
        settings = Settings(broker="memory://")
        options = TaskiqExecutor(settings).run_options
        self.client = FakeClient()
        self.log = EmptyLog()
        self.steps = StepsInFlight()
        self.active = ActiveExecution(plan, RetryMode.ENABLED)
        requests = StepRequests(options, context, plan, settings)
        servers = Servers(self.client, self.steps, self.log.report)
        self.sender = StepSender(servers, requests, self.active, self.steps, self.log, "")
        self.resumption = Resumption(
            context,
            self.active,
            Pools(instance, run),
            self.client,
            requests,
            self.steps,
            self.log,
            self.sender,
            Outcomes(options, context, self.active),
        )

    @property
    def sent(self) -> Collection[str]:
        return {request.id for request in self.client.sent}


@pytest.fixture
def run(instance: DagsterInstance) -> Run:
    run = Run(instance)
    run.active.__enter__()  # and no exit, which would check that the run has ended
    return run


def test_a_task_that_goes_on_is_taken_over_and_steps_without_one_are_sent(run: Run) -> None:
    run.client.add("run:a:0", TaskState.STARTED, "w")
    run.client.add("run:b:0", TaskState.WAITING)
    run.client.known_workers = [make_worker(runs=["run:a:0"])]
    run.resumption.resume()
    assert {step.task_id: step.begun for step in run.steps} == {"run:a:0": True, "run:b:0": False}
    assert run.sent == set()
    # The loop that has sent them has ended before it could write that.
    assert {"sent run:a:0", "sent run:b:0"} <= set(run.log.reports)
    run.resumption.send_claimed()
    assert run.sent == {"run:c:0"}
    assert run.steps.take_ended() == []


def test_a_task_that_has_died_is_followed_by_one_with_an_id_of_its_own(run: Run) -> None:
    run.client.add("run:a:0", TaskState.LOST)
    run.client.add("run:a:0.1", TaskState.STARTED, "w")
    run.client.known_workers = [make_worker(age=LEASE + 1)]
    run.resumption.resume()
    assert run.client.lost.keys() == {"run:a:0.1"}
    (ended,) = run.steps.take_ended()
    assert (ended.task_id, ended.rerun_reason) == ("run:a:0.1", "its worker was lost")
    run.steps.remove(ended)
    run.resumption.run_again(ended, ended.rerun_reason)
    run.resumption.send_claimed()
    assert "run:a:0.2" in run.sent


def test_a_loop_that_ends_at_once_leaves_no_step_waiting_for_a_pool(tmp_path: Path) -> None:
    with DagsterInstance.local_temp(str(tmp_path)) as instance:
        storage = instance.event_log_storage
        storage.set_concurrency_slots("narrow", 1)
        assert storage.claim_concurrency_slot("narrow", "another run", "x").is_claimed
        run = DagsterRun(job_name="three", run_id="run")
        died = Pools(instance, run)  # its process has been killed
        assert not died.claim("narrow", "a")

        with Pools(instance, run) as pools:
            pools.replaying = True
            assert pools.claim("narrow", "a")
            pools.replaying = False
            pools.count_as_pending("a")

        left = {each.run_id for each in storage.get_concurrency_info("narrow").pending_steps}
        assert left == {"another run"}


def test_each_task_that_watches_a_step_again_has_an_id_of_its_own(run: Run) -> None:
    run.client.add("run:a:0", TaskState.STARTED, "w")
    run.client.known_workers = [make_worker(runs=["run:a:0"])]
    run.resumption.resume()
    for expected in ("run:a:0.1", "run:a:0.2"):
        step = run.steps.get("a")
        assert step is not None
        run.steps.remove(step)
        run.resumption.watch_again(step, "Its worker is to end.")
        run.resumption.send_claimed()
        assert expected in run.sent
    assert any("goes on without its task" in each for each in run.log.reports)


def test_the_next_attempt_at_a_step_taken_over_begins_with_its_first_id(run: Run) -> None:
    """The next loop, if this one dies too, looks for that id first."""
    run.client.add("run:a:0", TaskState.STARTED, "w")
    run.client.known_workers = [make_worker(runs=["run:a:0"])]
    run.resumption.resume()
    step = run.steps.get("a")
    assert step is not None
    run.steps.end_step(step)
    run.active.mark_up_for_retry("a")
    run.sender.launch(run.active.get_steps_to_execute())
    assert run.sent == {"run:a:1"}
