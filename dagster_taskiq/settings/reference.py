"""The table of settings in the documentation, made from their definitions.

``python -m dagster_taskiq.settings.reference docs/reference/settings.md`` writes it into a file, in
place of the table that is there.
"""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from dagster_taskiq.settings.definitions import Definition, Kind, Surface
from dagster_taskiq.settings.schema import RUN_FIELDS
from dagster_taskiq.settings.settings import DEFINITIONS

#: What stands before the table, which ends at the next empty line.
MARKER = "<!-- table: executor -->\n"

_HEAD = ("field", "type", "default", "launcher", "meaning")
_TYPES: Mapping[Kind, str] = {
    Kind.URL: "URL",
    Kind.TEXT: "string",
    Kind.INTEGER: "integer",
    Kind.SECONDS: "number",
    Kind.MODULES: "list of strings",
    Kind.OPTIONS: "mapping",
}


def table() -> str:
    """Return the table of all fields of ``taskiq_executor``, in Markdown."""
    rows = "".join(f"| {' | '.join(row)} |\n" for row in _rows())
    return f"| {' | '.join(_HEAD)} |\n|{'---|' * len(_HEAD)}\n{rows}"


def update(text: str) -> str:
    """Return a text with its table replaced by that of today.

    Raises:
        ValueError: the text has no table, which is one after ``MARKER``.
    """
    before, marker, rest = text.partition(MARKER)
    if not marker:
        raise ValueError(f"There is no line {MARKER.strip()!r}.")
    after = rest.partition("\n\n")[2]
    return f"{before}{marker}{table()}\n{after}"


def _rows() -> Iterator[tuple[str, ...]]:
    for each in DEFINITIONS:
        on_launcher = "yes" if Surface.LAUNCHER in each.surfaces else "no"
        words = " or ".join(f"`{choice}`" for choice in each.choices) or _TYPES[each.kind]
        yield f"`{each.name}`", words, _default(each), on_launcher, each.description
    for name, field in RUN_FIELDS.items():
        yield f"`{name}`", field.type, field.default, "no", field.description


def _default(definition: Definition) -> str:
    default = definition.default
    if definition.fleet_default or default == ():
        return definition.fleet_default or "none"
    if definition.kind is Kind.CHOICE:
        return f"`{default.value}`"
    return f"`{default:g}`" if isinstance(default, float) else f"`{default}`"


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(update(path.read_text()))
