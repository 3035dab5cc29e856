"""``dagster-taskiq demo``: an example project, a worker, and a check of the event log."""

import click

from dagster_taskiq.cli.options import examples
from dagster_taskiq.settings.embedded import EMBEDDED_URL

#: Where the webserver of ``--ui`` is, unless an option says so.
DEFAULT_PORT = 3000


@click.command(
    epilog=examples(
        "dagster-taskiq demo",
        "dagster-taskiq demo --broker redis://localhost:6379/0",
        "dagster-taskiq demo --ui --port 3001",
    )
)
@click.option(
    "--broker",
    "-b",
    default=EMBEDDED_URL,
    help="URL of the broker to run it on. Default: the embedded one, with nothing to install.",
)
@click.option(
    "--backend",
    help=(
        "URL of the backend. Default: the broker's server; beside SQS, a file in the demo's "
        "directory."
    ),
)
@click.option("--keep", is_flag=True, help="Keep the demo's directory, and print its path.")
@click.option(
    "--ui",
    is_flag=True,
    help="Start Dagster's webserver and daemon too, with the run launcher; stay until Ctrl-C.",
)
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    help=f"Port of the webserver, with --ui. Default: {DEFAULT_PORT}. Taken: a free one.",
)
def demo(broker: str, backend: str | None, keep: bool, ui: bool, port: int | None) -> None:
    """Run an example project on a worker, in a directory of its own.

    The exit code is 0 when everything went as it should: the retries, the killed process and the
    skipped step included. With --ui it is 0 when Ctrl-C has stopped what was up, and 1 when
    something did not come up or ended early. It is 130 when Ctrl-C came before that.
    """
    if broker.startswith("memory:"):
        raise click.BadParameter(
            "a broker in memory has no workers. Name one that processes share, such as "
            "redis://localhost:6379/0, or none at all.",
            param_hint="--broker",
        )
    if port is not None and not ui:
        raise click.UsageError("--port is for the webserver, which --ui starts.")
    from dagster_taskiq.demo.progress import showing

    with showing("Loading Dagster"):  # which takes seconds
        from dagster_taskiq.cli.demo_run import run_demo
        from dagster_taskiq.demo.ui import run_ui
    if ui:
        run_ui(broker, backend, port or DEFAULT_PORT, keep)
        return
    run_demo(broker, backend, keep)
