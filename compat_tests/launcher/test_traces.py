"""A launched run is one trace, from the process that launches it to the spans in its ops."""

import sys
from pathlib import Path

import pytest
from dagster import DagsterRun, DagsterRunStatus

from compat_tests.checkout import ROOT
from compat_tests.collector import Collector, Span, running_collector
from compat_tests.launcher.conftest import OwnFleet
from compat_tests.preloaded import start_program
from compat_tests.waiting import eventually
from compat_tests.workers import WorkerProcess
from dagster_taskiq.settings.settings import Settings

MODULE = "compat_tests.launcher.traced_jobs"
LAUNCHED = ["process dagster:runs", "send dagster:runs"]
STEP = ["process dagster", "send dagster"]
#: The command by which users have a program configure OpenTelemetry.
INSTRUMENT = str(Path(sys.executable).with_name("opentelemetry-instrument"))


def check_one_trace(collector: Collector, run: DagsterRun, launcher: int, worker: int) -> None:
    """Check the spans of the job "ship"."""

    def line(name: str) -> tuple[list[str], Span]:
        span = collector.one(name)
        return collector.line_of(span), span

    whole, of_run = line("run ship")
    assert whole == ["run ship", *LAUNCHED]
    names, packed = line("step pack")
    assert names == ["step pack", *STEP, *whole]
    names, mine = line("look into the store")
    sent_by_step = [f"task {MODULE}:stock", *STEP, "call the store"]
    assert names == [mine.name, *sent_by_step, "step weigh", *STEP, *whole]
    assert {each.trace for each in collector.spans} == {mine.trace}

    first, parent = collector.one("send dagster:runs"), collector.one("process dagster:runs")
    assert (first.pid, parent.pid) == (launcher, worker)
    assert len({launcher, worker, of_run.pid, packed.pid}) == 4
    assert (first.kind, parent.kind, packed.kind) == ("PRODUCER", "CONSUMER", "INTERNAL")
    processed = collector.parent_of(packed)
    (waited,) = collector.of("wait dagster", dagster__step_key="pack")
    assert (waited.parent, waited.ended) == (processed.parent, processed.began)
    for span in (packed, processed):
        assert {
            "dagster.run_id": run.run_id,
            "dagster.step_key": "pack",
            "dagster.job_name": "ship",
            "dagster_taskiq.worker": "traced",
            "dagster_taskiq.attempt": 1,
            "messaging.message.id": f"{run.run_id}:pack:0",
        }.items() <= span.attributes.items()
    assert processed.attributes["messaging.destination.name"] == "dagster"
    assert processed.attributes["messaging.operation.type"] == "process"
    assert processed.attributes["dagster_taskiq.outcome"] == "succeeded"
    assert [each.name for each in collector.spans if each.error is not None] == []


def test_a_launched_run_with_its_steps_and_their_tasks_is_one_trace(
    own_fleet: OwnFleet, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = own_fleet(
        run_coordinator={
            "module": "dagster._core.run_coordinator",
            "class": "DefaultRunCoordinator",
        }
    )
    with running_collector() as collector:
        for name, value in collector.variables().items():
            monkeypatch.setenv(name, value)
        options = ("-i", MODULE, "-c", "2")
        worker = WorkerProcess(settings, tmp_path, "traced", *options, prefix=[INSTRUMENT])

        def launch(job: str, end: DagsterRunStatus, *prefix: str) -> tuple[DagsterRun, int]:
            """Launch a job, wait for its end, and return the run and the process that did it."""
            log = tmp_path / f"{job}.log"
            command = ["job", "launch", "-m", MODULE, "-d", str(ROOT), "-j", job]
            known = {each.run_id for each in fleet.instance.get_runs()}
            launching = start_program("dagster", command, log, prefix=prefix)
            assert launching.wait(90) == 0, log.read_text()
            (run,) = [each for each in fleet.instance.get_runs() if each.run_id not in known]
            eventually(lambda: fleet.instance.get_run_by_id(run.run_id).is_finished)
            ended = fleet.instance.get_run_by_id(run.run_id)
            assert ended.status is end, worker.output()
            return ended, launching.pid

        try:
            worker.wait_until_ready()
            run, launcher = launch("ship", DagsterRunStatus.SUCCESS, INSTRUMENT)
            check_one_trace(collector, run, launcher, worker.pid)

            # Launched by a process without OpenTelemetry, so the trace begins in the worker.
            run, _ = launch("fail", DagsterRunStatus.FAILURE)
            (lost,) = eventually(lambda: collector.of("process dagster", **of_job("fail")))
            assert "killed by SIGKILL" in (lost.error or "")
            assert lost.attributes["dagster_taskiq.outcome"] == "lost"
            assert collector.of("step is_killed") == []
            first = collector.one("process dagster:runs", **of_job("fail"))
            assert (first.parent, first.trace) == ("", lost.trace)
            assert "Steps failed" in (collector.one("run fail").error or "")

            collector.hang()
            before = len(collector.spans)
            launch("ship", DagsterRunStatus.SUCCESS)
            assert collector.has_waited
            assert len(collector.spans) == before, "the run has ended, and no export has"
        finally:
            collector.answer()
            worker.end()


def of_job(name: str) -> dict[str, str]:
    return {"dagster__job_name": name}
