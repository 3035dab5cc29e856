"""Measure a step's cost against the same plan in process, and print ratios.

    python -m benchmarks.run [--rounds N] [--redis URL] [--rabbitmq URL] [--only PLACE]

Every figure is a median over the rounds, in which the plans take turns, so that a machine that
is busy for a while slows all of them. The runs are executed in this process, with one worker of
two slots beside it. Needs `redis-server` and `rabbitmq-server` on this machine, or URLs of running
ones; embedded runs by itself.
"""

import argparse
import logging
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
from dagster import DagsterEventType, DagsterInstance, execute_job, reconstructable

from benchmarks import jobs
from compat_tests.servers import any_rabbit, any_redis
from compat_tests.workers import WorkerProcess, executor_config, running_worker
from dagster_taskiq.settings import Settings

#: Where work may wait.
PLACES = ("embedded", "redis", "rabbitmq")
#: Slots of the worker.
SLOTS = 2
#: How long the idle worker and the waiting loop are watched, in seconds.
IDLE_SECONDS = 10.0

#: What of a step's life lies between two events of its log.
PHASES = (
    (
        "sent -> started",
        DagsterEventType.STEP_WORKER_STARTING,
        DagsterEventType.STEP_WORKER_STARTED,
    ),
    ("started -> resources", DagsterEventType.STEP_WORKER_STARTED, DagsterEventType.LOGS_CAPTURED),
    ("log capture -> step", DagsterEventType.LOGS_CAPTURED, DagsterEventType.STEP_START),
    ("step itself", DagsterEventType.STEP_START, DagsterEventType.STEP_SUCCESS),
)


@dataclass
class Figures:
    """Seconds by plan and place, one for each round."""

    seconds: defaultdict[tuple[str, str], list[float]] = field(
        default_factory=lambda: defaultdict(list)
    )

    def median(self, plan: str, place: str) -> float:
        return statistics.median(self.seconds[plan, place])


def execute(
    instance: DagsterInstance,
    name: str,
    config: dict[str, Any] | None,
    ops: dict[str, Any] | None = None,
) -> tuple[float, Any]:
    run_config: dict[str, Any] = {"ops": ops or {}}
    if config is not None:
        run_config["execution"] = {"config": config}
    started = time.perf_counter()
    result = execute_job(
        reconstructable(getattr(jobs, name)),
        instance,
        run_config=run_config,
        raise_on_error=False,
    )
    return time.perf_counter() - started, result


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process and all it started."""
    total = 0.0
    root = psutil.Process(pid)
    for process in [root, *root.children(recursive=True)]:
        times = process.cpu_times()
        total += times.user + times.system
    return total


def phases_of(instance: DagsterInstance, run_id: str) -> dict[str, float]:
    """Return the mean milliseconds of each phase of a chain's steps, and of the gap between."""
    stamps: dict[str, dict[DagsterEventType, float]] = defaultdict(dict)
    for record in instance.get_records_for_run(run_id).records:
        event = record.event_log_entry.dagster_event
        if event is not None and event.step_key is not None:
            stamps[event.step_key].setdefault(event.event_type, record.timestamp)
        elif event is not None and event.event_type == DagsterEventType.LOGS_CAPTURED:
            for key in event.logs_captured_data.step_keys or ():
                stamps[key].setdefault(event.event_type, record.timestamp)
    order = sorted(stamps.values(), key=lambda each: each[DagsterEventType.STEP_START])
    found = {
        name: statistics.mean((each[end] - each[begin]) * 1000 for each in order)
        for name, begin, end in PHASES
    }
    found["success -> next sent"] = statistics.mean(
        (after[PHASES[0][1]] - before[DagsterEventType.STEP_SUCCESS]) * 1000
        for before, after in pairwise(order)
    )
    return found


