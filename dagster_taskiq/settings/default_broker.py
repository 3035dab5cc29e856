"""Broker and backend if none is named, and what the URLs stand for that are no addresses."""

from dagster_taskiq.errors import ConfigError
from dagster_taskiq.settings.dagster_storage import (
    STORAGE_URL,
    is_storage,
    required_storage_url,
    storage_url,
)
from dagster_taskiq.settings.embedded import EMBEDDED_URL, file_url
from dagster_taskiq.settings.env import BACKEND_ENV
from dagster_taskiq.settings.sqs_names import SQS_SCHEME, is_sqs
from dagster_taskiq.settings.urls import redact, scheme_of

#: The scheme of a backend that is on the broker's own server, as Celery names it.
RPC_SCHEME = "rpc"

#: The broker if nothing is configured: Dagster's own database if it is a PostgreSQL, which several
#: machines can reach, else the embedded one.
DEFAULT_URL = "default:"

#: What no backend beside SQS may be, by scheme, and why.
_KEEP_NOTHING = {
    SQS_SCHEME: "SQS keeps messages, and nothing else",
    "memory": "each process has a memory of its own",
}
_HOW_TO_NAME_ONE = (
    f"Set `backend`, or the variable {BACKEND_ENV}, to postgresql://USER:PASSWORD@HOST/DATABASE or "
    "redis://HOST:6379/0. If Dagster's storage is a PostgreSQL (`storage: postgres:` in "
    f"dagster.yaml), that is the default, which `{STORAGE_URL}` names too."
)


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


def backend_of(broker: str, backend: str | None, home: str | None) -> str | None:
    """Return the URL of the server or file that is the backend; ``None`` for the broker's own.

    SQS keeps messages and nothing else, so beside it the default is the database of Dagster's
    storage.

    Args:
        broker: the broker's URL, as :func:`address_of` returns it.
        backend: as it was configured; ``None`` if it was not.
        home: as for :func:`address_of`.

    Raises:
        ConfigError: as :func:`address_of`; or there is nothing beside SQS that keeps the state.
    """
    if not is_sqs(broker):
        return address_of(backend, home) if backend else None
    if backend and scheme_of(backend) in _KEEP_NOTHING:
        raise ConfigError(
            f"The backend {redact(backend)} cannot keep the state of tasks and workers beside SQS "
            f"({redact(broker)}): {_KEEP_NOTHING[scheme_of(backend)]}. {_HOW_TO_NAME_ONE}"
        )
    if backend and scheme_of(backend) != RPC_SCHEME:
        return address_of(backend, home)
    found = storage_url(home)
    if found is None:
        raise ConfigError(
            f"SQS ({redact(broker)}) keeps messages, and not the state of tasks and workers: for "
            f"that it needs a backend beside it. {_HOW_TO_NAME_ONE}"
        )
    return found


def warning_of_one_machine(broker: str, backend: str) -> str | None:
    """Return why only one machine can work, although its broker serves several; ``None`` if not so.

    Args:
        broker: its URL, as :func:`address_of` returns it.
        backend: likewise.
    """
    if not is_sqs(broker) or scheme_of(backend) not in ("sqlite", scheme_of(EMBEDDED_URL)):
        return None
    return (
        f"The backend {redact(backend)} is a file on this machine, and {redact(broker)} serves "
        "several: runs and workers elsewhere would have the messages, and not the state of their "
        f"tasks. Unless all are on this machine, name another one. {_HOW_TO_NAME_ONE}"
    )
