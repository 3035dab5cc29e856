"""The settings as Dagster's config has them: names, types, defaults and descriptions."""

from collections.abc import Mapping
from typing import Any

from dagster import (
    Enum,
    EnumValue,
    Field,
    Noneable,
    Permissive,
    ScalarUnion,
    Selector,
    Shape,
)
from dagster._config import process_config
from dagster._core.execution.retries import get_retries_config
from dagster._core.execution.step_dependency_config import get_step_dependency_config_field
from dagster._core.execution.tags import get_tag_concurrency_limits_config

from dagster_taskiq.errors import ConfigError
from dagster_taskiq.settings.settings import BACKEND_ENV, BROKER_ENV, OnWorkerLost, Settings

_ON_WORKER_LOST = Enum("OnWorkerLost", [EnumValue(each.value, each.value) for each in OnWorkerLost])

_DEFAULT = Settings()

#: A text, or ``{env: NAME}``, which is left as it is: ``Settings.from_dict`` resolves it. Dagster's
#: own ``StringSource`` takes a variable that is set to nothing for an empty text.
_TEXT = ScalarUnion(scalar_type=str, non_scalar_schema=Selector({"env": str}))

#: Dagster schema of what executor, launcher and worker share.
CONNECTION_FIELDS: dict[str, Field] = {
    "broker": Field(
        Noneable(_TEXT),
        is_required=False,
        description=(
            "URL of the broker: `embedded://` (a SQLite file under $DAGSTER_HOME), "
            "`sqlite:///PATH`, `redis://`, `rediss://`, `unix://`, `redis+sentinel://`, "
            "`amqp://`, `amqps://`, or "
            f"`memory://` (the whole job in this process). Default: ${BROKER_ENV}, else `embedded://`."
        ),
    ),
    "backend": Field(
        Noneable(_TEXT),
        is_required=False,
        description=(
            "URL of the backend, which keeps the state of tasks and workers. "
            f"Default: ${BACKEND_ENV}, else the broker's server."
        ),
    ),
    "queue": Field(
        _TEXT,
        is_required=False,
        default_value=_DEFAULT.queue,
        description="The queue of whatever has no `dagster-taskiq/queue` tag.",
    ),
    "include": Field(
        [str],
        is_required=False,
        description="Modules that every worker process imports before its first task.",
    ),
    "prefix": Field(
        Noneable(_TEXT),
        is_required=False,
        description=f"Prefix of every key and queue on the server. Default: `{_DEFAULT.prefix}`.",
    ),
    "heartbeat_interval": Field(
        float,
        is_required=False,
        default_value=_DEFAULT.heartbeat_interval,
        description="Seconds between two signs of life of a worker.",
    ),
    "lease": Field(
        float,
        is_required=False,
        default_value=_DEFAULT.lease,
        description="Seconds a worker may be silent before it is lost, with what it runs.",
    ),
    "result_ttl": Field(
        float,
        is_required=False,
        default_value=_DEFAULT.result_ttl,
        description="Seconds that the state and result of a finished task are kept.",
    ),
    "connect_timeout": Field(
        float,
        is_required=False,
        default_value=_DEFAULT.connect_timeout,
        description="Seconds within which broker and backend must first answer.",
    ),
    "broker_options": Field(
        Noneable(Permissive()),
        is_required=False,
        description=(
            "Passed through to the broker's connection, e.g. `ssl_ca_certs` for `rediss://`. "
            "`{env: NAME}` works at any depth."
        ),
    ),
    "backend_options": Field(
        Noneable(Permissive()),
        is_required=False,
        description="As `broker_options`, for the backend; the broker's on the same server.",
    ),
}

#: Dagster schema of ``taskiq_executor``, and so of the YAML file of a worker.
EXECUTOR_FIELDS: dict[str, Field] = {
    **CONNECTION_FIELDS,
    "priority": Field(
        int,
        is_required=False,
        default_value=_DEFAULT.priority,
        description="The priority of a step that has no `dagster-taskiq/priority` tag.",
    ),
    "worker_lost": Field(
        _ON_WORKER_LOST,
        is_required=False,
        default_value=_DEFAULT.worker_lost.value,
        description=(
            "What becomes of a step whose worker or child process died: `fail` (the op's "
            "RetryPolicy decides) or `retry` (tried again, at most three times)."
        ),
    ),
    "retries": get_retries_config(),
    "max_concurrent": Field(
        Noneable(int),
        is_required=False,
        description="How many steps of one run may be in flight at once. Default: no limit.",
    ),
    "tag_concurrency_limits": get_tag_concurrency_limits_config(),
    "step_dependency_config": get_step_dependency_config_field(),
}


def checked(document: Mapping[str, Any], source: str) -> Mapping[str, Any]:
    """Return an executor's config, read from a file, as Dagster has checked and completed it.

    Raises:
        ConfigError: an unknown key, or a value of the wrong type; the text names ``source``.
    """
    outcome = process_config(Shape(EXECUTOR_FIELDS), document)
    if not outcome.success:
        problems = "\n".join(f"  {each.message}" for each in outcome.errors or ())
        raise ConfigError(
            f"{source} is not a configuration of taskiq_executor (its keys stand bare or under "
            f"`execution: config:`):\n{problems}"
        )
    return outcome.value or {}
