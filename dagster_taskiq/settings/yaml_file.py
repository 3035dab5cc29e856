"""Settings in a YAML file, as ``--config`` of a worker names one."""

from collections.abc import Mapping
from pathlib import Path

import yaml

from dagster_taskiq.errors import ConfigError
from dagster_taskiq.settings.settings import Settings


def read_settings(path: str | Path, instead: Mapping[str, str] | None = None) -> Settings:
    """Read settings from a YAML file.

    Args:
        path: the file. It has the keys of the executor, bare or under ``execution: config:`` as in
            a run config.
        instead: settings that count in place of those of the file.

    Raises:
        ConfigError: no such file, not YAML, an unknown key, or a value of the wrong type.
    """
    source = Path(path)
    try:
        document = yaml.safe_load(source.read_text()) or {}
    except OSError as error:
        raise ConfigError(f"Cannot read the config file {source}: {error.strerror}.") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{source} is not valid YAML: {error}") from None
    if not isinstance(document, dict):
        raise ConfigError(f"{source} must hold a mapping of settings, such as `broker: ...`.")
    if "execution" in document:
        execution = document["execution"] or {}
        document = execution.get("config") if isinstance(execution, dict) else execution
    # Imported here: it imports Dagster, which takes seconds, and which a command that is configured
    # by its options or the environment does not need.
    from dagster_taskiq.settings.schema import checked  # noqa: PLC0415

    return Settings.from_dict({**checked(document or {}, str(source)), **(instead or {})})
