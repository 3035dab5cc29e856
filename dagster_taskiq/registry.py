"""A table from URL scheme to the class that serves it, imported when it is first wanted."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Generic, TypeVar, cast

from dagster_taskiq.errors import ConfigError, MissingExtraError
from dagster_taskiq.settings import redact, scheme_of

T = TypeVar("T")


@dataclass(frozen=True)
class Entry:
    """A class by module and name, and the pip extra that brings what its module imports."""

    module: str
    name: str
    extra: str = ""


class Registry(Generic[T]):
    """What serves which scheme, for one kind of thing (``broker`` or ``backend``)."""

    def __init__(self, kind: str, entries: Mapping[str, Entry]) -> None:
        self.kind = kind
        self.entries = entries

    def find(self, url: str) -> Any:
        """Return the class that serves ``url``.

        Raises:
            ConfigError: the URL has no scheme, or one that nothing serves.
            MissingExtraError: its module cannot be imported.
        """
        scheme = scheme_of(url)
        entry = self.entries.get(scheme)
        if entry is None:
            problem = (
                f"nothing serves the scheme {scheme!r}"
                if scheme
                else "it has no scheme, such as redis://"
            )
            served = ", ".join(f"{each}://" for each in self.entries)
            raise ConfigError(
                f"Cannot use {redact(url)!r} as {self.kind}: {problem}. Served are: {served}."
            )
        try:
            module = import_module(entry.module)
        except ImportError as error:
            extra = f"dagster-taskiq[{entry.extra}]" if entry.extra else "dagster-taskiq"
            raise MissingExtraError(
                f"The {self.kind} {redact(url)!r} needs a package that is not installed "
                f"({error}). Run: pip install '{extra}'"
            ) from error
        return cast(Any, getattr(module, entry.name))
