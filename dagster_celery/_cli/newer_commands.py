"""The warning about a command that has a new name."""

import shlex
from collections.abc import Sequence

from dagster_celery._translate.names import COMMANDS
from dagster_taskiq.deprecations import warn_older

#: The file that warnings about a command name; no file has such a name.
COMMAND_LINE = "<dagster-celery>"


def warn_of_command(command: str, arguments: Sequence[str] = ()) -> None:
    """Warn that a command of ``dagster-celery`` is one of ``dagster-taskiq`` now.

    Args:
        command: its name, such as ``worker start``.
        arguments: those of the new command.
    """
    newer = shlex.join([*COMMANDS[command].split(), *arguments])
    text = f"the command dagster-celery {command} is now: {newer}"
    warn_older(f"{text} (and -b URL, or -y with a config of taskiq_executor).", COMMAND_LINE)
