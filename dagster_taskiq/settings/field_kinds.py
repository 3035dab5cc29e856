"""What the definition of a setting is made of.

A setting is defined once, as a field of ``Settings``: its type, default, bounds and description.
The field's metadata (``typing.Annotated``) adds what is defined here. From that come the checks,
the error messages, Dagster's config fields (``settings.schema``) and the table in the documentation
(``settings.reference``).
"""

from dataclasses import dataclass
from enum import Enum, Flag, auto
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, Field, Strict, ValidationError
from pydantic_core import PydanticCustomError

#: The bound of every duration: three hundred years, in seconds.
LONGEST_SECONDS = 1e10


class Kind(Enum):
    """The kinds of settings, each with the noun that error messages use.

    In place of a URL or text, and inside of options, ``{env: NAME}`` can be written.
    """

    URL = "a URL"
    TEXT = "a text"
    INTEGER = "an integer"
    SECONDS = "a number of seconds"
    MODULES = "a list of module names"
    OPTIONS = "a mapping"
    CHOICE = "one of a few words"


class Surface(Flag):
    """The places in which a setting can be written."""

    #: The config of ``taskiq_executor``, which the YAML file of a worker has as well.
    EXECUTOR = auto()
    #: The config of ``TaskiqRunLauncher``.
    LAUNCHER = auto()


@dataclass(frozen=True)
class FleetWide:
    """Marks a setting that is the same for all workers of a fleet, and all that send to them.

    In a worker's process it is the worker's own, if the configuration names no broker.
    """

    #: The default in words, for the documentation: it depends on the process that uses the setting.
    default: str


def _check_not_blank(value: str | None) -> str | None:
    if value is not None and not value.strip():
        raise PydanticCustomError("blank", "blank")
    return value


Url = Annotated[str, AfterValidator(_check_not_blank), Kind.URL]
OptionalUrl = Annotated[str | None, AfterValidator(_check_not_blank), Kind.URL]
Text = Annotated[str, AfterValidator(_check_not_blank), Kind.TEXT]
Integer = Annotated[int, Kind.INTEGER]
Seconds = Annotated[float, Field(gt=0, lt=LONGEST_SECONDS, allow_inf_nan=False), Kind.SECONDS]
#: A list is taken as well as a tuple, which is what JSON and YAML make of it.
Modules = Annotated[tuple[Annotated[str, Strict()], ...], Field(strict=False), Kind.MODULES]


@dataclass(frozen=True)
class Definition:
    """The definition of one setting."""

    name: str
    kind: Kind
    default: Any
    description: str
    surfaces: Surface
    #: The default in words, if the setting is :class:`FleetWide`; else empty.
    fleet_default: str
    #: The words to choose from, if it is of ``Kind.CHOICE``.
    choices: tuple[str, ...]


def read_definitions(model: type[BaseModel]) -> tuple[Definition, ...]:
    """Return the definitions of all settings of a model, in the order of its fields."""
    definitions = []
    for name, field in model.model_fields.items():
        marks = {type(each): each for each in field.metadata}
        choices = type(field.default) if isinstance(field.default, Enum) else ()
        definitions.append(
            Definition(
                name=name,
                kind=marks[Kind],
                default=field.default,
                description=field.description or "",
                surfaces=marks.get(Surface, Surface.EXECUTOR | Surface.LAUNCHER),
                fleet_default=marks[FleetWide].default if FleetWide in marks else "",
                choices=tuple(each.value for each in choices),
            )
        )
    return tuple(definitions)


def describe_problem(error: ValidationError, definitions: tuple[Definition, ...]) -> str:
    """Return one sentence about the first problem that pydantic has found.

    Only numbers and choices are quoted: a text may be a secret that was written in the wrong place.
    """
    problem = error.errors(include_url=False)[0]
    name, *inside = problem["loc"]
    definition = next((each for each in definitions if each.name == name), None)
    if definition is None:
        return f'There is no setting "{name}".'
    value = problem["input"]
    if problem["type"] == "blank":
        return f'"{name}" must not be empty. Leave it out for its default.'
    if problem["type"] == "greater_than":
        return f'"{name}" must be more than 0 seconds, but it is {value:g}.'
    if problem["type"] in ("less_than", "finite_number"):
        return f'"{name}" must be less than {LONGEST_SECONDS:g} seconds.'
    if definition.kind is Kind.CHOICE:
        return f'"{name}" must be one of {", ".join(definition.choices)}, but it is {value!r}.'
    if inside:
        return f'"{name}" must be {definition.kind.value}.'
    return f'"{name}" must be {definition.kind.value}, but it is a {type(value).__name__}.'
