"""What is left of one side when the other is to take over, and how that is shown."""

from collections.abc import Sequence
from dataclasses import dataclass

import click

from dagster_celery._upgrade.left_queues import LeftQueues, QueueCount
from dagster_celery._upgrade.messages import CeleryMessage
from dagster_celery._upgrade.runs import Runs, SentRun
from dagster_taskiq.cli.tables import show
from dagster_taskiq.client import Client

#: How many runs are shown at most.
MOST_RUNS = 50


@dataclass(frozen=True)
class Leftovers:
    """What has been sent by one side and has not ended."""

    queues: tuple[QueueCount, ...]
    runs: tuple[SentRun, ...]
    #: Messages whose steps are executed here, and whose run loops have not been answered.
    kept: tuple[CeleryMessage, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether nothing is left."""
        return not (self.kept or self.runs) and all(each.is_empty for each in self.queues)

    @property
    def messages(self) -> int:
        """How many messages are in the queues, as far as can be seen."""
        return sum(each.waiting + (each.taken or 0) for each in self.queues)


def leftovers_of_celery(
    queues: LeftQueues, names: Sequence[str], runs: Runs | None, only_these: bool
) -> Leftovers:
    """Return what dagster-celery has left.

    Args:
        queues: Celery's queues.
        names: of the queues that are known.
        runs: the runs; ``None`` if there is no Dagster instance.
        only_these: whether queues that the logs and tags of runs name are left out.
    """
    sent = runs.sent_by_celery() if runs is not None else []
    more = () if only_these else (queue for each in sent for queue in each.queues)
    counts = queues.count(list(dict.fromkeys((*names, *more))))
    return Leftovers(tuple(counts), tuple(sent), tuple(queues.kept()))


def leftovers_of_ours(client: Client, runs: Runs | None) -> Leftovers:
    """Return what this package has sent and what has not ended: before the way back.

    Args:
        client: the connection to broker and backend.
        runs: the runs; ``None`` if there is no Dagster instance.
    """
    counts = [QueueCount(each.queue, each.waiting, each.claimed, None) for each in client.depths()]
    if runs is None:
        return Leftovers(tuple(counts), ())
    sent = {each.run.run_id: each for each in runs.sent_here()}
    for worker in client.workers():
        for task in () if worker.is_lost else worker.running:
            run = None if task.run_id in sent else runs.get(task.run_id)
            if run is not None:
                sent[run.run_id] = SentRun(run, f"its steps, to worker {worker.name}")
    return Leftovers(tuple(counts), tuple(sent.values()))


def show_leftovers(left: Leftovers, title: str) -> None:
    """Print what is left, as tables.

    Args:
        left: what is.
        title: of the table of queues.
    """
    rows = [
        (
            each.queue,
            str(each.waiting),
            "?" if each.taken is None else str(each.taken),
            "" if each.consumers is None else str(each.consumers),
        )
        for each in left.queues
    ]
    show(title, ("queue", "waiting", "taken", "consumers"), rows)
    if any(each.taken is None for each in left.queues):
        click.echo(
            "?: what consumers have taken and not acknowledged cannot be seen over AMQP; it is in "
            "its queue again when they have ended."
        )
    if left.kept:
        click.echo(f"{len(left.kept)} step(s) of a rescue that has not come to its end.")
    if left.runs:
        shown = [(each.run.run_id, each.run.status.value, each.sent) for each in left.runs]
        show("Runs that have not ended", ("run", "status", "sent"), shown[:MOST_RUNS])
        if len(shown) > MOST_RUNS:
            click.echo(f"... and {len(shown) - MOST_RUNS} more.")
