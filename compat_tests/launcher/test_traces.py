"""A launched run is one trace, from the process that launches it to the spans in its ops."""

import sys
from pathlib import Path

import pytest
from dagster import DagsterRunStatus

from compat_tests.checkout import ROOT
from compat_tests.collector import Collector, Span, running_collector
from compat_tests.executor.runs import Outcome
from compat_tests.executor.scratch import Scratch
from compat_tests.launcher.conftest import OwnFleet
from compat_tests.launcher.fleet import MODULE, Fleet
from compat_tests.preloaded import start_program
from compat_tests.waiting import eventually
from compat_tests.workers import WorkerProcess
from dagster_taskiq.settings.settings import Settings

TASKS = "compat_tests.launcher.traced_tasks"
LAUNCHED = ["process dagster:runs", "send dagster:runs"]
STEP = ["process dagster", "send dagster"]
#: The command by which users have a program configure OpenTelemetry.
INSTRUMENT = str(Path(sys.executable).with_name("opentelemetry-instrument"))


def check_one_trace(collector: Collector, run_id: str, launcher: int, worker: int) -> None:
    """Check the spans of the job "traced_ship"."""

    def line(name: str) -> tuple[list[str], Span]:
        span = collector.one(name)
        return collector.line_of(span), span

    whole, of_run = line("run traced_ship")
    assert whole == ["run traced_ship", *LAUNCHED]
    names, packed = line("step pack_in_a_trace")
    assert names == ["step pack_in_a_trace", *STEP, *whole]
    names, mine = line("look into the store")
    sent_by_step = [f"task {TASKS}:stock", *STEP, "call the store"]
    assert names == [mine.name, *sent_by_step, "step weigh_in_a_trace", *STEP, *whole]
    assert {each.trace for each in collector.spans} == {mine.trace}

    first, parent = collector.one("send dagster:runs"), collector.one("process dagster:runs")
    assert (first.pid, parent.pid) == (launcher, worker)
    assert len({launcher, worker, of_run.pid, packed.pid}) == 4
    assert (first.kind, parent.kind, packed.kind) == ("PRODUCER", "CONSUMER", "INTERNAL")
    processed = collector.parent_of(packed)
    (waited,) = collector.of("wait dagster", dagster__step_key="pack_in_a_trace")
    assert (waited.parent, waited.ended) == (processed.parent, processed.began)
    for span in (packed, processed):
        assert {
            "dagster.run_id": run_id,
            "dagster.step_key": "pack_in_a_trace",
            "dagster.job_name": "traced_ship",
            "dagster_taskiq.worker": "traced",
            "dagster_taskiq.attempt": 1,
            "messaging.message.id": f"{run_id}:pack_in_a_trace:0",
        }.items() <= span.attributes.items()
    assert processed.attributes["messaging.destination.name"] == "dagster"
    assert processed.attributes["messaging.operation.type"] == "process"
    assert processed.attributes["dagster_taskiq.outcome"] == "succeeded"
    assert [each.name for each in collector.spans if each.error is not None] == []


def test_a_launched_run_with_its_steps_and_their_tasks_is_one_trace(
    own_fleet: OwnFleet,
    settings: Settings,
    scratch: Scratch,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Launched by a command of Dagster's, and not queued for a daemon.
    coordinator = {"module": "dagster._core.run_coordinator", "class": "DefaultRunCoordinator"}
    fleet = own_fleet(run_coordinator=coordinator)
    with running_collector() as collector:
        for name, value in collector.variables().items():
            monkeypatch.setenv(name, value)
        options = ("-i", TASKS, "-c", "2")
        worker = WorkerProcess(settings, tmp_path, "traced", *options, prefix=[INSTRUMENT])
        try:
            worker.wait_until_ready()
            log = tmp_path / "launch.log"
            command = ["job", "launch", "-m", MODULE, "-d", str(ROOT), "-j", "traced_ship"]
            launching = start_program("dagster", command, log, prefix=[INSTRUMENT])
            assert launching.wait(90) == 0, log.read_text()
            (run,) = fleet.instance.get_runs()
            fleet.wait(Outcome(fleet.instance, run.run_id, scratch))
            check_one_trace(collector, run.run_id, launching.pid, worker.pid)
            check_a_process_that_dies(collector, fleet, scratch)
            check_a_run_that_is_terminated(collector, fleet, scratch)
            collector.hang()
            outcome = fleet.run("traced_ship", scratch)
            assert outcome.status is DagsterRunStatus.SUCCESS
            eventually(lambda: collector.has_waited)
            exported = [each.attributes.get("dagster.run_id") for each in collector.spans]
            assert outcome.run_id not in exported, "the run has ended, and no export of its spans"
        finally:
            collector.answer()
            worker.end()


def check_a_process_that_dies(collector: Collector, fleet: Fleet, scratch: Scratch) -> None:
    """Run a job that was launched by a process without OpenTelemetry: the worker begins a trace."""
    outcome = fleet.run("traced_fail", scratch)
    assert outcome.status is DagsterRunStatus.FAILURE
    of_job = {"dagster__job_name": "traced_fail"}
    lost = collector.one("process dagster", **of_job)
    assert "killed by SIGKILL" in (lost.error or "")
    assert lost.attributes["dagster_taskiq.outcome"] == "lost"
    assert collector.of("step killed_in_a_trace") == []
    first = collector.one("process dagster:runs", **of_job)
    assert (first.parent, first.trace) == ("", lost.trace)
    assert "Steps failed" in (collector.one("run traced_fail").error or "")


def check_a_run_that_is_terminated(collector: Collector, fleet: Fleet, scratch: Scratch) -> None:
    """Run a job whose processes are stopped: what they have done is exported before they end."""
    outcome = fleet.launch("traced_stop", scratch)
    begun = collector.one("it has begun")
    assert fleet.terminate(outcome)
    assert fleet.wait(outcome).status is DagsterRunStatus.CANCELED
    stopped = collector.parent_of(begun)
    assert stopped.name == "step stopped_in_a_trace"
    assert stopped.error is not None
    assert collector.parent_of(stopped).attributes["dagster_taskiq.outcome"] == "revoked"
    assert collector.one("run traced_stop").error is not None
