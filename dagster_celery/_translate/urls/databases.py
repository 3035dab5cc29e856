"""URLs of databases, such as ``sqla+sqlite:///file`` and ``db+postgresql://host/name``."""

from dagster_celery._translate.urls.other import shared_with_broker
from dagster_celery._translate.urls.scheme import Beside, Found
from dagster_taskiq.errors import ConfigError
from dagster_taskiq.settings.urls import redact, scheme_of


def database_broker(text: str, _: Beside) -> Found:
    """Return the engine's URL of a database that is the broker.

    Raises:
        ConfigError: it is neither a file of SQLite nor a PostgreSQL.
    """
    url = _sqlite(text) or _postgresql(text)
    if url is None:
        raise ConfigError(
            f'Nothing here serves the broker "{redact(text)}": of databases, a PostgreSQL can be '
            "the broker (postgresql://HOST/DATABASE), or a file of SQLite "
            "(sqlite:////absolute/path, for workers on one machine). Use one of them, "
            "redis://HOST:6379/0 or amqp://HOST:5672// instead."
        )
    return Found(url, ("Its tables are the engine's own; those of Celery are left alone.",))


def database_backend(text: str, beside: Beside) -> Found:
    """Return the engine's URL of a database that is the backend.

    The state of tasks is kept on the broker's own server if it is no file of SQLite; in a
    PostgreSQL only if that server keeps no state.
    """
    url = _sqlite(text)
    if url is None and not beside.broker_keeps_state:
        url = _postgresql(text)
    return shared_with_broker(text, beside) if url is None else Found(url)


def _postgresql(text: str) -> str | None:
    """Return the engine's URL of ``db+postgresql://host/name``; ``None`` if it is none of these.

    A driver that is named is left out: the engine has its own.
    """
    _, _, rest = text.partition("+")
    dialect = scheme_of(rest).partition("+")[0]
    address = rest.partition("://")[2]
    return f"postgresql://{address}" if dialect in ("postgresql", "postgres") else None


def _sqlite(text: str) -> str | None:
    """Return the engine's URL of ``db+sqlite:///file``; ``None`` if it is no file of SQLite."""
    _, _, rest = text.partition("+")
    dialect = scheme_of(rest)
    path = rest.partition("://")[2]
    if dialect.split("+")[0] != "sqlite" or path.strip("/") in ("", ":memory:"):
        return None
    return f"sqlite://{path}"
