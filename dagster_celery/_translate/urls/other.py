"""URLs of memory, of the broker's own server, and of backends that are not used here."""

from dagster_celery._translate.urls.scheme import Found, Sentinel

#: The backend on the broker's own server.
SHARED_WITH_BROKER = "rpc://"

#: The rest of a sentence about a backend that is not used.
NOT_USED = (
    "is not used: Dagster's event log has the results, and the state of tasks and workers is kept "
    "on the broker's own server."
)


def unchanged(text: str, _: Sentinel) -> Found:
    """Return a URL that is the same for the engine."""
    return Found(text)


def rpc(_: str, __: Sentinel) -> Found:
    """Return the URL of the backend on the broker's own server."""
    return Found(SHARED_WITH_BROKER)


def shared_with_broker(text: str, _: Sentinel) -> Found:
    """Return the same for a backend that is not used, with a sentence about that."""
    return Found(
        SHARED_WITH_BROKER,
        (f'That one {NOT_USED} Write "{SHARED_WITH_BROKER}", or leave `backend` out.',),
        is_loss=not text.startswith("disabled"),
    )
