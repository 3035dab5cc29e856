"""A translation of settings on the way."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dagster_celery._translate.connections.servers import Server, server_of
from dagster_celery._translate.rows import Remark, Translation


@dataclass(frozen=True)
class Given:
    """A setting as the user wrote it."""

    #: Its name in remarks and errors, with its source: ``config_source.CELERYD_CONCURRENCY``.
    subject: str
    #: Its name today.
    name: str
    value: Any


@dataclass
class Draft:
    """The settings that are given, and what has been translated of them so far."""

    #: All settings that are given, by their names today.
    given: Mapping[str, Given]
    settings: dict[str, Any] = field(default_factory=dict)
    worker: dict[str, Any] = field(default_factory=dict)
    app: dict[str, Any] = field(default_factory=dict)
    remarks: list[Remark] = field(default_factory=list)

    def value(self, name: str, default: Any = None) -> Any:
        """Return the value of a setting; ``default`` if it is not given, or given as ``None``."""
        found = self.given.get(name)
        return default if found is None or found.value is None else found.value

    @property
    def server(self) -> Server:
        """The kind of server of the broker; none if no URL is known."""
        return server_of(self.settings.get("broker", ""))

    @property
    def backend_server(self) -> Server:
        """The kind of server of the backend; none if it is on the broker's own server."""
        return server_of(self.settings.get("backend", ""))

    def remark(self, subject: str, rest: str, is_loss: bool = False) -> None:
        """Add a remark.

        Args:
            subject: the name of the setting, with which the remark begins.
            rest: the rest of the sentence.
            is_loss: whether something that it asks for is not done.
        """
        self.remarks.append(Remark(subject, f"{subject} {rest}", is_loss))

    def loss(self, given: Given, rest: str) -> str:
        """Add a remark on a setting of which something is not done; return an empty text."""
        self.remark(given.subject, rest, is_loss=True)
        return ""

    def add_options(self, becomes: str, options: Mapping[str, Any]) -> None:
        """Add options to ``broker_options`` or ``backend_options``."""
        if options:
            self.settings[becomes] = {**self.settings.get(becomes, {}), **options}

    def finished(self) -> Translation:
        """Return the translation."""
        return Translation(self.settings, self.worker, self.app, tuple(self.remarks))
