"""From what a project has configured Celery with, to the engine's settings.

What counts, first to last: Celery's environment variables, what was passed, the Celery settings in
``config_source``, the worker that this process works for, this project's own environment
variables, the defaults of dagster-celery.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dagster_celery._translate.rows import Remark
from dagster_celery._translate.settings import translate_settings
from dagster_celery.config import DEFAULT_CONFIG
from dagster_celery.defaults import (
    broker_url,
    result_backend,
    task_default_priority,
    task_default_queue,
)
from dagster_taskiq.deprecations import line_with, warn_older, warn_user
from dagster_taskiq.errors import ConfigError
from dagster_taskiq.settings.env import read_variable
from dagster_taskiq.settings.settings import BACKEND_ENV, BROKER_ENV, Settings
from dagster_taskiq.settings.worker_fleet import worker_settings

#: Celery's environment variables for broker and backend, which override all else, and ours. Where
#: Celery finds one of its own set to nothing, it goes on as if it were not set, and so does this.
CELERY_BROKER_ENV, CELERY_BACKEND_ENV = "CELERY_BROKER_URL", "CELERY_RESULT_BACKEND"
_NOW_CALLED = {CELERY_BROKER_ENV: BROKER_ENV, CELERY_BACKEND_ENV: BACKEND_ENV}


@dataclass(frozen=True)
class Configuration:
    """A Celery configuration as this project has it."""

    #: What both ends of the queue must agree on.
    settings: Settings
    #: What a worker takes from it: options of ``dagster-taskiq worker start``, by parameter.
    worker: Mapping[str, Any]
    #: What the app object alone uses, by Celery's names.
    app: Mapping[str, Any]


def configure(
    broker: str | None = None,
    backend: str | None = None,
    include: Sequence[str] = (),
    config_source: Mapping[str, Any] | None = None,
    default_queue: str | None = None,
    file: str | None = None,
) -> Configuration:
    """Translate a configuration, and warn of what has another name now.

    Args:
        broker: Celery's broker URL, where one was given.
        backend: Celery's result backend, where one was given.
        include: modules that workers import.
        config_source: Celery's settings by name, old or new.
        default_queue: the queue of what has no tag; ``task_default_queue`` where ``None``.
        file: where all this is written, for warnings about it; ``None`` for the program itself.

    Raises:
        ConfigError: a setting or URL that cannot be translated; the text says what to use.
    """
    source = _written_by_user(config_source or {})
    broker = os.environ.get(CELERY_BROKER_ENV) or _unless(broker, broker_url)
    backend = os.environ.get(CELERY_BACKEND_ENV) or _unless(backend, result_backend)
    for name, url in (("broker", broker), ("backend", backend)):
        if url is not None and not url.strip():
            raise ConfigError(
                f'"{name}" is empty. Leave it out for its default; where it is read from the '
                "environment (`{env: NAME}`), that variable is set to nothing."
            )
    translation = translate_settings(source, broker or "", backend=backend or "")
    fleet = worker_settings()
    follows = fleet is not None or read_variable(BROKER_ENV) is not None
    if "broker" not in translation.settings and not follows:
        # Once more: what the settings mean depends on the broker, which they do not name.
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
    """Leave out what every executor and launcher of dagster-celery adds by itself."""
    return {
        name: value
        for name, value in config_source.items()
        if name not in DEFAULT_CONFIG or DEFAULT_CONFIG[name] != value
    }


def _warn(remarks: Iterable[Remark], file: str | None) -> None:
    for older, newer in _NOW_CALLED.items():
        if os.environ.get(older):
            warn_older(f"the variable {older} is now {newer}.", "<environment>")
    for remark in remarks:
        if file is None:
            warn_user(remark.text)
        else:
            warn_older(remark.text, file, line_with(file, remark.subject.rpartition(".")[2]))


def _unless(value: str | None, default: str) -> str | None:
    return None if value == default else value
