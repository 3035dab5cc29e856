"""The name of a worker."""

import uuid


def get_worker_name(name: str | None = None) -> str:
    """Return a worker's name, with Celery's placeholder for the host.

    Args:
        name: the part before the host; ``dagster-`` and six random characters for ``None``.
    """
    return f"{name or f'dagster-{str(uuid.uuid4())[-6:]}'}@%h"
