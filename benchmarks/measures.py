"""What is measured: each function is one measure, chosen by its name with ``--only``."""

import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.report import FAILS, NEVER
from benchmarks.sides import (
    IN_PROCESS,
    MULTIPROCESS,
    REDIS,
    SLOTS,
    BenchmarkError,
    Contender,
    Fleet,
)
from benchmarks.stage import Stage

#: How long what has nothing to do is watched, in seconds.
IDLE_SECONDS = 10.0
#: For how long an op that was stopped must have been silent to count as dead, in seconds.
SILENT_SECONDS = 1.0
#: For how long an op may go on before it counts as one that is never stopped, in seconds.
SURVIVES_SECONDS = 10.0
#: How long an op may take to start, in seconds.
START_SECONDS = 60.0
#: How often a file is looked at, in seconds.
LOOK_SECONDS = 0.05
#: How often one run's health is asked for.
HEALTH_CHECKS = 100
#: How often Dagster's daemon asks for that of each run, unless told otherwise, in seconds.
MONITORING_SECONDS = 120.0
#: How many runs it shall ask for.
MONITORED_RUNS = 100
#: How many dynamic outputs a step has.
DYNAMIC_WIDTHS = (200, 5000)
#: How many runs a crowd is, of how many steps, and how many workers with one slot it is for.
CROWD_RUNS, CROWD_STEPS, CROWD_WORKERS = 50, 10, 20

#: What the number of connections is called that a run opens, if Dagster's storage is on a server.
CONNECTIONS = "connections to Dagster's database"

#: A process for each step takes a second or two of CPU: minutes, for these.
TOO_MANY_PROCESSES = frozenset({"fan_500", "fan_200", "fan_2000"})

#: Every measure by its name, in the order in which they are taken.
MEASURES: dict[str, Callable[[Stage], None]] = {}
#: Those that are taken only when asked for, since they take long.
LARGE: set[str] = set()


def measure(name: str, large: bool = False) -> Callable[[Callable[[Stage], None]], None]:
    """Register a measure."""

    def register(function: Callable[[Stage], None]) -> None:
        MEASURES[name] = function
        if large:
            LARGE.add(name)

    return register


@measure("chain")
def measure_chain(stage: Stage) -> None:
    """Twenty no-op steps that wait for each other, and where their time goes."""
    race(stage, "chain_20", "chain of 20", steps=20, after=add_phases)


@measure("fans")
def measure_fans(stage: Stage) -> None:
    """A hundred and five hundred no-op steps that wait for nothing."""
    widths = (100, 500)
    for width in widths:
        race(stage, f"fan_{width}", f"fan of {width}", steps=width)
    figures = stage.figures
    for contender in stage.distributed():
        few, many = (
            width * figures.number(f"fan of {width}: CPU of a step, loop", contender)
            for width in widths
        )
        # Without what a run costs its process whatever its steps.
        more = (many - few) / (widths[1] - widths[0])
        figures.add("CPU of one more step, loop", "ms", contender, more)
        if stage.storage is not None:
            few, many = (
                figures.number(f"fan of {width}: {CONNECTIONS}", contender) for width in widths
            )
            more = (many - few) / (widths[1] - widths[0])
            figures.add("connections to Dagster's database for one more step", "", contender, more)


@measure("fresh")
def measure_fresh(stage: Stage) -> None:
    """The same in a process that has just started, and what it imports beyond Dagster for that."""
    # A process for each step of the fan is no faster for being started by a new one.
    entered = [each for each in stage.contenders if each != MULTIPROCESS]
    fleets, figures = stage.together(entered), stage.figures
    for _ in range(stage.rounds):
        for job, name, steps in (("chain_20", "chain of 20", 20), ("fan_100", "fan of 100", 100)):
            for fleet in fleets:
                done = fleet.run_fresh(job)
                name_here = f"{name} in a fresh process"
                figures.add(name_here, "s", fleet.contender, done["seconds"])
                cpu = done["cpu"] / steps * 1000
                figures.add(f"{name_here}: CPU of a step", "ms", fleet.contender, cpu)
        own = [fleet for fleet in fleets if fleet.contender == IN_PROCESS]
        others = [fleet for fleet in fleets if fleet.contender != IN_PROCESS]
        of_dagster = {name for each in own for name in each.run_fresh("chain_5", True)["imports"]}
        for fleet in others:
            imports = fleet.run_fresh("chain_5", True)["imports"]
            beyond = {name: each for name, each in imports.items() if name not in of_dagster}
            title = "imports of a run beyond Dagster's"
            figures.add(title, "s", fleet.contender, sum(beyond.values()))


