"""The answer to ``celery -A``, Celery's own command, where that is still installed beside us.

It finds the app here, and cannot use it: it speaks to Celery's workers, and there are none.
"""

from collections.abc import Mapping

import click

#: What to run instead of each command of ``celery``. A place for the app and the file of ``-y``.
_INSTEAD: Mapping[str, str] = {
    "control": "run `dagster-celery worker terminate NAME -y FILE`, or `dagster-taskiq worker -h`",
    "inspect": "run `dagster-celery worker list -y FILE`, or `dagster-taskiq status`",
    "status": "run `dagster-celery status -A {app} -y FILE`",
    "worker": "run `dagster-celery worker start -A {app} -y FILE`",
    "beat": "run `dagster-celery scheduler start -A {app} -y FILE`",
    "events": "run `dagster-taskiq top`, or `dagster-taskiq monitor` for a web page",
    "flower": (
        "run `dagster-taskiq monitor`, whose --celery-names keep the metrics of Flower's boards"
    ),
}
#: What shows what waits and what runs.
_SHOWS = "run `dagster-taskiq status` and `dagster-taskiq worker list`"


class CeleryCommandError(click.ClickException):
    """``celery -A`` was run on an app of this package; the text names the command to run."""

    exit_code = 2


def celery_command_refused() -> CeleryCommandError:
    """Return the error for the command of ``celery`` that runs now, as one sentence."""
    context = click.get_current_context(silent=True)
    command = (context.invoked_subcommand if context else None) or ""
    app = (context.params.get("app") if context else None) or "APP"
    instead = _INSTEAD.get(command, _SHOWS).format(app=app)
    return CeleryCommandError(
        f"`celery {command or '-A'}` speaks to Celery's workers, and {app} runs on dagster-taskiq: "
        f"{instead}."
    )
