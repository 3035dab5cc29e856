"""Where Celery's messages and results are, by the settings that dagster-celery was given."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dagster_celery._celery_app.app import CeleryApp
from dagster_celery._configuration import CELERY_BACKEND_ENV
from dagster_celery._defaults import result_backend, task_default_queue
from dagster_celery._translate.connections.servers import Server, server_of
from dagster_celery._translate.settings.names import old_name
from dagster_celery._translate.values import mapping, names, seconds
from dagster_taskiq.errors import ConfigError
from dagster_taskiq.settings.env import resolve_env
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.settings.urls import redact, scheme_of

#: What kombu writes between the name of a queue and a priority, in the name of a list.
SEPARATOR = "\x06\x16"
#: The priorities for which kombu has a list each, unless ``priority_steps`` names others.
PRIORITY_STEPS = (0, 3, 6, 9)
#: How long Celery keeps a result if ``result_expires`` is not set, in seconds.
RESULT_SECONDS = 86400.0


@dataclass(frozen=True)
class RedisKeys:
    """The names of kombu's keys in a Redis, with the prefix of all of them."""

    prefix: str
    separator: str
    #: In ascending order.
    steps: tuple[int, ...]
    unacked: str
    unacked_index: str

    def lists(self, queue: str) -> list[str]:
        """Return the lists of a queue, one for each priority that messages may have had.

        Those of the default steps and of single digits are among them: the steps may have been
        others when a message was sent.
        """
        steps = sorted({*self.steps, *range(10)})
        return [
            f"{self.prefix}{queue}{f'{self.separator}{each}' if each else ''}" for each in steps
        ]


@dataclass(frozen=True)
class CeleryServers:
    """The servers of dagster-celery's broker and backend, and how things are named there."""

    #: The engine's settings for these servers, with their addresses.
    settings: Settings
    #: The queues that the settings name.
    queues: tuple[str, ...]
    keys: RedisKeys
    #: Celery's result backend, by its URL.
    backend: str
    #: What stands before ``celery-task-meta-`` in the keys of results.
    result_prefix: str
    #: How long a result is kept, in seconds; ``None`` for ever.
    result_seconds: float | None
    #: The serializer of results, by Celery's name.
    result_serializer: str

    @property
    def is_redis(self) -> bool:
        """Whether the broker is a Redis; else it is a RabbitMQ."""
        return server_of(self.settings.broker) is not Server.RABBITMQ

    @property
    def shown(self) -> str:
        """The URL of the broker without secrets."""
        return redact(self.settings.broker)


def celery_servers(app: CeleryApp) -> CeleryServers:
    """Return the servers that an app of dagster-celery used with these settings.

    Args:
        app: the app, with the settings.

    Raises:
        ConfigError: a setting cannot be used, or the broker is one that Celery never had.
    """
    settings = app.configuration.settings.resolved()
    if server_of(settings.broker) is Server.SQS:
        raise ConfigError(
            "Celery's queues on SQS are not looked at here. Stop what sends, let Celery's workers "
            "run until `aws sqs get-queue-attributes --attribute-names All --queue-url URL` shows "
            "no message of any kind, and then change over. See docs/how-to/upgrade-day.md."
        )
    if server_of(settings.broker) is Server.NONE:
        raise ConfigError(
            f"There are no queues of Celery's on {redact(settings.broker)}: they can be looked at "
            "on a Redis or a RabbitMQ. Name the configuration that dagster-celery had, with -y."
        )
    given: Mapping[str, Any] = app.conf.given
    options = _options(given, "broker_transport_options")
    of_results = _options(given, "result_backend_transport_options")
    backend = os.environ.get(CELERY_BACKEND_ENV) or _value(given, "result_backend", result_backend)
    queue_names = (
        *(str(each) for each in app.configuration.worker.get("queues", ())),
        settings.queue,
        task_default_queue,
    )
    return CeleryServers(
        settings=settings,
        queues=tuple(dict.fromkeys(queue_names)),
        keys=RedisKeys(
            prefix=(prefix := str(options.get("global_keyprefix") or "")),
            separator=str(options.get("sep") or SEPARATOR),
            steps=_steps(options.get("priority_steps")),
            unacked=prefix + str(options.get("unacked_key") or "unacked"),
            unacked_index=prefix + str(options.get("unacked_index_key") or "unacked_index"),
        ),
        backend=str(backend),
        result_prefix=_result_prefix(str(of_results.get("global_keyprefix") or "")),
        result_seconds=_result_seconds(given),
        result_serializer=str(_value(given, "result_serializer", "json")),
    )


def scheme_of_backend(servers: CeleryServers) -> str:
    """Return the scheme of Celery's result backend, such as ``rpc``, ``redis`` or ``db``."""
    return (scheme_of(servers.backend) or servers.backend).partition("+")[0]


def _value(given: Mapping[str, Any], name: str, default: Any) -> Any:
    """Return a setting by its name today, or by its old one; ``default`` if it is not set."""
    for each in (name, old_name(name)):
        if given.get(each) is not None:
            return resolve_env(given[each])
    return default


def _options(given: Mapping[str, Any], name: str) -> dict[str, Any]:
    try:
        return mapping(_value(given, name, {}))
    except ValueError as error:
        raise ConfigError(f"{name} {error}.") from None


def _steps(value: Any) -> tuple[int, ...]:
    try:
        found = [int(each) for each in names([str(each) for each in value])] if value else []
    except (TypeError, ValueError):
        raise ConfigError("broker_transport_options.priority_steps must be integers.") from None
    return tuple(sorted(found)) or PRIORITY_STEPS


def _result_prefix(prefix: str) -> str:
    return f"{prefix}_" if prefix and prefix[-1] not in ":_-." else prefix


def _result_seconds(given: Mapping[str, Any]) -> float | None:
    for each in ("result_expires", old_name("result_expires")):
        if each in given:
            try:
                return None if given[each] is None else seconds(resolve_env(given[each]))
            except ValueError as error:
                raise ConfigError(f"{each} {error}.") from None
    return RESULT_SECONDS