def measure(
    instance: DagsterInstance, worker: WorkerProcess, place: str, rounds: int, figures: Figures
) -> None:
    config = executor_config(worker.settings)
    for name in ("chain_20", "fan_100"):  # once for nothing: code is imported, caches fill
        execute(instance, name, config)
    for _ in range(rounds):
        for name in ("chain_20", "fan_100"):
            seconds, _ = execute(instance, f"{name}_in_process", None)
            figures.seconds[name, f"in process ({place})"].append(seconds)
            before = cpu_seconds(worker.pid), time.process_time()
            seconds, result = execute(instance, name, config)
            if not result.success:
                sys.exit(f"{name} failed on {place}; see {worker.log}")
            figures.seconds[name, place].append(seconds)
            figures.seconds[f"{name} worker cpu", place].append(cpu_seconds(worker.pid) - before[0])
            figures.seconds[f"{name} loop cpu", place].append(time.process_time() - before[1])
            if name == "chain_20":
                phases = phases_of(instance, result.run_id)
                for phase, milliseconds in phases.items():
                    figures.seconds[phase, place].append(milliseconds)
    seconds, _ = execute(instance, "crash", config)
    figures.seconds["crash", place].append(seconds)
    spent = []
    for seconds in (0.0, IDLE_SECONDS):
        before_run = time.process_time()
        execute(instance, "waiting", config, {"rest": {"config": {"seconds": seconds}}})
        spent.append(time.process_time() - before_run)
    figures.seconds["waiting loop", place].append((spent[1] - spent[0]) / IDLE_SECONDS)
    before_idle = cpu_seconds(worker.pid)
    time.sleep(IDLE_SECONDS)
    idle = (cpu_seconds(worker.pid) - before_idle) / IDLE_SECONDS
    figures.seconds["idle worker", place].append(idle)


def report(figures: Figures, places: list[str], rounds: int) -> None:
    print(f"\nmedians of {rounds} rounds, {SLOTS} slots, {os.cpu_count()} cores\n")
    print(f"{'':28}" + "".join(f"{place:>24}" for place in places))
    for plan in ("chain_20", "fan_100"):
        cells = []
        for place in places:
            mine, base = figures.median(plan, place), figures.median(plan, f"in process ({place})")
            cells.append(f"{mine:.2f} s = {mine / base:.2f} x {base:.2f} s")
        print(f"{plan:28}" + "".join(f"{cell:>24}" for cell in cells))
        for part in ("worker cpu", "loop cpu"):
            steps = int(plan.rpartition("_")[2])
            cells = [
                f"{figures.median(f'{plan} {part}', place) / steps * 1000:.1f} ms/step"
                for place in places
            ]
            print(f"  {part:26}" + "".join(f"{cell:>24}" for cell in cells))
    print("where a step of the chain spends its time:")
    for phase in (*(name for name, _, _ in PHASES), "success -> next sent"):
        cells = [f"{figures.median(phase, place):.1f} ms" for place in places]
        print(f"  {phase:26}" + "".join(f"{cell:>24}" for cell in cells))
    cells = [f"{figures.median('crash', place):.2f} s" for place in places]
    print(f"{'run of one step that dies':28}" + "".join(f"{cell:>24}" for cell in cells))
    for name in ("idle worker", "waiting loop"):
        cells = [f"{figures.median(name, place):.2%} of a core" for place in places]
        print(f"{name:28}" + "".join(f"{cell:>24}" for cell in cells))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--redis", help="URL of a Redis; else one is started")
    parser.add_argument("--rabbitmq", help="URL of a RabbitMQ; else one is started")
    parser.add_argument("--only", choices=PLACES, help="measure this one alone")
    arguments = parser.parse_args()
    logging.disable(logging.CRITICAL)
    figures = Figures()
    places = [arguments.only] if arguments.only else list(PLACES)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        os.environ["DAGSTER_HOME"] = str(directory)
        (directory / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
        instance = stack.enter_context(DagsterInstance.get())
        servers: dict[str, Callable[[], str]] = {
            "embedded": lambda: f"sqlite:///{directory / 'queue.db'}",
            "redis": lambda: arguments.redis or stack.enter_context(any_redis()),
            "rabbitmq": lambda: arguments.rabbitmq or stack.enter_context(any_rabbit(directory)),
        }
        for place in places:
            settings = Settings(broker=servers[place](), prefix=f"bench-{os.getpid()}")
            with running_worker(settings, directory, "-c", str(SLOTS), name=place) as worker:
                measure(instance, worker, place, arguments.rounds, figures)
    report(figures, places, arguments.rounds)


if __name__ == "__main__":
    main()
