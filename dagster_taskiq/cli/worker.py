"""``dagster-taskiq worker``: start, list, terminate."""

import json
import os
import sys
import time
from pathlib import Path

import click
from click.core import ParameterSource

from dagster_taskiq.bulk_imports import bulk_imports
from dagster_taskiq.cli.options import (
    broker_from,
    connection_options,
    examples,
    loglevel_option,
    settings_from,
    split_commas,
)
from dagster_taskiq.cli.worker_tables import describe, show_workers
from dagster_taskiq.errors import ConfigError
from dagster_taskiq.settings.urls import redact
from dagster_taskiq.wire.commands import Command, command
from dagster_taskiq.wire.labels import KILL_GRACE_SECONDS
from dagster_taskiq.worker.detach import start_detached
from dagster_taskiq.worker.fork_server import process
from dagster_taskiq.worker.local_status.sockets import StartedWith
from dagster_taskiq.worker.options import (
    DRAIN_TIMEOUT_ENV,
    HTTP_PORT_ENV,
    KILL_GRACE_ENV,
    LOG_FORMAT_ENV,
    POD_DELETION_COST_ENV,
    LogFormat,
    default_name,
)

#: One KiB, the unit of ``--max-memory-per-child`` (as Celery's option of that name has it).
KIB = 1024
#: How long ``worker terminate`` waits until workers have ended, in seconds.
TERMINATE_SECONDS = 600.0

#: The variables by which a background worker gets the URLs of its command line.
URL_VARIABLES = {
    "broker": "DAGSTER_TASKIQ_WORKER_BROKER",
    "backend": "DAGSTER_TASKIQ_WORKER_BACKEND",
}


@click.group(
    epilog=examples(
        "dagster-taskiq worker start --queue dagster --concurrency 4",
        "dagster-taskiq worker list",
    )
)
def worker() -> None:
    """Start, list and end workers."""


