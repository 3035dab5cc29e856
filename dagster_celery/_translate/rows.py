"""The words all tables are written in: a row, its fate, and what a translation hands back."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from enum import Enum
from typing import Any, TypeVar


class Fate(Enum):
    """What becomes of a name of Celery's."""

    #: It means here what it meant there.
    TRANSLATED = "translated"
    #: It is accepted, and changes nothing; the row says why nothing is lost, or what is.
    NO_EFFECT = "no effect"
    #: It is an error, since to go on without it would lose something; the row says what to use.
    REFUSED = "refused"


@dataclass(frozen=True)
class Row:
    """One name of Celery's and its fate, as the documentation has it.

    What ``says`` begins with depends on the fate: what it is here, why it changes nothing, or what
    to use instead. It is one or more sentences without their first subject.
    """

    name: str
    fate: Fate
    says: str


R = TypeVar("R", bound=Row)


@dataclass(frozen=True)
class Remark:
    """Something a user should know, or write otherwise. The caller makes a warning of it."""

    #: What was written, and where: ``config_source.result_expires``, ``broker``, ``-E``.
    subject: str
    #: Whole sentences, which name what to write instead. There is no password in them.
    text: str


@dataclass(frozen=True)
class Translation:
    """What a configuration of Celery's becomes."""

    #: Arguments of ``dagster_taskiq.settings.Settings``.
    settings: Mapping[str, Any]
    #: What a worker takes from it: parameters of ``dagster_taskiq.cli.worker.start``.
    worker: Mapping[str, Any]
    #: What only the object that ``make_app`` returns looks at, under Celery's names.
    app: Mapping[str, Any]
    #: In the order of what was written.
    remarks: tuple[Remark, ...]


def by_name(rows: Iterable[R]) -> dict[str, R]:
    """Return rows as a mapping from their name.

    Raises:
        ValueError: two rows have the same name.
    """
    table: dict[str, R] = {}
    for row in rows:
        if row.name in table:
            raise ValueError(f"There are two rows for {row.name!r}.")
        table[row.name] = row
    return table


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a question that names what was probably meant, with a space before it; or nothing."""
    closest = get_close_matches(name, list(known), n=1, cutoff=0.7)
    return f' Did you mean "{closest[0]}"?' if closest else ""
