"""What ``dagster-celery drain`` does: it counts, waits, and has what is left rescued."""

import math
import time
from collections.abc import Callable, Sequence

import click
from dagster import DagsterInstance

from dagster_celery._celery_app.app import CeleryApp
from dagster_celery._upgrade.leftovers import (
    Leftovers,
    leftovers_of_celery,
    leftovers_of_ours,
    show_leftovers,
)
from dagster_celery._upgrade.open_servers import open_queues
from dagster_celery._upgrade.replies import open_replies
from dagster_celery._upgrade.rescue import Rescue
from dagster_celery._upgrade.runs import Runs
from dagster_celery._upgrade.servers import CeleryServers, celery_servers
from dagster_taskiq.client import Client, client_for
from dagster_taskiq.errors import ConfigError
from dagster_taskiq.launcher import TaskiqRunLauncher
from dagster_taskiq.runs.instance_settings import settings_for
from dagster_taskiq.settings.urls import redact

#: How often it is looked again whether something is left, in seconds.
LOOK_SECONDS = 1.0

Look = Callable[[], Leftovers]


def drain_celery(
    app: CeleryApp,
    instance: DagsterInstance | None,
    queues: Sequence[str],
    wait: float | None,
    *,
    rescue: bool,
    force: bool,
) -> bool:
    """Show what dagster-celery has left.

    Args:
        app: the app with the settings of dagster-celery.
        instance: where the runs are; ``None`` to look at the queues alone.
        queues: the queues to look at; if there are none, all that are known.
        wait: for how many seconds to look again until nothing is left; how long a rescue may take.
            ``None`` to look once, and for a rescue without a limit.
        rescue: have workers of this package execute what is left.
        force: rescue although workers of Celery's are on the server.

    Returns:
        Whether nothing is left.

    Raises:
        ConfigError: the settings cannot be used; or there can be no rescue, and why.
        ServerUnavailableError: a server does not answer.
    """
    servers = celery_servers(app)
    runs = Runs(instance, servers.settings) if instance is not None else None
    click.echo(f"Celery's broker: {servers.shown}")
    with open_queues(servers) as (left, portal):

        def look() -> Leftovers:
            of_launcher = runs.queues_of_launcher if runs is not None else ()
            names = queues or (*servers.queues, *of_launcher)
            return leftovers_of_celery(left, names, runs, only_these=bool(queues))

        if rescue:
            names = tuple(each.queue for each in look().queues)
            if runs is None:
                raise ConfigError("--rescue has to find the runs: set DAGSTER_HOME to their home.")
            replies = open_replies(servers, left, portal)
            try:
                limit = math.inf if wait is None else time.monotonic() + wait
                client = _client(servers, runs.instance)
                rescue_ = Rescue(left, names, replies, runs, client, click.echo, force=force)
                rescue_.work(limit)
            finally:
                replies.close()
            wait = None
        return _show(look, wait or 0.0, "Celery's queues", runs)


def drain_back(app: CeleryApp, instance: DagsterInstance | None, wait: float) -> bool:
    """Show what this package has sent and what has not ended, before the way back.

    Args:
        app: the app with the settings.
        instance: as for :func:`drain_celery`.
        wait: for how many seconds to look again until nothing is left.

    Returns:
        Whether nothing is left.

    Raises:
        ConfigError: the settings cannot be used.
        ServerUnavailableError: broker or backend does not answer.
    """
    settings = app.configuration.settings.resolved()
    runs = Runs(instance, settings) if instance is not None else None
    click.echo(f"Broker: {redact(settings.broker)}")
    client = client_for(settings)
    return _show(lambda: leftovers_of_ours(client, runs), wait, "Queues", runs)


def _show(look: Look, wait: float, title: str, runs: Runs | None) -> bool:
    deadline = time.monotonic() + wait
    left = look()
    show_leftovers(left, title)
    if not left.is_empty and wait:
        click.echo("Waiting until nothing is left ...")
        while not left.is_empty and time.monotonic() < deadline:
            time.sleep(min(LOOK_SECONDS, max(0.0, deadline - time.monotonic())))
            left = look()
        show_leftovers(left, title)
    if runs is None:
        click.echo("DAGSTER_HOME is not set: runs were not looked at.")
    if left.is_empty:
        click.echo("Nothing is left.")
    else:
        click.echo(
            f"Left: {left.messages} message(s), {len(left.runs)} run(s). "
            "See docs/how-to/upgrade-day.md."
        )
    return left.is_empty


def _client(servers: CeleryServers, instance: DagsterInstance) -> Client:
    """Return the client of the broker on which workers of this package are.

    That is Celery's own server, where the same configuration leads them; or that of the run
    launcher, if the project has moved to another server.
    """
    client = client_for(servers.settings)
    launcher = instance.run_launcher
    if not isinstance(launcher, TaskiqRunLauncher) or _is_served(client):
        return client
    of_launcher = client_for(settings_for(instance, launcher.settings))
    return of_launcher if _is_served(of_launcher) else client


def _is_served(client: Client) -> bool:
    return any(not each.is_lost for each in client.workers())
