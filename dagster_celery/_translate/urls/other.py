"""URLs of memory, of the broker's own server, and of backends that are not used here."""

from dagster_celery._translate.urls.scheme import Beside, Found

#: The backend on the broker's own server.
SHARED_WITH_BROKER = "rpc://"

#: The rest of a sentence about a backend that is not used.
NOT_USED = (
    "is not used: Dagster's event log has the results, and the state of tasks and workers is kept "
    "on the broker's own server."
)

#: The same, and what to do, if the broker keeps no state.
NOT_USED_BESIDE_SQS = (
    "is not used: Dagster's event log has the results. The state of tasks and workers, which SQS "
    "does not keep, is in the database of Dagster's storage if that is a PostgreSQL. Write "
    '"dagster-storage:", or name a backend for it, such as redis://HOST:6379/0 or '
    "postgresql://USER:PASSWORD@HOST/DATABASE."
)


def unchanged(text: str, _: Beside) -> Found:
    """Return a URL that is the same for the engine."""
    return Found(text)


def rpc(_: str, __: Beside) -> Found:
    """Return the URL of the backend on the broker's own server."""
    return Found(SHARED_WITH_BROKER)


def shared_with_broker(text: str, beside: Beside) -> Found:
    """Return the same for a backend that is not used, with a sentence about that."""
    return Found(
        SHARED_WITH_BROKER,
        (f"That one {not_used(beside)}",),
        is_loss=not text.startswith("disabled"),
    )


def not_used(beside: Beside) -> str:
    """Return the rest of a sentence about a backend that is not used, and what to write."""
    if not beside.broker_keeps_state:
        return NOT_USED_BESIDE_SQS
    return f'{NOT_USED} Write "{SHARED_WITH_BROKER}", or leave `backend` out.'
