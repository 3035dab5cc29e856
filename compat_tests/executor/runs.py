"""Runs of jobs: in this process, or in one of their own that may be interrupted or killed."""

import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dagster import (
    DagsterEvent,
    DagsterEventType,
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    ReexecutionOptions,
    execute_job,
    reconstructable,
)
from dagster._core.definitions.reconstruct import ReconstructableJob
from dagster._core.execution.api import execute_run
from dagster._grpc.types import ExecuteRunArgs, ResumeRunArgs
from dagster._serdes import serialize_value

from compat_tests.executor.scratch import SCRATCH_TAG, Scratch
from compat_tests.preloaded import Program, start_program
from compat_tests.waiting import PATIENCE_SECONDS, eventually
from compat_tests.workers import executor_config
from dagster_taskiq.client import client_for
from dagster_taskiq.settings.settings import Settings

#: Events that end one attempt at a step.
ENDS = (
    DagsterEventType.STEP_SUCCESS,
    DagsterEventType.STEP_FAILURE,
    DagsterEventType.STEP_UP_FOR_RETRY,
    DagsterEventType.STEP_SKIPPED,
)


@dataclass
class Outcome:
    """A run as it stands in the instance, and what its ops noted."""

    instance: DagsterInstance
    run_id: str
    scratch: Scratch
    #: What ``execute_job`` returned of the run's outputs, where a test asked for some.
    outputs: dict[str, Any] = field(default_factory=dict)
    #: The events that ``execute_job`` yielded, where it executed the run.
    yielded: Sequence[DagsterEvent] = ()

    @property
    def run(self) -> DagsterRun:
        run = self.instance.get_run_by_id(self.run_id)
        assert run is not None
        return run

    @property
    def status(self) -> DagsterRunStatus:
        return self.run.status

    @property
    def events(self) -> list[DagsterEvent]:
        logs = self.instance.all_logs(self.run_id)
        return [log.dagster_event for log in logs if log.dagster_event is not None]

    def of(self, kind: DagsterEventType, step: str | None = None) -> list[DagsterEvent]:
        return [
            event
            for event in self.events
            if event.event_type is kind and step in (None, event.step_key)
        ]

    def steps(self, kind: DagsterEventType) -> list[str]:
        """Return the steps that have an event of this kind, in the order of the log."""
        return [str(event.step_key) for event in self.of(kind)]

    @property
    def succeeded(self) -> set[str]:
        return set(self.steps(DagsterEventType.STEP_SUCCESS))

    @property
    def failed(self) -> set[str]:
        return set(self.steps(DagsterEventType.STEP_FAILURE))

    @property
    def skipped(self) -> set[str]:
        return set(self.steps(DagsterEventType.STEP_SKIPPED))

    @property
    def engine_says(self) -> list[str]:
        """Return the sentences the engine wrote for the people on call."""
        return [str(event.message) for event in self.of(DagsterEventType.ENGINE_EVENT)]

    def says(self, *words: str) -> bool:
        """Return whether one sentence of the engine holds all these words."""
        return any(all(word in text for word in words) for text in self.engine_says)

    def failure(self, step: str) -> str:
        """Return what the log tells a reader about why a step failed."""
        (event,) = self.of(DagsterEventType.STEP_FAILURE, step)
        error = event.step_failure_data.error
        assert error is not None
        return error.to_string()

    def run_failure(self) -> str:
        """Return what the log tells a reader about why the run failed."""
        (event,) = self.of(DagsterEventType.RUN_FAILURE)
        # One that was written from outside of the run's execution has a message alone.
        error = getattr(event.event_specific_data, "error", None)
        return f"{event.message}\n{error.to_string() if error else ''}"

    def assert_sound(self, died: Collection[str] = ()) -> None:
        """Check what holds for every run that has ended: each attempt was sent and ended once.

        A message that was lost is sent again, which the engine says.

        Args:
            died: steps that a resumed run has sent again, because their worker had died with it.
        """
        sent = Counter(self.steps(DagsterEventType.STEP_WORKER_STARTING))
        again = Counter(self.steps(DagsterEventType.STEP_UP_FOR_RETRY))
        final = Counter(step for kind in ENDS if kind is not ENDS[2] for step in self.steps(kind))
        assert set(final.values()) <= {1}, f"ended twice: {final}"
        said = self.engine_says  # of many steps, it takes a while to read all events
        for step in sent:
            repeats = sum(f'Sent step "{step}" again' in each for each in said)
            wanted = again[step] + 1 + (step in died) + repeats
            assert sent[step] == wanted, f"{step} was sent {sent[step]} times, not {wanted}"
        kinds = [event.event_type for event in self.events]
        ends = (
            DagsterEventType.RUN_SUCCESS,
            DagsterEventType.RUN_FAILURE,
            DagsterEventType.RUN_CANCELED,
        )
        assert sum(kind in ends for kind in kinds) == 1, "a run ends once"


