"""The commands: ``dagster-taskiq worker ...``, ``status``, ``storage``, ``demo``, ..."""

from importlib import import_module

import click

from dagster_taskiq.cli.options import examples
from dagster_taskiq.version import __version__


class _Commands(click.Group):
    """The commands, each in the module of its name, which is imported when it is asked for.

    Help and completion import these modules too, so what takes long to import (Dagster, taskiq,
    rich, clients of servers) is imported by the functions that need it.
    """

    NAMES = (
        "demo",
        "monitor",
        "rejected",
        "scheduler",
        "stand-in",
        "status",
        "storage",
        "top",
        "worker",
    )

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names (click's own hook)."""
        return list(self.NAMES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command (click's own hook)."""
        if cmd_name not in self.NAMES:
            return None
        name = cmd_name.replace("-", "_")
        found: click.Command = getattr(import_module(f"{__package__}.{name}"), name)
        return found


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=examples(
        "dagster-taskiq demo",
        "dagster-taskiq worker start --queue dagster --concurrency 4",
        "dagster-taskiq status",
    )
    + "\n\n\b\nCompletion in this bash (zsh and fish have it too, see docs/reference/cli.md):"
    + '\n  eval "$(_DAGSTER_TASKIQ_COMPLETE=bash_source dagster-taskiq)"',
)
@click.version_option(__version__, prog_name="dagster-taskiq")
def cli() -> None:
    """Run Dagster on a task queue."""
