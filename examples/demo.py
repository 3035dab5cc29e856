"""``python -m examples.demo``: a project of dagster-celery's users, not a line of it changed.

It starts the workers that the project's ``docker-compose.yaml`` names, launches both jobs with the
project's own run launcher, and shows what happened, what came out of it, and what the warnings
would have its author rename. The exit code is 0 when everything went as it should, 1 when something
did not, and 130 after Ctrl-C. It leaves no process behind.
"""

import json
import signal
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import groupby
from pathlib import Path

import click
from dagster import DagsterEventType, DagsterInstance, DagsterRun, DagsterRunStatus
from dagster._core.utils import make_new_run_id

from dagster_taskiq.cli.run_view import following
from dagster_taskiq.cli.tables import show
from dagster_taskiq.demo.facts import Fact
from dagster_taskiq.demo.home import end_signals
from dagster_taskiq.demo.progress import showing
from dagster_taskiq.demo.story import Outcome, RunStory
from examples.deployment import (
    HERE,
    RENAMED,
    UNTOUCHED,
    UNTOUCHED_ENVIRONMENT,
    Deployment,
    DeploymentError,
    OlderName,
)

#: The job whose steps are spread over both queues, and the one that is a single task.
SPREAD, WHOLE = JOBS = ("flood_report", "week_of_levels")
#: The step whose first attempt fails, since the line of its station is busy.
RETRIED = "read_gauge[oxmead]"
QUEUES = {"dagster", "crunch"}
#: What is shown of the warnings: how many files, and how wide a line is.
MOST_PLACES = 5
LINE_WIDTH = 110
PLACE_WIDTH = 38
#: What warnings about environment variables have in place of a file.
ENVIRONMENT = "<environment>"
#: What warnings about commands have in place of one.
COMMAND_LINE = "<dagster-celery>"
STATIONS = ["upford", "millbridge", "oxmead", "eastport"]

_COLUMNS = ("job", "step", "queue", "worker", "attempts", "seconds")


def main() -> None:
    """Run the demo, and exit."""
    # Ctrl-C, SIGTERM and a closed terminal are heeded between two looks at what is waited for, so
    # that no process is started and then forgotten.
    ended = threading.Event()
    for number in end_signals():
        signal.signal(number, lambda *_: ended.set())

    def look() -> None:
        if ended.is_set():
            raise KeyboardInterrupt

    try:
        with tempfile.TemporaryDirectory(
            prefix="dagster-celery-demo-", ignore_cleanup_errors=True
        ) as directory:
            project = Deployment(UNTOUCHED, Path(directory), UNTOUCHED_ENVIRONMENT, look)
            succeeded = show_off(project)
    except KeyboardInterrupt:
        click.echo("Interrupted.", err=True)
        sys.exit(130)
    except DeploymentError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(1)
    sys.exit(0 if succeeded else 1)


def show_off(deployment: Deployment) -> bool:
    """Run the project's jobs, and print what happened; return whether all facts hold.

    Raises:
        DeploymentError: a worker or a run did not come to its end.
    """
    project = _relative(deployment.project)
    click.echo(f"Project {project}, as it is, on a broker with nothing to install\n")
    with ExitStack() as stack:
        with showing("Making Dagster's storage, in a temporary directory"):
            instance = stack.enter_context(deployment.instance())
        with _workers(deployment):
            click.echo(f"Launching {' and '.join(JOBS)} with its own run launcher ...")
            run_ids = [make_new_run_id() for _ in JOBS]
            with following(instance, dict(zip(run_ids, JOBS, strict=True))):
                deployment.launch(dict(zip(JOBS, run_ids, strict=True)))
                runs = [deployment.wait_for_end(instance, run_id) for run_id in run_ids]
        stories = [RunStory.from_event_log(instance, run_id) for run_id in run_ids]
        queues = _show_steps(instance, runs, stories)
    facts = _facts(deployment, runs, stories, queues)
    for fact in facts:
        mark = click.style("ok ", fg="green") if fact.holds else click.style("NOT", fg="red")
        click.echo(f"  {mark}  {fact.statement}")
    _show_older_names(deployment.older_names())
    return all(fact.holds for fact in facts)


@contextmanager
def _workers(deployment: Deployment) -> Iterator[None]:
    """Start the workers, and end them with the context; at once where something went wrong."""
    click.echo("Starting its workers, by the commands of its docker-compose.yaml ...")
    for command in deployment.commands.values():
        click.echo(f"  $ {command}")
    at_once = True
    try:
        with showing("Waiting until they are there"):
            deployment.start_workers()
        yield
        at_once = False
    finally:
        with showing("Ending its workers"):
            deployment.stop(at_once)