@worker.command(
    epilog=examples(
        "dagster-taskiq worker start",
        "dagster-taskiq worker start -q dagster,mail -c 4 --name mail-1",
        "dagster-taskiq worker start -b redis://redis.internal:6379/0 -q gpu -c 1",
        "dagster-taskiq worker start -q dagster --drain-timeout 600 --background",
    )
)
@connection_options
@click.option(
    "-q", "--queue", "queues", multiple=True, help="A queue to serve; repeatable, comma lists too."
)
@click.option(
    "-c",
    "--concurrency",
    "-w",
    "--workers",
    "concurrency",
    type=click.IntRange(min=1),
    help=(
        "How many tasks run at once. Default: $DAGSTER_TASKIQ_CONCURRENCY, else the cores that the "
        "worker may use, by its affinity and the quota of its cgroup."
    ),
)
@click.option(
    "--max-runs",
    type=click.IntRange(min=1),
    help=(
        "How many launched runs are held at once, whether they work in a slot or only wait for "
        "their own steps. Default: 10, or the concurrency if that is more."
    ),
)
@click.option(
    "--async-tasks",
    type=click.IntRange(min=0),
    help=(
        "How many async tasks of your own each slot executes at once, in one process and one event "
        "loop, for tasks that mostly wait. Default: $DAGSTER_TASKIQ_ASYNC_TASKS, else 0: each in a "
        "slot and a process of its own."
    ),
)
@click.option("-n", "--name", help="The worker's name. Default: host and process id.")
@loglevel_option("worker")
@click.option(
    "--log-format",
    default=LogFormat.TEXT.value,
    show_default=True,
    type=click.Choice([each.value for each in LogFormat]),
    envvar=LOG_FORMAT_ENV,
    show_envvar=True,
    help="What the worker writes its log in: lines for people, or a JSON object in each line.",
)
@click.option("-d", "--background", is_flag=True, help="Start it in the background and return.")
@click.option(
    "-i", "--include", multiple=True, help="A module to import in every child; repeatable."
)
@click.option(
    "--allow",
    multiple=True,
    metavar="MODULE|PATH",
    help=(
        "Load jobs from this module, file or directory alone, and use the Dagster instance of "
        "$DAGSTER_HOME whichever a message names; repeatable, comma lists too. Default: "
        "$DAGSTER_TASKIQ_ALLOW, else from any that a message names."
    ),
)
@click.option(
    "--max-tasks-per-child",
    type=click.IntRange(min=1),
    help="Replace a child process after this many tasks.",
)
@click.option(
    "--max-memory-per-child",
    type=click.IntRange(min=1),
    metavar="KIB",
    help="Replace a child process that holds more than this many KiB after a task.",
)
@click.option(
    "--time-limit",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help=(
        "Kill a task that runs longer than this; it fails, and its own RetryPolicy decides. A "
        "launched run is a task like any other, also while it waits for its steps. Default: no "
        "limit."
    ),
)
@click.option(
    "--soft-time-limit",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help=(
        "The same, but the task is stopped with SIGTERM, and has the kill grace to write what "
        "became of it. Default: no limit."
    ),
)
@click.option(
    "--kill-grace",
    type=click.FloatRange(min=0),
    default=KILL_GRACE_SECONDS,
    show_default=True,
    envvar=KILL_GRACE_ENV,
    show_envvar=True,
    help="Seconds between SIGTERM and SIGKILL for a task that is stopped.",
)
@click.option(
    "--drain-timeout",
    type=click.FloatRange(min=0),
    envvar=DRAIN_TIMEOUT_ENV,
    show_envvar=True,
    help=(
        "Seconds that running tasks get to finish after the first signal; a launched run that "
        "waits for its steps then goes back into its queue. Default: no limit."
    ),
)
@click.option(
    "--http-port",
    type=click.IntRange(min=1, max=65535),
    envvar=HTTP_PORT_ENV,
    show_envvar=True,
    help=(
        "Serve /livez and /readyz, for probes of Kubernetes, and /metrics, for Prometheus, on this "
        "port, on all addresses. "
        "Default: nowhere."
    ),
)
@click.option(
    "--pod-deletion-cost",
    is_flag=True,
    envvar=POD_DELETION_COST_ENV,
    show_envvar=True,
    help="In a pod of Kubernetes: have idle pods deleted first when there are to be fewer.",
)
def start(
    broker: str | None,
    backend: str | None,
    config_yaml: Path | None,
    app: str | None,
    queues: tuple[str, ...],
    concurrency: int | None,
    max_runs: int | None,
    async_tasks: int | None,
    name: str | None,
    loglevel: str,
    log_format: str,
    background: bool,
    include: tuple[str, ...],
    allow: tuple[str, ...],
    max_tasks_per_child: int | None,
    max_memory_per_child: int | None,
    time_limit: float | None,
    soft_time_limit: float | None,
    kill_grace: float,
    drain_timeout: float | None,
    http_port: int | None,
    pod_deletion_cost: bool,
) -> None:
    """Start a worker; it serves until it gets SIGTERM or SIGINT.

    The first signal lets running tasks finish, the second stops them, the third kills them.
    """
    if background:
        _start_in_background(click.get_current_context())
        return
    # Taken out, so that no command of a task finds them.
    broker = os.environ.pop(URL_VARIABLES["broker"], broker)
    backend = os.environ.pop(URL_VARIABLES["backend"], backend)
    # The process from which children are forked imports Dagster, for seconds; this one goes on
    # meanwhile.
    process.start()
    with bulk_imports():
        from dagster_taskiq.execution.allowed_code import allowed_entries
        from dagster_taskiq.worker.log_format import log_to_stderr
        from dagster_taskiq.worker.options import (
            PoolOptions,
            WorkerOptions,
            default_async_tasks,
            default_concurrency,
            default_max_runs,
        )
        from dagster_taskiq.worker.runner import run_worker

    name = name or default_name()
    log_to_stderr(loglevel.upper(), LogFormat(log_format), name)
    # Another program that starts a worker by this command has given its own options.
    started_with = click.get_current_context().find_object(StartedWith) or StartedWith(
        app, str(config_yaml) if config_yaml else None, broker, backend
    )
    listened = broker_from(broker, backend, config_yaml, app)
    slots, slots_source = (concurrency, "--concurrency") if concurrency else default_concurrency()
    options = WorkerOptions(
        name=name,
        queues=split_commas(queues) or (listened.settings.queue,),
        slots_source=slots_source,
        pool=PoolOptions(
            concurrency=slots,
            max_runs=max_runs or default_max_runs(slots),
            async_tasks=default_async_tasks() if async_tasks is None else async_tasks,
            include=split_commas(include),
            allow=allowed_entries(allow),
            app=app,
            log_format=LogFormat(log_format),
            max_tasks_per_child=max_tasks_per_child,
            max_memory_per_child=max_memory_per_child * KIB if max_memory_per_child else None,
            kill_grace=kill_grace,
            time_limit=time_limit,
            soft_time_limit=soft_time_limit,
        ),
        drain_timeout=drain_timeout,
        http_port=http_port,
        pod_deletion_cost=pod_deletion_cost,
        started_with=started_with,
    )
    sys.exit(run_worker(listened, options))