@measure("diamond")
def measure_diamond(stage: Stage) -> None:
    """Four steps with tables of pandas."""
    race(stage, "diamond", "diamond of pandas work", steps=4, rehearse=True)


@measure("naps")
def measure_naps(stage: Stage) -> None:
    """Eight steps that sleep half a second each: two seconds, with two slots."""
    race(stage, "naps", "8 half-second sleeps", steps=8)


@measure("large", large=True)
def measure_large(stage: Stage) -> None:
    """What a step costs among 2000, against one among 200."""
    for width in (200, 2000):
        race(stage, f"fan_{width}", f"fan of {width}", steps=width)
    figures = stage.figures
    for contender in stage.distributed():
        few, many = (
            figures.number(f"fan of {width}: CPU of a step, worker and loop", contender)
            for width in (200, 2000)
        )
        figures.add("CPU of a step among 2000, against 200", "x", contender, many / few)


@measure("dynamic", large=True)
def measure_dynamic(stage: Stage) -> None:
    """A step for each of 200 and of 5000 dynamic outputs, and one that collects."""
    for fleet in stage.each_alone():
        stage.start_worker(fleet)
        run_dynamic(stage, fleet, DYNAMIC_WIDTHS[0], rehearse=True)
        for width in DYNAMIC_WIDTHS:
            # The original would take a quarter of an hour.
            if width == DYNAMIC_WIDTHS[0] or fleet.contender.who == "ours":
                run_dynamic(stage, fleet, width)


@measure("launch")
def measure_launch(stage: Stage) -> None:
    """From launching a run onto the fleet to its first step, and to its end."""
    fleets = stage.together(stage.distributed())
    for fleet in fleets:
        fleet.driver.ask("prepare_launch", module=fleet.contender.module("chain_5"))
    for _ in range(stage.rounds):
        for fleet in fleets:
            for job, steps in (
                ("chain_5_in_process", "5 steps in its process"),
                ("chain_5", "5 steps on workers"),
            ):
                launch(stage, fleet, job, steps)


@measure("start")
def measure_start(stage: Stage) -> None:
    """From the command that starts a worker to the start of the first step that waits for it."""
    for fleet in stage.each_alone():
        begun = time.time()
        stage.start_worker(fleet)
        run_id = fleet.run("chain_5")["run_id"]
        first = fleet.driver.ask("times", run_id=run_id)["first_step"]
        stage.figures.add("worker start to first step", "s", fleet.contender, first - begun)


@measure("memory")
def measure_memory(stage: Stage) -> None:
    """What all processes of a worker hold when every slot has worked."""
    for fleet in stage.each_alone():
        stage.start_worker(fleet)
        fleet.run("naps")
        assert fleet.worker is not None
        held = fleet.worker.memory_bytes() / 1e6
        stage.figures.add("worker memory", "MB", fleet.contender, held)
        count = len(fleet.worker.processes())
        stage.figures.add("worker processes", "", fleet.contender, count)


@measure("idle")
def measure_idle(stage: Stage) -> None:
    """What a worker costs that has nothing to do, and a loop that waits for one step."""
    for fleet in stage.each_alone():
        stage.start_worker(fleet)
        fleet.run("naps")
        watch_idle_worker(stage, fleet)
        watch_waiting_loop(stage, fleet)


