"""The broker if none is named, and what the URLs stand for that are no addresses."""

from dagster_taskiq.settings.dagster_storage import is_storage, required_storage_url, storage_url
from dagster_taskiq.settings.embedded import EMBEDDED_URL, file_url
from dagster_taskiq.settings.urls import scheme_of

#: The broker if nothing is configured: Dagster's own database if it is a PostgreSQL, which several
#: machines can reach, else the embedded one.
DEFAULT_URL = "default:"


def address_of(url: str, home: str | None) -> str:
    """Return the URL of the server or file that a URL stands for; any other URL unchanged.

    Args:
        url: the URL of a broker or backend.
        home: the directory of the Dagster instance; ``None`` for ``$DAGSTER_HOME``.

    Raises:
        ConfigError: the embedded broker is wanted and there is no directory for its file; or the
            database of Dagster's storage is, and there is none.
    """
    if scheme_of(url) == scheme_of(DEFAULT_URL):
        url = storage_url(home) or EMBEDDED_URL
    if is_storage(url):
        return required_storage_url(url, home)
    return file_url(url, home)