@worker.command(
    "list",
    short_help="List the workers, and what they run.",
    epilog=examples("dagster-taskiq worker list", "dagster-taskiq worker list --json"),
)
@connection_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_workers(
    broker: str | None,
    backend: str | None,
    config_yaml: Path | None,
    app: str | None,
    as_json: bool,
) -> None:
    """List the workers: their hosts, what they serve, and what they run."""
    from dagster_taskiq.client import client_for

    settings = settings_from(broker, backend, config_yaml, app)
    workers = client_for(settings).workers()
    if as_json:
        click.echo(json.dumps([describe(each) for each in workers], indent=2))
        return
    click.echo(f"Broker: {redact(settings.broker)}")
    show_workers(workers)


@worker.command(
    short_help="End workers by name, or all of them.",
    epilog=examples(
        "dagster-taskiq worker terminate mail-1",
        "dagster-taskiq worker terminate --all --now",
    ),
)
@connection_options
@click.argument("names", nargs=-1)
@click.option("--all", "everyone", is_flag=True, help="End every worker on this broker.")
@click.option("--now", is_flag=True, help="Stop what they run, instead of letting it finish.")
@click.option("--no-wait", is_flag=True, help="Return without waiting until they have ended.")
def terminate(
    broker: str | None,
    backend: str | None,
    config_yaml: Path | None,
    app: str | None,
    names: tuple[str, ...],
    everyone: bool,
    now: bool,
    no_wait: bool,
) -> None:
    """End workers by NAME, or all of them, when they have finished what they run."""
    if bool(names) == everyone:
        raise click.UsageError("Name the workers to end, or give --all.")
    from dagster_taskiq.client import client_for

    client = client_for(settings_from(broker, backend, config_yaml, app))
    alive = [each for each in client.workers() if not each.is_lost]
    unknown = set(names) - {each.name for each in alive}
    if unknown:
        there = ", ".join(each.name for each in alive) or "none"
        raise ConfigError(f"No such worker: {', '.join(sorted(unknown))}. There are: {there}.")
    if everyone and not alive:
        settings = client.settings
        click.echo(f"There is no worker to end on {redact(settings.broker)}.")
        return
    chosen = {each.id: each for each in alive if everyone or each.name in names}
    for worker_id in chosen:
        client.send_command(worker_id, command(Command.KILL if now else Command.DRAIN))
    click.echo(f"Sent {len(chosen)} worker(s) the command to end.")
    deadline = time.monotonic() + TERMINATE_SECONDS
    while not no_wait and chosen and time.monotonic() < deadline:
        time.sleep(0.1)
        still = {each.id for each in client.workers() if not each.is_lost}
        for worker_id in [each for each in chosen if each not in still]:
            click.echo(f"{chosen.pop(worker_id).name} has ended.")
    if chosen and not no_wait:
        raise ConfigError(
            f"These workers have not ended: {', '.join(each.name for each in chosen.values())}."
        )


def _start_in_background(context: click.Context) -> None:
    """Start this very command again, detached, with its output in a file."""
    given = {
        name: value
        for name, value in context.params.items()
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    }
    # A fault of these would be shown only in the log of the command itself.
    settings_from(*(context.params[name] for name in ("broker", "backend", "config_yaml", "app")))
    arguments = []
    environment = dict(os.environ)
    for parameter in context.command.params:
        value = given.get(str(parameter.name))
        if parameter.name in URL_VARIABLES:
            # A URL may hold a password, and everyone on this machine may read a command line.
            if value is not None:
                environment[URL_VARIABLES[parameter.name]] = value
        elif value is True:
            arguments += [parameter.opts[-1]] if parameter.name != "background" else []
        elif value is not None:
            for each in value if isinstance(value, tuple) else (value,):
                arguments += [parameter.opts[-1], str(each)]
    label = given.get("name") or time.strftime("%Y%m%d-%H%M%S")
    again = [sys.executable, "-m", "dagster_taskiq", "worker", "start", *arguments]
    click.echo(start_detached(again, environment, label))