@measure("health")
def measure_health(stage: Stage) -> None:
    """What it costs Dagster's daemon to ask how the runs are that it monitors."""
    for fleet in stage.each_alone():
        stage.start_worker(fleet)
        check_health(stage, fleet)


@measure("crowd")
def measure_crowd(stage: Stage) -> None:
    """Fifty launched runs at once on twenty workers, and the same on one that fills two cores."""
    figures = stage.figures
    for contender in stage.distributed():
        # The original cannot execute such runs at all, and one file is for one machine.
        if contender.who != "ours" or contender.place != REDIS:
            continue
        for _ in range(stage.rounds):
            rates = []
            for workers, slots in ((1, SLOTS), (CROWD_WORKERS, 1)):
                with stage.alone(contender) as fleet:
                    for _ in range(workers):
                        stage.start_worker(fleet, slots)
                    crowd(fleet)  # after which every slot has imported the code
                    rates.append(crowd(fleet))
                name = f"{CROWD_RUNS} runs on {workers} worker(s) of {slots} slot(s), steps"
                figures.add(name, "/s", contender, rates[-1])
            figures.add(
                "twenty workers, of what one does", "%", contender, rates[1] / rates[0] * 100
            )


@measure("cancel")
def measure_cancel(stage: Stage) -> None:
    """From stopping a run to the last sign of life of its step, which obeys SIGTERM."""
    for _ in range(stage.rounds):
        for contender in stage.distributed():
            for stop, name in (
                (terminate_launched, "launched run terminated to dead step"),
                (interrupt_loop, "run's loop interrupted to dead step"),
            ):
                with stage.alone(contender) as fleet:
                    stage.start_worker(fleet)
                    stage.figures.add(name, "s", contender, stop(fleet))


def race(
    stage: Stage,
    job: str,
    name: str,
    steps: int,
    rehearse: bool = False,
    after: Callable[[Stage, Fleet, str], None] | None = None,
) -> None:
    """Have all run a job, taking turns: a machine that is busy for a while slows each of them.

    Args:
        stage: where they are.
        job: the name of the job.
        name: what it is called in the figures.
        steps: how many steps it has.
        rehearse: whether a first run counts for nothing, since it has to import more.
        after: called after each run with the run's id.
    """
    entered = [each for each in stage.contenders if _can_run(each, job)]
    fleets = stage.together(entered)
    if rehearse:
        for fleet in fleets:
            fleet.run(job)
    for number in range(stage.rounds):
        for fleet in fleets:
            # Minutes for a figure that nobody needs exactly.
            if number > 0 and fleet.contender == MULTIPROCESS:
                continue
            run_id = run_once(stage, fleet, job, name, steps)
            if after is not None:
                after(stage, fleet, run_id)


def run_once(stage: Stage, fleet: Fleet, job: str, name: str, steps: int) -> str:
    """Run a job, write down its time and its CPU time, and return the run's id."""
    figures, contender, worker = stage.figures, fleet.contender, fleet.worker
    sessions = stage.sessions(fleet)
    before = worker.cpu_seconds() if worker else 0.0
    done = fleet.run(job)
    figures.add(name, "s", contender, done["seconds"])
    if worker is not None:
        loop = done["cpu"] / steps * 1000
        figures.add(f"{name}: CPU of a step, loop", "ms", contender, loop)
        both = loop + (worker.cpu_seconds() - before) / steps * 1000
        figures.add(f"{name}: CPU of a step, worker and loop", "ms", contender, both)
    if sessions is not None:
        opened = (stage.sessions(fleet) or 0) - sessions
        figures.add(f"{name}: {CONNECTIONS}", "", contender, opened)
    return str(done["run_id"])


