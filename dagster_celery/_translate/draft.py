"""A translation of settings while it is being put together."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dagster_celery._translate.connection_options import Server, server_of
from dagster_celery._translate.rows import Remark, Translation


@dataclass(frozen=True)
class Given:
    """One setting as the user wrote it."""

    #: Where and under which name: ``config_source.CELERYD_CONCURRENCY``.
    subject: str
    #: Today's name of it.
    name: str
    value: Any


@dataclass
class Draft:
    """What has been translated so far, and what the single settings look at beside themselves."""

    #: All that was given, by today's names.
    given: Mapping[str, Given]
    settings: dict[str, Any] = field(default_factory=dict)
    worker: dict[str, Any] = field(default_factory=dict)
    app: dict[str, Any] = field(default_factory=dict)
    remarks: list[Remark] = field(default_factory=list)

    def value(self, name: str, default: Any = None) -> Any:
        """Return what a setting was given as; ``default`` where it was not, or as ``None``."""
        found = self.given.get(name)
        return default if found is None or found.value is None else found.value

    @property
    def server(self) -> Server:
        """What the broker is; none where no URL is known."""
        return server_of(self.settings.get("broker", ""))

    @property
    def backend_server(self) -> Server:
        """What the backend is, where it is not the broker's own server."""
        return server_of(self.settings.get("backend", ""))

    def remark(self, subject: str, says: str) -> None:
        """Add a remark that begins with its subject."""
        self.remarks.append(Remark(subject, f"{subject} {says}"))

    def add_options(self, becomes: str, options: Mapping[str, Any]) -> None:
        """Add options of the broker's connection, or of the backend's."""
        if options:
            self.settings[becomes] = {**self.settings.get(becomes, {}), **options}

    def finished(self) -> Translation:
        """Return it as what the rest of the facade reads."""
        return Translation(self.settings, self.worker, self.app, tuple(self.remarks))
