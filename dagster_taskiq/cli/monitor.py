"""``dagster-taskiq monitor``: the fleet as a web page, JSON and metrics."""

import logging
from pathlib import Path

import click

from dagster_taskiq.cli.options import (
    connection_options,
    examples,
    loglevel_option,
    note_default_broker,
    settings_from,
)


@click.command(
    short_help="Serve a web page, a JSON API and metrics of the fleet.",
    epilog=examples(
        "dagster-taskiq monitor",
        "dagster-taskiq monitor -b redis://redis.internal:6379/0 --allow-actions",
        "DAGSTER_TASKIQ_MONITOR_TOKEN=... dagster-taskiq monitor --host 0.0.0.0",
    ),
)
@connection_options
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help=(
        "The address to listen on; 0.0.0.0 for all. Beyond this machine, set "
        "$DAGSTER_TASKIQ_MONITOR_TOKEN to a secret that requests have to show."
    ),
)
@click.option(
    "--port",
    type=click.IntRange(min=1, max=65535),
    default=9580,
    show_default=True,
    help="The port to listen on.",
)
@click.option(
    "--dagster-url",
    default="",
    metavar="URL",
    help="Dagster's UI, for links to runs on the page. Default: no links.",
)
@click.option(
    "--allow-actions",
    is_flag=True,
    help=(
        "Let the page and the API drain and end workers, revoke tasks, and requeue or delete "
        "messages that were set aside."
    ),
)
@click.option(
    "--celery-names",
    is_flag=True,
    help="Have /metrics serve the names of celery-exporter and Flower too, for existing boards.",
)
@click.option(
    "--show-lost",
    type=click.FloatRange(min=0),
    default=900.0,
    show_default=True,
    metavar="SECONDS",
    help="For how long a worker is shown after it was lost.",
)
@loglevel_option("monitor")
def monitor(
    broker: str | None,
    backend: str | None,
    config_yaml: Path | None,
    app: str | None,
    host: str,
    port: int,
    dagster_url: str,
    allow_actions: bool,
    celery_names: bool,
    show_lost: float,
    loglevel: str,
) -> None:
    """Serve a live web page of the fleet, a JSON API, and metrics for Prometheus.

    It reads broker and backend, from any machine that reaches them, and needs no Dagster instance.
    It serves until it gets SIGTERM or SIGINT.
    """
    logging.basicConfig(
        level=loglevel.upper(), format="%(asctime)s %(levelname)-7s %(name)s: %(message)s"
    )
    note_default_broker(broker, config_yaml, app)
    from dagster_taskiq.monitor.server import MonitorOptions, run_monitor

    run_monitor(
        settings_from(broker, backend, config_yaml, app),
        MonitorOptions(
            host=host,
            port=port,
            dagster_url=dagster_url,
            allow_actions=allow_actions,
            celery_names=celery_names,
            show_lost=show_lost,
        ),
    )