def run_dynamic(stage: Stage, fleet: Fleet, width: int, rehearse: bool = False) -> None:
    """Run a job with so many dynamic outputs; write down what one of its steps costs.

    Args:
        stage: where it is.
        fleet: runs it.
        width: how many dynamic outputs there are.
        rehearse: whether the run counts for nothing, since it has to import more.
    """
    figures, contender, worker = stage.figures, fleet.contender, fleet.worker
    assert worker is not None
    config = {"spread": {"config": {"width": width}}}
    before, received = worker.cpu_seconds(), stage.received_bytes(contender.place)
    with stage.peak_memory(contender.place) as peak:
        done = fleet.run("dynamic", config)
    if rehearse:
        return
    name = f"{width} dynamic outputs"
    figures.add(f"{name}: a step", "ms", contender, done["seconds"] / width * 1000)
    loop = done["cpu"] / width * 1000
    figures.add(f"{name}: CPU of a step, loop", "ms", contender, loop)
    both = loop + (worker.cpu_seconds() - before) / width * 1000
    figures.add(f"{name}: CPU of a step, worker and loop", "ms", contender, both)
    if received is not None:
        sent = (stage.received_bytes(contender.place) or 0) - received
        figures.add(f"{name}: sent for a step", "KB", contender, sent / width / 1000)
        figures.add(f"{name}: memory of the server", "MB", contender, peak[0] / 1e6)


def add_phases(stage: Stage, fleet: Fleet, run_id: str) -> None:
    """Write down where the time of a chain's steps went."""
    # Between the processes of the multiprocess executor lies their start: nothing is sent.
    if fleet.contender != MULTIPROCESS:
        for phase, seconds in fleet.driver.ask("phases", run_id=run_id).items():
            stage.figures.add_phase(phase, fleet.contender, seconds * 1000)


def launch(stage: Stage, fleet: Fleet, job: str, steps: str) -> None:
    """Launch a run, wait for its end, and write down the times of its events."""
    driver, contender = fleet.driver, fleet.contender
    on_workers = not job.endswith("_in_process")
    name = f"launch to {{}}, {steps}"
    if stage.figures.median(name.format("end"), contender.who, contender.place) == FAILS:
        return  # such a run may hang, and hold a slot for ever
    config = contender.run_config() if on_workers else {}
    launched = driver.ask("launch", module=contender.module(job), job=job, config=config)
    run_id = launched["run_id"]
    succeeded = driver.ask("wait", run_id=run_id)["success"]
    if not succeeded:
        # The original's loop may not wait for tasks where it is a task itself, says Celery.
        print(driver.ask("errors", run_id=run_id), file=sys.stderr)
    times = driver.ask("times", run_id=run_id)
    for what, event in (("first step", "first_step"), ("end", "end")):
        seconds = times[event] - launched["begun"] if succeeded else FAILS
        stage.figures.add(name.format(what), "s", contender, seconds)


def watch_idle_worker(stage: Stage, fleet: Fleet) -> None:
    """Write down what a worker does while there is nothing to do."""
    figures, contender = stage.figures, fleet.contender
    assert fleet.worker is not None
    cpu, commands = fleet.worker.cpu_seconds(), stage.commands(contender.place)
    time.sleep(IDLE_SECONDS)
    spent = (fleet.worker.cpu_seconds() - cpu) / IDLE_SECONDS
    figures.add("idle worker, of a core", "%", contender, spent * 100)
    if commands is not None:
        sent = (stage.sent_since(contender.place, commands)) / IDLE_SECONDS
        figures.add("idle worker, commands", "/s", contender, sent)


def watch_waiting_loop(stage: Stage, fleet: Fleet) -> None:
    """Write down what a loop does for each second that it waits for a step.

    That is the difference between two runs whose step rests shorter and longer.
    """
    figures, contender = stage.figures, fleet.contender
    cpu, sent = [], []
    for seconds in (0.0, IDLE_SECONDS):
        before = stage.commands(contender.place)
        done = fleet.run("resting", {"rest": {"config": {"seconds": seconds}}})
        cpu.append(done["cpu"])
        if before is not None:
            sent.append(stage.sent_since(contender.place, before))
    figures.add("waiting loop, of a core", "%", contender, (cpu[1] - cpu[0]) / IDLE_SECONDS * 100)
    if sent:
        rate = (sent[1] - sent[0]) / IDLE_SECONDS
        figures.add("worker and waiting loop, commands", "/s", contender, rate)


