"""The settings as fields of Dagster's config, and the fields that only an executor has."""

from collections.abc import Mapping
from dataclasses import dataclass
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
from dagster_taskiq.settings.field_kinds import Definition, Kind, Surface
from dagster_taskiq.settings.settings import DEFINITIONS
from dagster_taskiq.settings.sqs_names import NAMES as SQS_NAMES

#: A text, or ``{env: NAME}``, which is left as it is: ``Settings.from_dict`` resolves it. Dagster's
#: own ``StringSource`` takes a variable that is set to nothing for an empty text.
_TEXT = ScalarUnion(scalar_type=str, non_scalar_schema=Selector({"env": str}))

_TYPES: Mapping[Kind, Any] = {
    Kind.URL: _TEXT,
    Kind.TEXT: _TEXT,
    Kind.INTEGER: int,
    Kind.SECONDS: float,
    Kind.MODULES: [str],
    Kind.OPTIONS: Permissive(),
}


@dataclass(frozen=True)
class RunField:
    """A field of the executor that is no setting: it is used by the loop of a run alone."""

    field: Field
    #: Type, default and meaning in words, for the documentation.
    type: str
    default: str
    description: str


_MAX_CONCURRENT = "How many steps of one run may be waiting or running at workers at once."

#: The fields of ``taskiq_executor`` that are no settings. All but ``max_concurrent`` are Dagster's.
RUN_FIELDS: Mapping[str, RunField] = {
    "retries": RunField(
        get_retries_config(),
        "`enabled`, `disabled` or `deferred`",
        "`enabled`",
        "Whether steps that ask for a retry get one (Dagster's own field).",
    ),
    "max_concurrent": RunField(
        Field(
            Noneable(int),
            is_required=False,
            description=f"{_MAX_CONCURRENT} Default: no limit.",
        ),
        "integer",
        "no limit",
        _MAX_CONCURRENT,
    ),
    "tag_concurrency_limits": RunField(
        get_tag_concurrency_limits_config(),
        "list",
        "none",
        "Limits for steps of one run that have certain tags (Dagster's own field).",
    ),
    "step_dependency_config": RunField(
        get_step_dependency_config_field(),
        "mapping",
        "upstream steps must have succeeded",
        "Whether a step may start as soon as the outputs it needs are there (Dagster's own field).",
    ),
}


def _make_field(definition: Definition) -> Field:
    description = definition.description
    kind = _TYPES.get(definition.kind)
    if definition.kind is Kind.OPTIONS:
        description = f"{description} `{{env: NAME}}` works at any depth."
    if definition.fleet_default:
        # No default value, since it depends on the process that reads the config.
        description = f"{description} Default: {definition.fleet_default}."
        return Field(Noneable(kind), is_required=False, description=description)
    default = definition.default
    if definition.kind is Kind.CHOICE:
        values = [EnumValue(each, each) for each in definition.choices]
        kind, default = Enum(type(default).__name__, values), default.value
    if definition.kind is Kind.MODULES:
        default = list(default)
    return Field(kind, is_required=False, default_value=default, description=description)


def _fields_on(surface: Surface) -> dict[str, Field]:
    return {each.name: _make_field(each) for each in DEFINITIONS if surface in each.surfaces}


#: The names of ``settings.sqs_names``, which stand beside the settings.
_SQS_FIELDS: Mapping[str, Field] = {
    each.name: Field(
        Noneable(_TEXT),
        is_required=False,
        description=f"{each.description} Default: {each.default}.",
    )
    for each in SQS_NAMES.values()
}

#: Dagster schema of ``TaskiqRunLauncher``.
LAUNCHER_FIELDS: Mapping[str, Field] = {**_fields_on(Surface.LAUNCHER), **_SQS_FIELDS}

#: Dagster schema of ``taskiq_executor``, and so of the YAML file of a worker.
EXECUTOR_FIELDS: Mapping[str, Field] = {
    **_fields_on(Surface.EXECUTOR),
    **_SQS_FIELDS,
    **{name: each.field for name, each in RUN_FIELDS.items()},
}


#: The key for Celery's settings, which a configuration of dagster-celery's executor may have.
_CELERY_SETTINGS = "config_source"


def checked(document: Mapping[str, Any], source: str) -> Mapping[str, Any]:
    """Return an executor's config, read from a file, as Dagster has checked and completed it.

    Args:
        document: the fields and their values.
        source: the name of the file, for the error.

    Raises:
        ConfigError: an unknown key, a value of the wrong type, or a file for dagster-celery.
    """
    outcome = process_config(Shape(EXECUTOR_FIELDS), document)
    if not outcome.success:
        if _CELERY_SETTINGS in document:
            raise ConfigError(
                f"{source} is a configuration of celery_executor: it has `{_CELERY_SETTINGS}`. "
                "The command dagster-celery reads it. For dagster-taskiq, leave -y out and name "
                "the same broker and backend by -b and --backend, or write one for taskiq_executor."
            )
        problems = "\n".join(f"  {each.message}" for each in outcome.errors or ())
        raise ConfigError(
            f"{source} is not a configuration of taskiq_executor (its keys stand bare or under "
            f"`execution: config:`):\n{problems}"
        )
    return outcome.value or {}