@dataclass
class RunProcess:
    """A run executed by ``dagster api``, as Dagster's own run launchers do it."""

    outcome: Outcome
    process: "subprocess.Popen[bytes] | Program"
    log: Path

    def terminate_run(self) -> None:
        """Do what Dagster's launchers do when somebody clicks on "Terminate"."""
        self.outcome.instance.report_run_canceling(self.outcome.run)
        self.process.send_signal(signal.SIGTERM)

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE_SECONDS)

    def wait(self, timeout: float = 2 * PATIENCE_SECONDS) -> Outcome:
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"The run does not end:\n{self.log.read_text()}") from None
        return self.outcome


@dataclass
class House:
    """A Dagster instance and a queue: all that a run needs but the worker."""

    settings: Settings
    instance: DagsterInstance

    @property
    def kind(self) -> str:
        return self.settings.broker.partition(":")[0]

    @property
    def in_process(self) -> bool:
        return self.kind == "memory"

    def changed(self, **changes: Any) -> "House":
        return replace(self, settings=self.settings.replace(**changes))

    def run_config(
        self, config: Mapping[str, Any] | None, executor: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        chosen = {**executor_config(self.settings), **(executor or {})}
        return {**(config or {}), "execution": {"config": chosen}}

    def run(
        self,
        job: Any,
        scratch: Scratch,
        *,
        config: Mapping[str, Any] | None = None,
        executor: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
        outputs: Sequence[str] = (),
        again: Outcome | None = None,
        sound: bool = True,
        **arguments: Any,
    ) -> Outcome:
        """Execute a job in this process and return what became of it.

        Args:
            job: a function of a module, which makes or is the job.
            scratch: where its ops leave notes.
            config: run config beside the executor's.
            executor: changes of the executor's config.
            tags: more tags of the run.
            outputs: names of nodes whose output the test wants to see.
            again: the failed run that this one takes up from its failure.
            sound: whether to check the event log with :meth:`Outcome.assert_sound`.
            arguments: passed to ``dagster.execute_job``.
        """
        if again is not None:
            options = ReexecutionOptions.from_failure(again.run_id, self.instance)
            arguments["reexecution_options"] = options
        result = execute_job(
            job if isinstance(job, ReconstructableJob) else reconstructable(job),
            self.instance,
            run_config=self.run_config(config, executor),
            tags={SCRATCH_TAG: str(scratch.directory), **(tags or {})},
            **arguments,
        )
        outcome = Outcome(self.instance, result.run_id, scratch, yielded=result.all_events)
        if outputs:
            with result:  # entering it sets up the resources once more
                outcome.outputs = {name: result.output_for_node(name) for name in outputs}
        if sound:
            outcome.assert_sound()
        return outcome

    def create(
        self,
        job: Any,
        scratch: Scratch,
        *,
        config: Mapping[str, Any] | None = None,
        executor: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> Outcome:
        """Make a run that nobody executes yet."""
        recon = reconstructable(job)
        load_data = recon.repository.get_definition().repository_load_data
        run = self.instance.create_run_for_job(
            job_def=recon.get_definition(),
            run_config=self.run_config(config, executor),
            tags={SCRATCH_TAG: str(scratch.directory), **(tags or {})},
            job_code_origin=recon.get_python_origin(),
            repository_load_data=load_data,
        )
        return Outcome(self.instance, run.run_id, scratch)

    def execute(self, outcome: Outcome, job: Any, meanwhile: Callable[[], None]) -> None:
        """Execute a created run in this process, calling ``meanwhile`` again and again beside it.

        ``meanwhile`` is called on a thread of its own until the run has ended; what it raises, the
        caller sees.
        """
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(0.1):
                meanwhile()

        with ThreadPoolExecutor(1) as threads:
            watcher = threads.submit(watch)
            try:
                execute_run(reconstructable(job), outcome.run, self.instance)
            finally:
                ended.set()
            watcher.result()
        outcome.assert_sound()

    @contextmanager
    def started(self, job: Any, scratch: Scratch, **arguments: Any) -> Iterator[RunProcess]:
        """Execute a job in a process of its own, which is there as long as the test wants it."""
        outcome = self.create(job, scratch, **arguments)
        origin = outcome.run.job_code_origin
        assert origin is not None
        args = ExecuteRunArgs(origin, outcome.run_id, self.instance.get_ref())
        with self._process(outcome, "execute_run", serialize_value(args)) as process:
            yield process

    @contextmanager
    def resumed(self, outcome: Outcome) -> Iterator[RunProcess]:
        """Resume a run whose process has died, as Dagster's run monitoring does."""
        origin = outcome.run.job_code_origin
        assert origin is not None
        args = ResumeRunArgs(origin, outcome.run_id, self.instance.get_ref())
        with self._process(outcome, "resume_run", serialize_value(args)) as process:
            yield process

    @contextmanager
    def _process(self, outcome: Outcome, command: str, args: str) -> Iterator[RunProcess]:
        log = outcome.scratch.directory / f"{command}-{outcome.run_id[:8]}.log"
        process = start_program("dagster", ["api", command, args], log)
        try:
            yield RunProcess(outcome, process, log)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait(PATIENCE_SECONDS)

    def waiting(self, queue: str = "") -> int:
        """Return how many messages wait in a queue, or in all."""
        rows = client_for(self.settings).depths()
        return sum(row.waiting for row in rows if queue in ("", row.queue))

    def wait_until_queued(self, number: int) -> None:
        eventually(lambda: self.waiting() == number, f"{number} messages wait")
