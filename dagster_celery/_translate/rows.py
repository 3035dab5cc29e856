"""What all tables consist of, and what a translation returns."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from enum import Enum
from typing import Any, TypeVar


class Fate(Enum):
    """What becomes of a name of Celery's."""

    #: It means here what it means in Celery.
    TRANSLATED = "translated"
    #: It is accepted, and changes nothing; the row explains why.
    NO_EFFECT = "no effect"
    #: It is accepted, and what it asks for is not done; that is shown by default.
    LOST = "lost"
    #: It is an error, since the user would lose something without it; the row names what to use.
    REFUSED = "refused"


@dataclass(frozen=True)
class Row:
    """One name of Celery's and its fate, as the documentation has it."""

    name: str
    fate: Fate
    #: One or more sentences, the first without its subject: what the name is here, why it changes
    #: nothing, or what to use instead.
    explanation: str


R = TypeVar("R", bound=Row)


@dataclass(frozen=True)
class Remark:
    """Something that a user should know, or should write in another way. It becomes a warning."""

    #: What was written, with its source: ``config_source.result_expires``, ``broker``, ``-E``.
    subject: str
    #: Whole sentences, which name what to write instead. They show no password.
    text: str
    #: Whether something that it asks for is not done: then the warning is shown by default.
    is_loss: bool = False


@dataclass(frozen=True)
class Translation:
    """A translated configuration of Celery's."""

    #: Arguments of ``dagster_taskiq.settings.Settings``.
    settings: Mapping[str, Any]
    #: Parameters of ``dagster_taskiq.cli.worker.start``.
    worker: Mapping[str, Any]
    #: Settings that only the object that ``make_app`` returns uses, by Celery's names.
    app: Mapping[str, Any]
    #: In the order in which things were written.
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
    """Return a question that names the most similar name, with a space before it; or nothing."""
    closest = get_close_matches(name, list(known), n=1, cutoff=0.7)
    return f' Did you mean "{closest[0]}"?' if closest else ""