def _show_steps(
    instance: DagsterInstance, runs: Sequence[DagsterRun], stories: Sequence[RunStory]
) -> set[str]:
    """Print what ran where; return the queues that steps have waited in."""
    rows = []
    queues = set()
    for run, story in zip(runs, stories, strict=True):
        places = _places(instance, run.run_id)
        whole = places.get(None, {})
        for key, step in story.steps.items():
            # A step that was not sent anywhere ran where its run did.
            place = {**whole, **places.get(key, {})}
            queues.add(place.get("queue", ""))
            where = (place.get("queue", ""), place.get("worker", ""))
            rows.append(
                (run.job_name, key, *where, str(step.attempts), f"{step.seconds(time.time()):.1f}")
            )
    click.echo()
    show("What happened, by Dagster's event log", _COLUMNS, rows)
    click.echo()
    return queues


def _places(instance: DagsterInstance, run_id: str) -> dict[str | None, dict[str, str]]:
    """Return the queue and the worker of each step, and those of the whole run as ``None``."""
    places: dict[str | None, dict[str, str]] = {}
    for entry in instance.all_logs(run_id, of_type=_TELLING):
        event = entry.dagster_event
        if event is not None and event.event_specific_data is not None:
            metadata = event.engine_event_data.metadata
            said = {
                name: str(metadata[name].value) for name in ("queue", "worker") if name in metadata
            }
            places.setdefault(event.step_key, {}).update(said)
    return places


_TELLING = {
    DagsterEventType.ENGINE_EVENT,
    DagsterEventType.STEP_WORKER_STARTING,
    DagsterEventType.STEP_WORKER_STARTED,
}


def _facts(
    deployment: Deployment,
    runs: Sequence[DagsterRun],
    stories: Sequence[RunStory],
    queues: set[str],
) -> list[Fact]:
    """Return what must be true after both runs, for the demo to be a success."""
    steps = [step for story in stories for step in story.steps.values()]
    retried = stories[0].steps.get(RETRIED)
    report = deployment.reports / f"{SPREAD}.json"
    found = [each["station"] for each in json.loads(report.read_text())] if report.exists() else []
    days = deployment.reports / "flood_days.csv"
    rows = days.read_text().splitlines()[1:] if days.exists() else []
    return [
        Fact(
            f"{' and '.join(JOBS)} were launched, and succeeded",
            all(run.status is DagsterRunStatus.SUCCESS for run in runs),
        ),
        Fact(
            f"{len(steps)} steps ran, each succeeded once, and both queues were used",
            all(step.successes == 1 for step in steps) and queues == QUEUES,
        ),
        Fact(
            f"{RETRIED} failed, and was retried by its op's RetryPolicy",
            retried is not None and retried.outcome is Outcome.SUCCEEDED and retried.attempts == 2,
        ),
        Fact(f"{report.name} has the crests of {len(found)} stations", found == STATIONS),
        Fact(f"{days.name} has {len(rows)} days of flood", bool(rows)),
    ]


def _show_older_names(names: Sequence[OlderName]) -> None:
    """Print what is left to rename, as the processes of the project were warned of it."""
    # The variables that name the broker are the demo's, and no part of the project.
    theirs = [name for name in names if name.file != ENVIRONMENT]
    if not theirs:
        click.echo("\nNo older name is left.")
        return
    places = older_places(theirs)
    click.echo("\nNothing has to be renamed. What may be, by warnings:\n")
    for place in places[:MOST_PLACES]:
        click.echo(f"  {place}")
    if len(places) > MOST_PLACES:
        click.echo(f"  and {len(places) - MOST_PLACES} more files")
    click.echo(f"\nThe same project, with all of that done: {_relative(RENAMED)}")


def older_places(names: Sequence[OlderName]) -> list[str]:
    """Return a line for each file with older names: its lines, and the first of its warnings.

    A warning that is in a file of the project is not told again for what was made from that file,
    such as the worker's copy of a configuration.
    """
    own = {name.text for name in names if (UNTOUCHED / name.file).exists()}
    told = [name for name in names if name.text not in own or (UNTOUCHED / name.file).exists()]
    lines = []
    for file, group in groupby(told, key=lambda name: name.file):
        found = list(group)
        numbers = ",".join(map(str, sorted({name.line for name in found})))
        place = "its commands" if file == COMMAND_LINE else f"{file}:{numbers}"
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        width = LINE_WIDTH - len(more) - PLACE_WIDTH - 4
        # The name of a command says more than that of its option.
        first = min(found, key=lambda name: name.text.startswith("-"))
        text = textwrap.shorten(first.text, width, placeholder=" ...")
        lines.append(f"{place:<{PLACE_WIDTH}}  {text}{more}")
    return lines


def _relative(project: Path) -> str:
    return str(project.relative_to(HERE.parent))


if __name__ == "__main__":
    main()