def check_health(stage: Stage, fleet: Fleet) -> None:
    """Write down what it costs to ask how a run is that goes on."""
    figures, contender = stage.figures, fleet.contender
    beats, run = endless_run(fleet, in_its_process=True)
    run_id = fleet.driver.ask("launch", **run)["run_id"]
    wait_for_start(fleet, beats)
    before = stage.commands(contender.place)
    cpu = fleet.driver.ask("check_health", run_id=run_id, times=HEALTH_CHECKS)["cpu"]
    share = cpu * MONITORED_RUNS / MONITORING_SECONDS * 100
    figures.add(
        f"daemon's health checks of {MONITORED_RUNS} runs, of a core", "%", contender, share
    )
    if before is not None:
        sent = stage.sent_since(contender.place, before) / (HEALTH_CHECKS + 1)
        figures.add("commands for one of them", "", contender, sent)


def crowd(fleet: Fleet) -> float:
    """Launch a crowd of runs twice; return how many steps per second were executed the second time.

    The first time, processes start in which runs wait for their steps, and import the code.
    """
    driver, contender = fleet.driver, fleet.contender
    fleet.run("many_naps")
    runs = {"module": contender.module("fan_10"), "job": "fan_10", "count": CROWD_RUNS}
    for _ in range(2):
        launched = driver.ask("launch_many", config=contender.run_config(), **runs)
        for run_id in launched["run_ids"]:
            fleet.check(run_id, driver.ask("wait", run_id=run_id)["success"])
    ends = [driver.ask("times", run_id=run_id)["end"] for run_id in launched["run_ids"]]
    return CROWD_RUNS * CROWD_STEPS / (max(ends) - float(launched["begun"]))


def terminate_launched(fleet: Fleet) -> float | str:
    """Launch a run whose step never ends, and terminate it as a click in the UI does."""
    driver, (beats, run) = fleet.driver, endless_run(fleet)
    run_id = driver.ask("launch", **run)["run_id"]
    wait_for_start(fleet, beats)
    return lived_on(beats, driver.ask("terminate", run_id=run_id)["clicked"])


def interrupt_loop(fleet: Fleet) -> float | str:
    """Execute a run whose step never ends, and interrupt it as Ctrl-C and Dagster do."""
    beats, run = endless_run(fleet)
    fleet.driver.order("execute", **run)
    wait_for_start(fleet, beats)
    interrupted = time.time()
    fleet.driver.process.send_signal(signal.SIGINT)
    # What the loop makes of it is of no interest here: the driver goes with the fleet.
    return lived_on(beats, interrupted)


def endless_run(fleet: Fleet, in_its_process: bool = False) -> tuple[Path, dict[str, Any]]:
    """Return the file in which the step of a run says that it lives, and how to ask for the run."""
    beats = fleet.directory / "beats"
    job = "beating_in_process" if in_its_process else "beating"
    config = fleet.contender.run_config({"beat": {"config": {"beats": str(beats)}}})
    if in_its_process:
        del config["execution"]
    return beats, {"module": fleet.contender.module(job), "job": job, "config": config}


def wait_for_start(fleet: Fleet, beats: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not beats.exists():
        if time.monotonic() > deadline:
            raise BenchmarkError(f"A step of {fleet.contender} does not start.\n{fleet.logs()}")
        time.sleep(LOOK_SECONDS)


def lived_on(beats: Path, stopped: float) -> float | str:
    """Return for how long a step said that it lives after it was to be stopped."""
    while time.time() - stopped < SURVIVES_SECONDS:
        if time.time() - beats.stat().st_mtime > SILENT_SECONDS:
            return max(0.0, beats.stat().st_mtime - stopped)
        time.sleep(LOOK_SECONDS)
    return NEVER


def _can_run(contender: Contender, job: str) -> bool:
    return contender != MULTIPROCESS or job not in TOO_MANY_PROCESSES
