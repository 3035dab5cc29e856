"""One kind of process state, and how a change of it is kept."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

T = TypeVar("T")


class CannotRestoreError(Exception):
    """A task left something behind that lasts as long as the process; the text names it."""


class Kind(Protocol):
    """One kind of process state.

    Its values are compared with ``==``. A ``dict``, a ``list`` or a ``frozenset`` is a collection
    of things that change independently of each other (see :func:`with_changes`).
    """

    @property
    def name(self) -> str:
        """What it is, for the worker's log."""

    @property
    def of_thread(self) -> bool:
        """Whether each thread has its own; restored is that of the main thread."""

    def read(self) -> Any:
        """Return its value now."""

    def restore(self, wanted: Any) -> None:
        """Give it a value that it had before, if it has another one now.

        Raises:
            CannotRestoreError: that is not possible.
            Exception: any error of the system; it means the same.
        """


@dataclass(frozen=True)
class Setting(Generic[T]):
    """A kind of state that one function reads and another one sets."""

    name: str
    read: Callable[[], T]
    write: Callable[[T], object]
    of_thread: bool = False

    def restore(self, wanted: T) -> None:
        """Set it if it is not what it was."""
        if self.read() != wanted:
            self.write(wanted)


def with_changes(wanted: Any, before: Any, after: Any) -> Any:
    """Return a value with what has changed between two looks, and with nothing else.

    Args:
        wanted: the value to change; it is not written to.
        before: the first look, which may have changes of its own that are not wanted.
        after: the second look.
    """
    if before == wanted:
        return after
    if isinstance(wanted, dict):
        kept = {key: each for key, each in wanted.items() if key in after or key not in before}
        new = {key: each for key, each in after.items() if key not in before or before[key] != each}
        return {**kept, **new}
    if isinstance(wanted, frozenset):
        return (wanted | (after - before)) - (before - after)
    if isinstance(wanted, list):
        old = next((number for number, each in enumerate(after) if each in before), len(after))
        added_in_front = [each for each in after[:old] if each not in wanted]
        added_behind = [each for each in after[old:] if each not in before and each not in wanted]
        kept_of_list = [each for each in wanted if each in after or each not in before]
        return [*added_in_front, *kept_of_list, *added_behind]
    return after
