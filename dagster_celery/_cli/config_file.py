"""The YAML file of ``-y``: an executor's config."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dagster_celery._defaults import result_backend
from dagster_celery._warnings import warn_of_loss
from dagster_taskiq.errors import ConfigError

if TYPE_CHECKING:
    from dagster_celery._celery_app.app import CeleryApp


def get_config_value_from_yaml(yaml_path: str | None) -> Mapping[str, Any]:
    """Return an executor's config from a file, unchecked.

    Args:
        yaml_path: the file, with the config under ``execution: config:``, under the older
            ``execution: celery:`` or at its top; ``None`` for an empty config.

    Raises:
        ConfigError: the file is not YAML, or no mapping.
    """
    if yaml_path is None:
        return {}
    import yaml  # noqa: PLC0415

    try:
        document = yaml.safe_load(Path(yaml_path).read_text()) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"{yaml_path} is not valid YAML: {error}") from None
    if not isinstance(document, dict):
        raise ConfigError(f"{yaml_path} must hold `execution: config:` with the executor's config.")
    if "execution" not in document:
        return _at_top(document, yaml_path)
    execution = document["execution"] or {}
    config = execution.get("config") or execution.get("celery") or {}
    return dict(config)


def get_validated_config(config_yaml: str | None = None) -> Any:
    """Return an executor's config from a file, checked and completed by Dagster.

    Args:
        config_yaml: as for :func:`get_config_value_from_yaml`.

    Raises:
        ConfigError: as :func:`get_config_value_from_yaml`.
        DagsterInvalidConfigError: an unknown key, or a value of the wrong type.
    """
    return _validated(get_config_value_from_yaml(config_yaml), config_yaml)


def _validated(value: Mapping[str, Any], config_yaml: str | None) -> Any:
    """Return what was read from a file, checked and completed by Dagster."""
    from dagster._config import process_config  # noqa: PLC0415
    from dagster._core.errors import DagsterInvalidConfigError  # noqa: PLC0415

    from dagster_celery._executor import celery_executor  # noqa: PLC0415

    outcome = process_config(celery_executor.config_schema.config_type, dict(value))
    if not outcome.success:
        raise DagsterInvalidConfigError(
            f"Errors while loading Celery executor config at {config_yaml}.",
            outcome.errors,
            value,
        )
    return outcome.value


def get_worker_config(config_yaml: str | None) -> Mapping[str, Any]:
    """Return what a worker needs of an executor's config in a file, checked and completed.

    One that is plainly right is not checked by Dagster: a worker's first process, which keeps what
    it imports, has no other use for that.

    Args:
        config_yaml: as for :func:`get_config_value_from_yaml`.

    Raises:
        as :func:`get_validated_config`.
    """
    value = get_config_value_from_yaml(config_yaml)
    if _is_plain(value):
        named = {name: _resolved(each) for name, each in value.items() if _PLAIN[name] is _is_url}
        return {"backend": result_backend, **value, **named}
    validated: Mapping[str, Any] = _validated(value, config_yaml)
    return validated


def get_app(config_yaml: str | None = None) -> "CeleryApp":
    """Return the app for the config in a file.

    Args:
        config_yaml: as for :func:`get_config_value_from_yaml`.

    Raises:
        ConfigError: as :func:`get_config_value_from_yaml`; or a setting or URL cannot be
            translated.
        DagsterInvalidConfigError: as :func:`get_validated_config`.
    """
    from dagster_celery._executor import CeleryExecutor  # noqa: PLC0415
    from dagster_celery._make_app import make_app  # noqa: PLC0415

    names = ("broker", "backend", "include", "config_source")
    config = get_validated_config(config_yaml)
    executor = CeleryExecutor.for_cli(**{name: config.get(name) for name in names})
    return make_app(executor.app_args())


def _at_top(document: Mapping[str, Any], path: str) -> Mapping[str, Any]:
    """Return the config of a file that has no ``execution:``: its own keys, if they are a config's.

    Any other file counts as an empty config, as in dagster-celery, with a warning.
    """
    from dagster_celery._executor import CELERY_CONFIG  # noqa: PLC0415

    if set(document) <= set(CELERY_CONFIG):
        return document
    warn_of_loss(
        f"{path} has no `execution: config:`, so nothing of it is used and all defaults hold. It "
        f"begins with {next(iter(document))!r}; is it another kind of file?",
        path,
    )
    return {}


def _is_plain(config: Mapping[str, Any]) -> bool:
    """Whether Dagster accepts a config, as far as that can be told without it."""
    return all(name in _PLAIN and _PLAIN[name](value) for name, value in config.items())


def _is_url(value: object) -> bool:
    if isinstance(value, dict):
        name = value.get("env")
        return len(value) == 1 and isinstance(name, str) and bool(os.environ.get(name))
    return value is None or isinstance(value, str)


def _is_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _is_settings(value: object) -> bool:
    return value is None or (isinstance(value, dict) and _is_data(value))


def _is_data(value: object) -> bool:
    if isinstance(value, dict):
        return all(isinstance(name, str) and _is_data(each) for name, each in value.items())
    if isinstance(value, list):
        return all(_is_data(each) for each in value)
    return value is None or isinstance(value, str | int | float)


#: What a plain config has, and how its values are recognized.
_PLAIN: Mapping[str, Callable[[object], bool]] = {
    "broker": _is_url,
    "backend": _is_url,
    "include": _is_names,
    "config_source": _is_settings,
}


def _resolved(url: Any) -> Any:
    """Return a URL, or the value of the variable that is named in its place."""
    return os.environ[url["env"]] if isinstance(url, dict) else url
