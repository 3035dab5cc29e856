"""The way from a child to the servers of its worker."""

from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.transport.relay.backend import RelayedBackend
from dagster_taskiq.transport.relay.broker import RelayedBroker
from dagster_taskiq.transport.relay.connection import RelayConnection


class Relay:
    """The worker's socket, and the settings of the broker and backend behind it."""

    def __init__(self, path: str, settings: Settings) -> None:
        self._path = path
        self._settings = settings

    def leads_to(self, settings: Settings) -> bool:
        """Return whether settings name the broker and backend of the worker."""
        return _place(settings.resolved()) == _place(self._settings)

    def make(self, settings: Settings) -> RelayedBroker:
        """Return a broker and its backend; nothing is connected."""
        resolved, connection = (
            settings.resolved(),
            RelayConnection(self._path, self._settings.broker),
        )
        broker = RelayedBroker(resolved, connection)
        broker.result_backend = RelayedBackend(resolved, connection)
        return broker


def _place(settings: Settings) -> tuple[object, ...]:
    options = (dict(settings.broker_options), dict(settings.options_of_backend))
    return (settings.broker, settings.backend_url, settings.prefix, *options)
