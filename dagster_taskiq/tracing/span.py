"""What a span is to those who begin and end it, and the message to which it belongs."""

import logging
from collections.abc import Callable, MutableMapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ParamSpec, Protocol, TypeVar

T = TypeVar("T")
P = ParamSpec("P")

logger = logging.getLogger(__name__)

#: How much of the reason of a failure is recorded, in characters.
REASON_LENGTH = 2000

#: Puts the context of a span into the labels of a message; returns whether it did. Labels that
#: have a context already, of a retry or of another instrumentation, keep it.
Stamp = Callable[[MutableMapping[str, Any]], bool]


class Message(Protocol):
    """A message, be it taskiq's own or one that is written already."""

    task_id: str
    task_name: str
    labels: dict[str, Any]


class Span:
    """A span that has begun, or none."""

    def attached(self) -> AbstractContextManager[None]:
        """Let the spans that begin in the block be its children."""
        return nullcontext()

    def note(self, name: str, value: str) -> None:
        """Give it an attribute."""

    def note_failure(self, kind: str, reason: str) -> None:
        """Note that what it stands for has failed.

        Args:
            kind: the class of the error, or another word for it.
            reason: for people.
        """

    def note_error(self, error: BaseException) -> None:
        """Note the error with which it has failed, with its traceback."""

    def end(self) -> None:
        """End it."""


#: What stands for the spans of a process in which traces are not in use.
NO_SPAN = Span()

#: The errors that are logged as such already, each by its text.
_logged: set[str] = set()


def tried(otherwise: T, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Call what calls OpenTelemetry, which may have parts of others; they must not stop the work.

    Returns:
        What the function returns; ``otherwise`` if it raises an error, which is logged once.
    """
    try:
        return function(*args, **kwargs)
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        level = logging.DEBUG if text in _logged else logging.ERROR
        _logged.add(text)
        logger.log(level, "OpenTelemetry raised an error. A span is left out.", exc_info=True)
        return otherwise
