"""The fields of executor and run launcher as the documentation lists them, in Markdown."""

from collections.abc import Iterator, Mapping

from dagster_taskiq.settings.field_kinds import Definition, Kind
from dagster_taskiq.settings.schema import LAUNCHER_FIELDS, RUN_FIELDS
from dagster_taskiq.settings.settings import DEFINITIONS
from dagster_taskiq.settings.sqs_names import NAMES as SQS_NAMES

_TYPES: Mapping[Kind, str] = {
    Kind.URL: "URL",
    Kind.TEXT: "string",
    Kind.INTEGER: "integer",
    Kind.SECONDS: "number",
    Kind.MODULES: "list of strings",
    Kind.OPTIONS: "mapping",
}
#: Phrases of descriptions that are links, to pages in the same directory.
_LINKS: Mapping[str, str] = {
    "URL of the broker": "brokers.md",
    "options of RabbitMQ": "brokers.md#rabbitmq",
    "queue tag": "tags.md#tags",
}


def executor_fields() -> str:
    """Return a table of the fields of ``taskiq_executor``."""
    head = ("field", "type", "default", "meaning")
    rows = [head, ("---",) * len(head), *_executor_rows()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def launcher_fields() -> str:
    """Return the names of the fields of ``TaskiqRunLauncher``, with commas between."""
    return ", ".join(f"`{name}`" for name in LAUNCHER_FIELDS)


def _executor_rows() -> Iterator[tuple[str, ...]]:
    for each in DEFINITIONS:
        words = " or ".join(f"`{choice}`" for choice in each.choices) or _TYPES[each.kind]
        yield f"`{each.name}`", words, _default(each), _with_links(each.description)
    for name, sqs in SQS_NAMES.items():
        yield f"`{name}`", _TYPES[Kind.TEXT], sqs.default, sqs.description
    for name, field in RUN_FIELDS.items():
        yield f"`{name}`", field.type, field.default, field.description


def _default(definition: Definition) -> str:
    default = definition.default
    if definition.fleet_default or default == ():
        return definition.fleet_default or "none"
    if definition.kind is Kind.CHOICE:
        return f"`{default.value}`"
    return f"`{default:g}`" if isinstance(default, float) else f"`{default}`"


def _with_links(text: str) -> str:
    for phrase, page in _LINKS.items():
        text = text.replace(phrase, f"[{phrase}]({page})")
    return text
