"""Options that several commands share, and the settings they make."""

import importlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import click

from dagster_taskiq.brokers.base import QueueBroker
from dagster_taskiq.client import Client, client_for
from dagster_taskiq.errors import ConfigError
from dagster_taskiq.settings import BACKEND_ENV, BROKER_ENV, Settings

F = TypeVar("F", bound=Callable[..., Any])

#: The attributes of a module that may hold a broker, in the order they are looked for.
APP_ATTRIBUTES = ("broker", "app")


def connection_options(function: F) -> F:
    """Add the options that say which broker and backend a command is about."""
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
            "--broker", "-b", help=f"URL of the broker. Default: ${BROKER_ENV}, else embedded://."
        ),
    ):
        function = option(function)
    return function


def settings_from(
    broker: str | None, backend: str | None, config_yaml: Path | None, app: str | None
) -> Settings:
    """Return the settings the options of :func:`connection_options` ask for.

    Raises:
        ConfigError: the file, the module or a URL cannot be used.
    """
    if config_yaml is not None:
        settings = Settings.from_yaml(config_yaml)
    elif app is not None:
        settings = _settings_of_app(app)
    else:
        settings = Settings.from_dict({})
    if app is not None:
        settings = replace(settings, include=(*settings.include, app.partition(":")[0]))
    if broker is not None:
        # Another server: what the file says of the backend belongs to the one it names.
        settings = replace(settings, broker=broker, backend=None if backend else settings.backend)
    if backend is not None:
        settings = replace(settings, backend=backend)
    return settings.resolved()


def open_client(settings: Settings) -> Client:
    """Return a client that is connected.

    Raises:
        BrokerUnreachableError: broker or backend does not answer.
    """
    return client_for(settings)


def split_commas(values: Sequence[str]) -> tuple[str, ...]:
    """Return the parts of repeated options that may hold comma lists, in order, each once."""
    parts = [part.strip() for value in values for part in value.split(",")]
    return tuple(dict.fromkeys(part for part in parts if part))


def _settings_of_app(app: str) -> Settings:
    module_name, _, name = app.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError(
            f"Cannot import the module {module_name} that -A names: {error}"
        ) from None
    for each in (name,) if name else APP_ATTRIBUTES:
        found = getattr(module, each, None)
        if isinstance(found, QueueBroker):
            return found.settings
    raise ConfigError(
        f"The module {module_name} that -A names has no broker of dagster_taskiq as "
        f"{name or ' or '.join(APP_ATTRIBUTES)}. Make one with dagster_taskiq.app.make(settings)."
    )
