"""The YAML file of ``-y``: an executor's config."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    from dagster._config import process_config  # noqa: PLC0415
    from dagster._core.errors import DagsterInvalidConfigError  # noqa: PLC0415

    from dagster_celery._executor import celery_executor  # noqa: PLC0415

    value = get_config_value_from_yaml(config_yaml)
    outcome = process_config(celery_executor.config_schema.config_type, dict(value))
    if not outcome.success:
        raise DagsterInvalidConfigError(
            f"Errors while loading Celery executor config at {config_yaml}.",
            outcome.errors,
            value,
        )
    return outcome.value


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
