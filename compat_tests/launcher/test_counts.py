"""What a worker counts of the steps and runs that it executes, and reports while it is watched."""

from collections.abc import Mapping
from dataclasses import dataclass

from compat_tests.executor.runs import Outcome as Run
from compat_tests.executor.scratch import Scratch
from compat_tests.launcher.fleet import Fleet
from compat_tests.waiting import eventually
from dagster_taskiq.wire.commands import Command, command
from dagster_taskiq.wire.task_counts import EndedTask, Outcome, TaskCounts
from dagster_taskiq.wire.task_names import EXECUTE_JOB, EXECUTE_PLAN


@dataclass
class Report:
    """What the worker of a fleet reports of the tasks of one run."""

    #: By step key; that of the run itself is empty.
    ended: Mapping[str, list[EndedTask]]
    #: By the name of the task.
    counts: Mapping[str, TaskCounts]

    def ends_of(self, step: str) -> list[tuple[Outcome, str]]:
        return [(each.outcome, each.error) for each in self.ended[step]]


def watch(fleet: Fleet) -> None:
    fleet.client.send_command(fleet.worker.id, command(Command.WATCH, seconds=60))


def report_of(fleet: Fleet, run: Run) -> Report:
    """Wait until the worker reports the end of a run, and return what it reports of that."""

    def of_run() -> dict[str, list[EndedTask]]:
        found: dict[str, list[EndedTask]] = {}
        for each in fleet.worker.ended:
            if each.run_id == run.run_id:
                found.setdefault(each.step_key, []).append(each)
        return found if "" in found else {}

    ended = eventually(of_run, "the worker reports the end of the run")
    mine = [each for each in fleet.worker.counts or () if each.job == run.run.job_name]
    assert {each.queue for each in mine} == {fleet.settings.queue}
    return Report(ended, {each.name: each for each in mine})


def test_a_worker_reports_how_steps_and_their_run_have_ended(
    fleet: Fleet, scratch: Scratch
) -> None:
    watch(fleet)
    run = fleet.run("spread_to_every_end", scratch)

    report = report_of(fleet, run)
    assert report.ends_of("first") == [(Outcome.SUCCEEDED, "")]
    assert report.ends_of("fails_once") == [
        (Outcome.RETRIED, "ValueError: not yet"),
        (Outcome.SUCCEEDED, ""),
    ]
    assert report.ends_of("fails_always") == [(Outcome.FAILED, "ValueError: never")]
    ((outcome, why),) = report.ends_of("is_killed")
    assert outcome is Outcome.LOST
    assert "SIGKILL" in why
    ((outcome, why),) = report.ends_of("")
    assert outcome is Outcome.FAILED
    assert "fails_always" in why
    steps = report.counts[EXECUTE_PLAN]
    assert steps.started == steps.wait.count == steps.run.count == 5
    assert steps.ended == {
        Outcome.SUCCEEDED: 2,
        Outcome.RETRIED: 1,
        Outcome.FAILED: 1,
        Outcome.LOST: 1,
    }
    assert report.counts[EXECUTE_JOB].ended == {Outcome.FAILED: 1}


def test_a_worker_reports_what_was_revoked(fleet: Fleet, scratch: Scratch) -> None:
    watch(fleet)
    run = fleet.launch("spread_that_waits", scratch)
    scratch.wait_for("waiting")
    assert fleet.terminate(run)
    fleet.wait(run)

    report = report_of(fleet, run)
    assert [outcome for outcome, _ in report.ends_of("wait_for_release")] == [Outcome.REVOKED]
    assert [outcome for outcome, _ in report.ends_of("")] == [Outcome.REVOKED]
