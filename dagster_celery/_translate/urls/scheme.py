"""What a row of the tables of URL schemes consists of."""

from collections.abc import Callable
from dataclasses import dataclass

from dagster_celery._translate.rows import Row


@dataclass(frozen=True)
class Found:
    """The engine's URL, and sentences about differences from Celery's."""

    url: str
    notes: tuple[str, ...] = ()
    #: Whether the server that the user has named is not used.
    is_loss: bool = False


@dataclass(frozen=True)
class Sentinel:
    """What Celery has in the transport options of a sentinel, and the engine in its URL."""

    #: The name of the master that the sentinels watch.
    master: str = ""
    #: Arguments of the connection to the sentinels themselves, such as their password.
    options: dict[str, str] | None = None


@dataclass(frozen=True)
class Scheme(Row):
    """A URL scheme of Celery's."""

    #: Returns the engine's URL of one with this scheme; ``None`` if the scheme is refused. It may
    #: raise ``ConfigError``.
    translate: Callable[[str, Sentinel], Found] | None = None
    #: What may follow the scheme after a ``+``; ``None`` for anything.
    after_plus: tuple[str, ...] | None = ()
