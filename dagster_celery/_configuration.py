"""The engine's settings for a project that is configured with Celery's.

The first of these that has a value counts: Celery's environment variables, the arguments, the
Celery settings in ``config_source``, the worker that this process belongs to, the environment
variables of dagster-taskiq, the defaults of dagster-celery.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dagster_celery._defaults import (
    broker_transport_options,
    broker_url,
    result_backend,
    task_default_priority,
    task_default_queue,
)
from dagster_celery._translate.rows import Remark
from dagster_celery._translate.settings.translate import translate_settings
from dagster_celery._warnings import warn_of_loss, warn_user
from dagster_taskiq.deprecations import line_with, warn_older
from dagster_taskiq.errors import ConfigError
from dagster_taskiq.settings.env import BACKEND_ENV, BROKER_ENV, read_variable
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.settings.sqs_names import QUEUE_URL_ENV
from dagster_taskiq.settings.worker_fleet import worker_settings

#: The Celery settings of every app of dagster-celery.
DEFAULT_CONFIG: dict[str, Any] = {
    "worker_prefetch_multiplier": 1,
    "broker_transport_options": broker_transport_options,
    "task_default_priority": task_default_priority,
    "task_default_queue": task_default_queue,
}

#: The module with a worker's settings, which ``dagster-celery worker start -y`` writes.
CONFIG_MODULE = "dagster_celery_config"
#: The environment variable with the file that the module was written from, for warnings.
CONFIG_FILE_ENV = "DAGSTER_CELERY_CONFIG_FILE"

#: Celery's environment variables for broker and backend, which override everything else. An empty
#: one counts as not set, as in Celery.
CELERY_BROKER_ENV, CELERY_BACKEND_ENV = "CELERY_BROKER_URL", "CELERY_RESULT_BACKEND"
#: The variables that dagster-taskiq has in their place.
_NEWER_VARIABLES = {CELERY_BROKER_ENV: BROKER_ENV, CELERY_BACKEND_ENV: BACKEND_ENV}


@dataclass(frozen=True)
class Configuration:
    """A translated Celery configuration."""

    #: The engine's settings, which senders and workers must have in common.
    settings: Settings
    #: Options of ``dagster-taskiq worker start``, by parameter.
    worker: Mapping[str, Any]
    #: Settings that the app object alone uses, by Celery's names.
    app: Mapping[str, Any]


def configure(
    broker: str | None = None,
    backend: str | None = None,
    include: Sequence[str] = (),
    config_source: Mapping[str, Any] | None = None,
    default_queue: str | None = None,
    file: str | None = None,
) -> Configuration:
    """Translate a configuration, and warn about everything in it that has a new name.

    Args:
        broker: Celery's broker URL; ``None`` if none was given.
        backend: Celery's result backend; ``None`` if none was given.
        include: modules that workers import.
        config_source: Celery's settings by name, old or new.
        default_queue: the queue of steps and runs without a queue tag; for ``None``, the setting
            ``task_default_queue``.
        file: the file that the configuration is from, for the warnings; ``None`` if it is from the
            program.

    Raises:
        ConfigError: a setting or URL that cannot be translated; the text names what to use.
    """
    source = _written_by_user(config_source or {})
    broker = os.environ.get(CELERY_BROKER_ENV) or _unless(broker, broker_url)
    backend = os.environ.get(CELERY_BACKEND_ENV) or _unless(backend, result_backend)
    for name, url in (("broker", broker), ("backend", backend)):
        if url is not None and not url.strip():
            raise ConfigError(
                f'"{name}" is empty. Leave it out for its default; if it is read from the '
                "environment (`{env: NAME}`), that variable is set to nothing."
            )
    translation = translate_settings(source, broker or "", backend=backend or "")
    fleet = worker_settings()
    broker_is_elsewhere = fleet is not None or any(
        read_variable(name) is not None for name in (BROKER_ENV, QUEUE_URL_ENV)
    )
    if "broker" not in translation.settings and not broker_is_elsewhere:
        # Translated again, for the default broker: what some settings become depends on the broker.
        translation = translate_settings(source, broker_url, backend=backend or result_backend)
    plain: dict[str, Any] = {
        "queue": task_default_queue,
        "priority": task_default_priority,
        **translation.settings,
    }
    plain["include"] = tuple(dict.fromkeys([*plain.get("include", ()), *include]))
    if default_queue is not None:
        plain["queue"] = default_queue
    _warn(translation.remarks, file)
    return Configuration(Settings.from_dict(plain, fleet), translation.worker, translation.app)


def _written_by_user(config_source: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings without those that every executor and launcher of dagster-celery adds."""
    return {
        name: value
        for name, value in config_source.items()
        if name not in DEFAULT_CONFIG or DEFAULT_CONFIG[name] != value
    }


def _warn(remarks: Iterable[Remark], file: str | None) -> None:
    for older, newer in _NEWER_VARIABLES.items():
        if os.environ.get(older):
            warn_older(f"the variable {older} is now {newer}.", "<environment>")
    for remark in remarks:
        line = 1 if file is None else line_with(file, remark.subject.rpartition(".")[2])
        if remark.is_loss:
            warn_of_loss(remark.text, file, line)
        elif file is None:
            warn_user(remark.text)
        else:
            warn_older(remark.text, file, line)


def _unless(value: str | None, default: str) -> str | None:
    return None if value == default else value
