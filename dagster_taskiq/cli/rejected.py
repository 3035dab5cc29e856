"""``dagster-taskiq rejected``: the messages that were set aside, because no task can be started."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dagster_taskiq.cli.options import connection_options, examples, settings_from
from dagster_taskiq.cli.tables import Narrower, middle_left_out, show
from dagster_taskiq.wire.rejected_messages import LISTED, RejectedMessage

if TYPE_CHECKING:
    from dagster_taskiq.client import Client

#: How many there are at most on a server that keeps only the last ones: what --all takes.
MOST = 1000


@click.group(
    short_help="List, requeue or delete messages that were set aside.",
    epilog=examples(
        "dagster-taskiq rejected list",
        "dagster-taskiq rejected requeue --all",
    ),
)
def rejected() -> None:
    """Messages that workers have set aside: unreadable, or handed out again and again.

    Nothing executes them. List them to see why, then requeue or delete them.
    """


@rejected.command(
    "list",
    short_help="List them, with the reason of each.",
    epilog=examples(
        "dagster-taskiq rejected list",
        "dagster-taskiq rejected list --limit 1000 --json",
    ),
)
@connection_options
@click.option(
    "--limit",
    type=click.IntRange(1, MOST),
    default=LISTED,
    show_default=True,
    help="How many to list.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_rejected(
    broker: str | None,
    backend: str | None,
    config_yaml: Path | None,
    app: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """List them: where they came from, why they were set aside, and how they begin."""
    client = _client(broker, backend, config_yaml, app)
    found = client.rejected_messages(limit)
    if as_json:
        click.echo(json.dumps([asdict(each) for each in found], indent=2))
        return
    columns = ("id", "queue", "task", "set aside", "size", "reason", "begins with")
    show("Set aside", columns, [_row(each) for each in found], narrower=_NARROWER)
    count = client.rejected()
    if count > len(found):
        click.echo(f"There are {count}; see --limit.")


@rejected.command(
    short_help="Put messages back into their queues.",
    epilog=examples(
        "dagster-taskiq rejected requeue --all",
        "dagster-taskiq rejected requeue 1732962001123-0",
    ),
)
@connection_options
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--all", "everything", is_flag=True, help=f"All of them, up to {MOST}.")
def requeue(
    broker: str | None,
    backend: str | None,
    config_yaml: Path | None,
    app: str | None,
    ids: tuple[str, ...],
    everything: bool,
) -> None:
    """Put messages back into their queues, by their IDs, to be delivered as if for the first time.

    Do so when a worker can use them: one that cannot sets them aside again. A task of your own that
    has failed because its message was set aside runs then.
    """
    client = _client(broker, backend, config_yaml, app)
    chosen = _chosen(client, ids, everything)
    _report("requeued", chosen, client.requeue(chosen))


@rejected.command(epilog=examples("dagster-taskiq rejected delete 1732962001123-0"))
@connection_options
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--all", "everything", is_flag=True, help=f"All of them, up to {MOST}.")
def delete(
    broker: str | None,
    backend: str | None,
    config_yaml: Path | None,
    app: str | None,
    ids: tuple[str, ...],
    everything: bool,
) -> None:
    """Delete messages for good, by their IDs."""
    client = _client(broker, backend, config_yaml, app)
    chosen = _chosen(client, ids, everything)
    _report("deleted", chosen, client.delete_rejected(chosen))


def _client(
    broker: str | None, backend: str | None, config_yaml: Path | None, app: str | None
) -> "Client":
    from dagster_taskiq.client import client_for

    return client_for(settings_from(broker, backend, config_yaml, app))


#: What makes their table narrower. An id stays whole, since the other commands want it.
_NARROWER: list[Narrower] = [
    ("task", middle_left_out),
    ("begins with", lambda text: middle_left_out(text, 30)),
    ("size", None),
    ("begins with", None),
]


def _row(message: RejectedMessage) -> tuple[str, ...]:
    at = message.rejected_at
    return (
        message.id,
        message.queue,
        message.task_id,
        "-" if at is None else datetime.fromtimestamp(at).astimezone().isoformat(" ", "seconds"),
        f"{message.size} B{'' if message.is_whole else ', cut off'}",
        message.reason,
        message.preview,
    )


def _chosen(client: "Client", ids: Sequence[str], everything: bool) -> list[str]:
    if bool(ids) == everything:
        raise click.UsageError("Name the messages by their ids, or give --all.")
    return [each.id for each in client.rejected_messages(MOST)] if everything else list(ids)


def _report(what: str, chosen: Sequence[str], done: Sequence[str]) -> None:
    """Print what was done; exit with 1 if some of it was not."""
    click.echo(f"{len(done)} message(s) {what}.")
    left = [each for each in chosen if each not in done]
    if left:
        raise click.ClickException(
            f"Not {what}: {', '.join(left)}. They are not there any more, are being looked at by "
            "another process, or were too large to be kept whole, and can only be deleted. See "
            "`dagster-taskiq rejected list`."
        )
