"""What ``dagster-taskiq demo`` does in a terminal: a worker, jobs, and a check of the event log."""

import _thread
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NoReturn

import click
from dagster import DagsterInstance
from dagster._core.definitions.reconstruct import ReconstructableRepository
from dagster._core.events import RunFailureReason
from dagster._core.execution.api import execute_run_iterator

from dagster_taskiq.cli.run_view import following, show_steps
from dagster_taskiq.cli.worker_tables import show_workers
from dagster_taskiq.client import Client, client_for
from dagster_taskiq.demo.facts import facts_of
from dagster_taskiq.demo.home import (
    MODULE,
    SLOTS,
    DemoHome,
    DemoProcess,
    demo_home,
    end_signals,
    start_worker,
    worker_beats,
)
from dagster_taskiq.demo.progress import showing
from dagster_taskiq.demo.story import RunStory
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.settings.urls import redact

#: How long the worker, which is idle, may take to end, in seconds: before it is told to end at once
#: (on SQS it waits for its polls until then), and before it is killed.
WORKER_STOP_SECONDS = (5.0, 20.0)
#: How long all runs together may take before the demo gives up, in seconds.
RUNS_SECONDS = 300.0

#: The partition for which the assets are made.
PARTITION = "north"


def run_demo(broker: str, backend: str | None, keep: bool) -> NoReturn:
    """Run the demo, show how it goes, and exit.

    Args:
        broker: URL of the broker.
        backend: URL of the backend; ``None`` for the default of :func:`demo_home`.
        keep: leave the directory there.

    Raises:
        click.ClickException: a process did not do what it should.
        SystemExit: with 0 if all facts hold, 1 if not, and 130 after a signal to end.
    """
    # SIGTERM ends the demo as Ctrl-C does, the worker first. So does the watchdog, even if a shell
    # has started the demo with SIGINT ignored.
    for number in end_signals():
        signal.signal(number, signal.default_int_handler)
    try:
        with demo_home(broker, backend, keep) as home:
            succeeded = _run_demo(home)
    except KeyboardInterrupt:
        click.echo("Interrupted.", err=True)
        sys.exit(130)
    sys.exit(0 if succeeded else 1)


def _run_demo(home: DemoHome) -> bool:
    """Run the demo in ``home``; return whether all facts hold."""
    config = home.config
    settings = Settings.from_dict(config).resolved()
    client = client_for(settings)
    click.echo(f"Example project {MODULE} on {redact(settings.broker)}\n")
    with ExitStack() as stack:
        with showing("Making Dagster's storage, in a temporary directory"):
            instance = stack.enter_context(DagsterInstance.get())
        with _worker(home, client) as worker, _watchdog(worker):
            show_workers(client.workers())
            runs = []
            for job, tags in (
                ("shop_assets", {"dagster/partition": PARTITION}),
                ("ship_parcels", {}),
            ):
                runs.append(_run_job(instance, job, config, tags))
        stories = [RunStory.from_event_log(instance, run_id) for run_id in runs]
    for story in stories:
        if story.error:
            click.echo(f"\n{story.error}", err=True)
    click.echo()
    return _summarize(stories)


@contextmanager
def _worker(home: DemoHome, client: Client) -> Iterator[DemoProcess]:
    """Start a worker, wait until it beats, and end it with the context.

    Raises:
        click.ClickException: it does not come up, or does not end as it should.
    """
    worker = start_worker(home)
    try:
        with showing(f"Starting a worker with {SLOTS} slots"):
            worker.wait_until(lambda: worker_beats(client))
        yield worker
    finally:
        with showing("Ending the worker"):
            worker.stop(*WORKER_STOP_SECONDS)
    worker.check_end()


@contextmanager
def _watchdog(worker: DemoProcess) -> Iterator[None]:
    """Interrupt the runs when their worker has ended or they take too long.

    Raises:
        click.ClickException: that happened.
    """
    done = threading.Event()
    problems: list[str] = []

    def watch() -> None:
        deadline = time.monotonic() + RUNS_SECONDS
        while not done.wait(0.5):
            if worker.exit_code is not None:
                problems.append(f"The worker ended in the middle of it.\n{worker.log_end}")
            elif time.monotonic() > deadline:
                problems.append(f"The runs have not ended after {RUNS_SECONDS:.0f} s.")
            if problems:
                _thread.interrupt_main()
                return

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    except KeyboardInterrupt:
        if not problems:
            raise
    finally:
        done.set()
    if problems:
        raise click.ClickException(problems[0])


def _run_job(
    instance: DagsterInstance, name: str, config: Mapping[str, Any], tags: Mapping[str, str]
) -> str:
    """Execute a job of the example project, showing how it goes; return the run's id.

    Raises:
        KeyboardInterrupt: this process received a signal to end.
    """
    job = ReconstructableRepository.for_module(MODULE, "defs").get_reconstructable_job(name)
    run = instance.create_run_for_job(
        job.get_definition(),
        run_config={
            "execution": {"config": dict(config)},
            # What the console logger would print is shown in a shorter way.
            "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
        },
        tags=tags,
        job_code_origin=job.get_python_origin(),
    )
    click.echo(f"\nRunning {name} ...")
    started = time.monotonic()
    with following(instance, {run.run_id: name}):
        events = list(execute_run_iterator(job, run, instance))
    for event in events:
        failure = event.job_failure_data if event.is_run_failure else None
        if failure and failure.failure_reason == RunFailureReason.UNEXPECTED_TERMINATION:
            raise KeyboardInterrupt  # Dagster has ended that run alone
    ended = instance.get_run_by_id(run.run_id)
    status = ended.status.value if ended is not None else "lost"
    click.echo(f"{name}: {status} after {time.monotonic() - started:.1f} s")
    return run.run_id


def _summarize(stories: Sequence[RunStory]) -> bool:
    """Print what became of each step and which facts hold; return whether all do."""
    steps = [step for story in stories for step in story.steps.values()]
    show_steps("Steps", steps)
    click.echo()
    facts = facts_of(stories[0], stories[1], PARTITION)
    for fact in facts:
        mark = click.style("ok ", fg="green") if fact.holds else click.style("NOT", fg="red")
        click.echo(f"  {mark}  {fact.statement}")
    succeeded = all(fact.holds for fact in facts)
    click.echo(
        f"\n{sum(fact.holds for fact in facts)} of {len(facts)} facts hold, by Dagster's event log."
    )
    return succeeded
