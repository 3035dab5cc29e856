"""Options that several commands share, and the settings they make."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from dagster_taskiq.errors import ConfigError
from dagster_taskiq.settings.env import BACKEND_ENV, BROKER_ENV

if TYPE_CHECKING:
    from dagster_taskiq.settings.settings import Settings
    from dagster_taskiq.transport.broker import QueueBroker

F = TypeVar("F", bound=Callable[..., Any])

#: The severities of messages, by the names that ``logging`` has for them.
LEVELS = ["debug", "info", "warning", "error", "critical"]


def examples(*commands: str) -> str:
    """Return the end of a command's help: examples, each a line that can be typed as it is."""
    # \b is how click is told to leave line breaks where they are.
    return "\n".join(["\b", "Examples:", *(f"  {command}" for command in commands)])


def connection_options(function: F) -> F:
    """Add the options for the broker and backend of a command."""
    for option in (
        click.option(
            "-A",
            "--app",
            metavar="MODULE[:NAME]",
            help="Take the settings of a broker in this module, and include the module.",
        ),
        click.option(
            "-y",
            "--config-yaml",
            type=click.Path(path_type=Path),
            help="A YAML file with the executor's config, bare or under `execution: config:`.",
        ),
        click.option(
            "--backend", help=f"URL of the backend. Default: ${BACKEND_ENV}, else the broker's."
        ),
        click.option(
            "--broker",
            "-b",
            help=f"URL of the broker. Default: ${BROKER_ENV}, else the PostgreSQL of Dagster's "
            "storage, else embedded://.",
        ),
    ):
        function = option(function)
    return function


def loglevel_option(what: str) -> Callable[[F], F]:
    """Return what adds the option for the messages that a process logs.

    Args:
        what: the process, for the help.
    """
    return click.option(
        "-l",
        "--loglevel",
        default="info",
        show_default=True,
        type=click.Choice(LEVELS, case_sensitive=False),
        help=f"The least severe messages that the {what} logs.",
    )


def settings_from(
    broker: str | None, backend: str | None, config_yaml: Path | None, app: str | None
) -> "Settings":
    """Return the settings the options of :func:`connection_options` ask for.

    Raises:
        ConfigError: the file, the module or a URL cannot be used.
    """
    from dagster_taskiq.settings.settings import Settings
    from dagster_taskiq.settings.yaml_file import read_settings
    from dagster_taskiq.transport.current import load

    given = {"broker": broker, "backend": backend}
    named = {name: url for name, url in given.items() if url is not None}
    if config_yaml is not None:
        settings = read_settings(config_yaml, named)
    elif app is not None:
        settings = load(app).settings.replace(**named)
    else:
        settings = Settings.from_dict(named)
    return settings.resolved()


def note_default_broker(broker: str | None, config_yaml: Path | None, app: str | None) -> None:
    """Say that it is the default broker which is looked at, if neither options nor environment
    name one: what is shown is right of that one, and the workers may be on another.
    """
    if not any((broker, config_yaml, app, os.environ.get(BROKER_ENV))):
        click.echo(
            "This is the default broker, since none was named. If the workers are on another, "
            f"name it by -b, -y, -A or ${BROKER_ENV}.",
            err=True,
        )


def broker_from(
    broker: str | None, backend: str | None, config_yaml: Path | None, app: str | None
) -> "QueueBroker":
    """Return the broker a worker listens to, with the middlewares and tasks of ``app`` on it.

    Raises:
        ConfigError: as :func:`settings_from`; or the module's own broker is another one than the
            other options ask for.
    """
    from dagster_taskiq.transport.current import load, use

    if app is None:
        return use(settings_from(broker, backend, config_yaml, None))
    if broker is None and backend is None and config_yaml is None:
        return load(app)
    # Made before the module is imported, so that it is what the module imports from here.
    current = use(settings_from(broker, backend, config_yaml, None))
    found = load(app)
    if found is not current:
        raise ConfigError(
            f"{app} makes a broker with settings of its own ({found.settings!r}), which --broker, "
            "--backend and --config-yaml cannot change. Leave them out, or let the module use "
            "dagster_taskiq.app.broker."
        )
    return current


def split_commas(values: Sequence[str]) -> tuple[str, ...]:
    """Return the parts of repeated options that may hold comma lists, in order, each once."""
    parts = [part.strip() for value in values for part in value.split(",")]
    return tuple(dict.fromkeys(part for part in parts if part))
