"""Reading environment variables: this project's own, and those that a configuration names."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dagster_taskiq.errors import ConfigError

if TYPE_CHECKING:
    from dagster import DagsterInstance

#: The variables that are read if the configuration names no broker or backend.
BROKER_ENV = "DAGSTER_TASKIQ_BROKER"
BACKEND_ENV = "DAGSTER_TASKIQ_BACKEND"

#: Dagster's own variable: the directory of its instance.
HOME_ENV = "DAGSTER_HOME"


def read_variable(name: str) -> str | None:
    """Return the value of an environment variable; ``None`` if it is not set.

    One that is set to nothing is most often ``X=$Y`` with a ``Y`` that is not set. A default in
    its place could be another server than the one that was meant, so it is refused.

    Raises:
        ConfigError: it is empty, or blank.
    """
    value = os.environ.get(name)
    if value is not None and not value.strip():
        raise ConfigError(
            f"The environment variable {name} is set, but empty. Give it a value, or unset it."
        )
    return value


def copy_environment(environ: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return a copy of all variables, which are encoded, to be compared with a later one.

    Args:
        environ: ``os.environ``, or what has been put in its place.
    """
    # The dictionary inside of os.environ, if there is one: a hundred times faster to copy than
    # os.environ, which decodes every variable.
    inner = getattr(environ, "_data", None)
    if isinstance(inner, dict):
        return dict(inner)
    return {os.fsencode(name): os.fsencode(value) for name, value in environ.items()}


def read_home() -> Path | None:
    """Return the directory that ``$DAGSTER_HOME`` names; ``None`` if it is not set, or empty.

    Raises:
        ConfigError: as :func:`checked_home`.
    """
    home = os.environ.get(HOME_ENV)
    return checked_home(home) if home else None


def checked_home(home: str) -> Path:
    """Return the path of a Dagster home that exists, by Dagster's own rules.

    One that does not exist is never made: if its name is misspelt, or relative to some working
    directory, workers and runs would use different ones.

    Args:
        home: the directory; a leading ``~`` stands for the user's own.

    Raises:
        ConfigError: it is relative, or no directory that exists.
    """
    directory = Path(home).expanduser()
    if not directory.is_absolute():
        raise ConfigError(
            f'$DAGSTER_HOME must be the absolute path of a directory, but it is "{home}".'
        )
    if not directory.is_dir():
        raise ConfigError(
            f'$DAGSTER_HOME "{directory}" is not a directory or does not exist. Make it, or name '
            "another one; workers and runs must have the same."
        )
    return directory


def home_of(instance: "DagsterInstance") -> str | None:
    """Return the directory whose embedded broker serves ``instance``.

    ``$DAGSTER_HOME`` first, since a worker looks there; else the instance's own.
    """
    return os.environ.get(HOME_ENV) or (instance.root_directory if instance.is_persistent else None)


def resolve_env(value: Any) -> Any:
    """Return ``value`` with every ``{"env": NAME}`` in it, at any depth, replaced by ``$NAME``.

    Raises:
        ConfigError: the variable is not set, or empty.
    """
    if isinstance(value, Mapping):
        if set(value) == {"env"} and isinstance(value["env"], str):
            found = read_variable(value["env"])
            if found is None:
                raise ConfigError(
                    f"The configuration reads the environment variable {value['env']}, which is "
                    "not set in this process."
                )
            return found
        return {key: resolve_env(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [resolve_env(each) for each in value]
    return value
