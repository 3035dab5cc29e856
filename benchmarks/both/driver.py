"""Runs jobs for the benchmarks: orders come in as lines of JSON, answers go out as such lines.

One process of each virtual environment, which lives as long as it is measured: what it costs to
import Dagster is in no figure. Runs "in a fresh process" have a new one each. Both sides run this
very file, and so are measured alike.
"""

import json
import os
import sys
import time
from collections import defaultdict
from contextlib import ExitStack
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path
from statistics import mean
from typing import IO, Any

from dagster import DagsterEvent, DagsterEventType, DagsterInstance, DagsterRunStatus, execute_job
from dagster._core.definitions.reconstruct import ReconstructableJob
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import ModuleTarget

#: Where the modules of the jobs are.
HERE = Path(__file__).parent
#: Packages whose versions are told.
PACKAGES = ("dagster", "dagster-celery", "dagster-taskiq", "celery", "taskiq", "redis", "pandas")
#: How often a launched run is looked at, in seconds: seldom enough to cost it nothing.
LOOK_SECONDS = 0.1
#: How long a launched run may take, in seconds.
PATIENCE_SECONDS = 60.0
#: The code location that launched runs belong to.
LOCATION = "benchmarks"


class Driver:
    """What can be asked for: each public method is an order, and what it returns is the answer."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._instance = stack.enter_context(DagsterInstance.get())
        self._workspace: WorkspaceProcessContext | None = None

    def versions(self) -> dict[str, str]:
        """Return the versions of what is measured."""
        found = {"python": sys.version.split()[0]}
        for name in PACKAGES:
            try:
                found[name] = version(name)
            except PackageNotFoundError:
                continue
        return found

    def import_jobs(self, module: str) -> None:
        """Import the module of a job, as a program has before it executes one."""
        import_module(module)

    def execute(self, module: str, job: str, config: dict[str, Any]) -> dict[str, Any]:
        """Execute a run in this process; return how long it took, and this process's CPU time."""
        reconstructable = ReconstructableJob.for_module(module, job)
        clock, cpu = time.perf_counter(), time.process_time()
        result = execute_job(
            reconstructable, self._instance, run_config=config, raise_on_error=False
        )
        return {
            "seconds": time.perf_counter() - clock,
            "cpu": time.process_time() - cpu,
            "run_id": result.run_id,
            "success": result.success,
        }

    def prepare_launch(self, module: str) -> None:
        """Start a code server for a module, from which runs are launched."""
        if self._workspace is None:
            target = ModuleTarget(module, None, str(HERE), LOCATION)
            self._workspace = self._stack.enter_context(
                WorkspaceProcessContext(self._instance, target)
            )

    def launch(self, module: str, job: str, config: dict[str, Any]) -> dict[str, Any]:
        """Launch a run and return at once, with the time when that was begun."""
        launched = self.launch_many(module, job, config, 1)
        return {"run_id": launched["run_ids"][0], "begun": launched["begun"]}

    def launch_many(
        self, module: str, job: str, config: dict[str, Any], count: int
    ) -> dict[str, Any]:
        """Launch runs one right after the other; return their ids, and when that was begun."""
        self.prepare_launch(module)
        assert self._workspace is not None
        run_ids = [self._create(job, config) for _ in range(count)]
        begun = time.time()
        context = self._workspace.create_request_context()
        for run_id in run_ids:
            self._instance.launch_run(run_id, context)
        return {"run_ids": run_ids, "begun": begun}

    def check_health(self, run_id: str, times: int) -> dict[str, float]:
        """Ask about a run as Dagster's daemon does; return the CPU time of one time in seconds."""
        run = self._instance.get_run_by_id(run_id)
        assert run is not None
        launcher = self._instance.run_launcher
        launcher.check_run_worker_health(run)  # connects
        cpu = time.process_time()
        for _ in range(times):
            launcher.check_run_worker_health(run)
        return {"cpu": (time.process_time() - cpu) / times}

    def wait(self, run_id: str) -> dict[str, Any]:
        """Wait until a run has ended, and return whether well; one that hangs does not."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not (run := self._instance.get_run_by_id(run_id)) or not run.is_finished:
            if time.monotonic() > deadline:
                return {"success": False}
            time.sleep(LOOK_SECONDS)
        return {"success": run.status is DagsterRunStatus.SUCCESS}

    def terminate(self, run_id: str) -> dict[str, Any]:
        """Do what a click on "Terminate" does; return when that was."""
        clicked = time.time()
        self._instance.run_coordinator.cancel_run(run_id)
        return {"clicked": clicked}

    def times(self, run_id: str) -> dict[str, float]:
        """Return when the first step of a run started, and when the run ended."""
        found: dict[str, float] = {}
        for event, stamp in self._events(run_id):
            if event.event_type is DagsterEventType.STEP_START:
                found.setdefault("first_step", stamp)
            if event.event_type in {DagsterEventType.RUN_SUCCESS, DagsterEventType.RUN_FAILURE}:
                found["end"] = stamp
        return found

    def errors(self, run_id: str) -> str:
        """Return what a run's events say of errors."""
        said = []
        for record in self._instance.get_records_for_run(run_id).records:
            event = record.event_log_entry.dagster_event
            error = getattr(event.event_specific_data, "error", None) if event else None
            if error is not None:
                said.append(f"{record.event_log_entry.message}\n{error.to_string()}")
        return "\n".join(said)

    def phases(self, run_id: str) -> dict[str, float]:
        """Return where the time of a chain's steps went, as the mean of each phase, in seconds.

        A step waits to be sent from the success of the one before to its own first event; then in
        the queue, until another process than the run's writes of it; then that process prepares,
        until the step starts.
        """
        steps: dict[str, dict[str, float]] = defaultdict(dict)
        loop: int | None = None
        for event, stamp in self._events(run_id):
            if event.event_type is DagsterEventType.RUN_START:
                loop = event.pid
            if event.step_key is None:
                continue
            step = steps[event.step_key]
            step.setdefault("sent", stamp)
            if event.pid != loop:
                step.setdefault("taken", stamp)
            if event.event_type is DagsterEventType.STEP_START:
                step.setdefault("taken", stamp)
                step["started"] = stamp
            elif event.event_type is DagsterEventType.STEP_SUCCESS:
                step["ended"] = stamp
        order = sorted(steps.values(), key=lambda step: step["started"])
        return {
            "waits to be sent": mean(max(0.0, b["sent"] - a["ended"]) for a, b in pairwise(order)),
            "in the queue": mean(step["taken"] - step["sent"] for step in order),
            "prepared": mean(step["started"] - step["taken"] for step in order),
            "the step": mean(step["ended"] - step["started"] for step in order),
        }

    def _events(self, run_id: str) -> list[tuple[DagsterEvent, float]]:
        """Return a run's events in the order of their times."""
        found = [
            (entry.dagster_event, entry.timestamp)
            for entry in self._instance.all_logs(run_id)
            if entry.dagster_event is not None
        ]
        return sorted(found, key=lambda each: each[1])

    def _create(self, job: str, config: dict[str, Any]) -> str:
        """Make a run of the code location that nobody has launched yet."""
        assert self._workspace is not None
        location = self._workspace.create_request_context().get_code_location(LOCATION)
        (repository,) = location.get_repositories().values()
        remote = repository.get_full_job(job)
        plan = location.get_execution_plan(remote, config, None, None, self._instance)
        run = self._instance.create_run(
            job_name=job,
            run_id=None,
            run_config=config,
            resolved_op_selection=None,
            step_keys_to_execute=None,
            status=DagsterRunStatus.NOT_STARTED,
            tags=dict(remote.run_tags),
            root_run_id=None,
            parent_run_id=None,
            job_snapshot=remote.job_snapshot,
            execution_plan_snapshot=plan.execution_plan_snapshot,
            parent_job_snapshot=None,
            asset_selection=None,
            asset_check_selection=None,
            op_selection=None,
            remote_job_origin=remote.get_remote_origin(),
            job_code_origin=remote.get_python_origin(),
            asset_graph=repository.asset_graph,
        )
        return run.run_id


def serve(orders: IO[str], answers: IO[str]) -> None:
    """Do what comes in until nobody asks any more."""
    with ExitStack() as stack:
        driver = Driver(stack)
        for line in orders:
            order = json.loads(line)
            try:
                answer = {"answer": getattr(driver, order.pop("do"))(**order)}
            except Exception as error:
                answer = {"error": f"{type(error).__name__}: {error}"}
            answers.write(json.dumps(answer) + "\n")
            answers.flush()


if __name__ == "__main__":
    # What ops and Dagster print must not come between the answers: it goes where the log goes.
    with os.fdopen(os.dup(1), "w") as line:
        os.dup2(2, 1)
        serve(sys.stdin, line)
