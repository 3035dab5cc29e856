"""The embedded broker: its URL, and the SQLite file that the URL stands for."""

from pathlib import Path

from dagster_taskiq.errors import ConfigError
from dagster_taskiq.settings.env import BROKER_ENV, checked_home, read_home
from dagster_taskiq.settings.urls import scheme_of

#: The broker in a SQLite file under ``$DAGSTER_HOME``.
EMBEDDED_URL = "embedded://"

#: The file of the embedded broker, relative to ``$DAGSTER_HOME``.
EMBEDDED_FILE = Path("dagster_taskiq") / "queue.db"


def file_url(url: str, home: str | None) -> str:
    """Return the URL of the embedded broker's file for ``embedded://``; any other URL unchanged.

    Args:
        url: the URL of a broker or backend.
        home: the directory of the Dagster instance; ``None`` for ``$DAGSTER_HOME``.

    Raises:
        ConfigError: the embedded broker is wanted and there is no directory for its file.
    """
    if scheme_of(url) != scheme_of(EMBEDDED_URL):
        return url
    directory = checked_home(home) if home else read_home()
    if directory is None:
        raise ConfigError(
            "The embedded broker keeps its file under $DAGSTER_HOME, which is not set. Set "
            f"DAGSTER_HOME to an absolute path, or name a broker (`broker`, or {BROKER_ENV})."
        )
    return f"sqlite:///{directory / EMBEDDED_FILE}"
