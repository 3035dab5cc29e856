"""What a row of the tables of URL schemes consists of."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

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
class SqsOptions:
    """What Celery has in the transport options of SQS, and the engine in its URL and options."""

    region: str = ""
    #: What the names of queues begin with.
    name_prefix: str = ""
    #: Whether a server that the URL names is asked by HTTPS.
    is_secure: bool = False
    #: By queue, a mapping with its URL, and perhaps a region and credentials.
    predefined: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Beside:
    """What Celery has beside a URL, and the engine in it."""

    sentinel: Sentinel = Sentinel()
    sqs: SqsOptions = SqsOptions()
    #: Whether the backend may be on the broker's own server; SQS keeps no state.
    broker_keeps_state: bool = True


@dataclass(frozen=True)
class Scheme(Row):
    """A URL scheme of Celery's."""

    #: Returns the engine's URL of one with this scheme; ``None`` if the scheme is refused. It may
    #: raise ``ConfigError``.
    translate: Callable[[str, Beside], Found] | None = None
    #: What may follow the scheme after a ``+``; ``None`` for anything.
    after_plus: tuple[str, ...] | None = ()
