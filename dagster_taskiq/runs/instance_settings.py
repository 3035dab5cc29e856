"""The settings that the runs of one Dagster instance use."""

from dagster import DagsterInstance

from dagster_taskiq.dagster_internals.temporary_instance import temporary_home_of
from dagster_taskiq.errors import ConfigError
from dagster_taskiq.settings.default_broker import DEFAULT_URL
from dagster_taskiq.settings.embedded import EMBEDDED_URL
from dagster_taskiq.settings.env import BROKER_ENV, home_of
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.settings.urls import scheme_of


def settings_for(instance: DagsterInstance, settings: Settings) -> Settings:
    """Return settings with the addresses of broker and backend, as an instance has them.

    Args:
        instance: where the runs are.
        settings: as they were configured.

    Raises:
        ConfigError: as :meth:`Settings.resolved`; or the directory of the instance is a temporary
            one, whose embedded broker no worker would use.
    """
    home = home_of(instance)
    resolved = settings.resolved(home)
    schemes = {scheme_of(settings.broker), scheme_of(settings.backend or "")}
    by_default = scheme_of(DEFAULT_URL) in schemes and scheme_of(resolved.broker) == "sqlite"
    is_embedded = by_default or scheme_of(EMBEDDED_URL) in schemes
    if is_embedded and home is not None and home == temporary_home_of(instance):
        raise ConfigError(
            f"DAGSTER_HOME is not set, so this run is in a temporary Dagster instance ({home}) "
            "and its embedded broker would be there too, where no worker looks. Set "
            "DAGSTER_HOME to the absolute path of a directory, here and for workers; or name a "
            f"broker (`broker`, or {BROKER_ENV})."
        )
    return resolved
