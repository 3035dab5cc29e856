"""What a worker logs when it starts beside queues of Celery's."""

import logging
import threading
from collections.abc import Sequence

from dagster_celery._celery_app.app import CeleryApp
from dagster_celery._upgrade.open_servers import open_queues
from dagster_celery._upgrade.servers import celery_servers

logger = logging.getLogger("dagster_celery")

#: The command that shows what is left, and what to read about it.
COMMAND = "dagster-celery drain"
_GUIDE = "docs/how-to/upgrade-day.md"


def log_leftovers(app: CeleryApp, queues: Sequence[str]) -> threading.Thread:
    """Look for what Celery has left, in a thread, and log it.

    Whatever goes wrong with that is logged for debugging only: it is no reason not to start.

    Args:
        app: the app of the worker.
        queues: the queues that the worker serves; those of the app if there are none.

    Returns:
        The thread; it does not keep the process from ending.
    """
    thread = threading.Thread(
        target=_log, args=(app, tuple(queues)), name="celery-leftovers", daemon=True
    )
    thread.start()
    return thread


def leftover_notices(app: CeleryApp, queues: Sequence[str]) -> list[tuple[int, str]]:
    """Return what is to be logged: the level and the text of each line.

    Args:
        app: the app of the worker.
        queues: as for :func:`log_leftovers`.

    Raises:
        ServerUnavailableError: the broker does not answer.
        ConfigError: the broker has no queues of Celery's, or does not let us look.
    """
    servers = celery_servers(app)
    names = list(dict.fromkeys(queues)) or list(servers.queues)
    notices = []
    with open_queues(servers) as (left, _):
        counts = [each for each in left.count(names) if not each.is_empty]
        if counts:
            found = ", ".join(
                f'{each.waiting + (each.taken or 0)} in queue "{each.queue}"' for each in counts
            )
            text = (
                f"Messages of dagster-celery are left in Celery's queues ({found}), and no worker "
                f"of this package executes them. `{COMMAND}`, with the -y of this worker, shows "
                f"them, and with --rescue executes them here. See {_GUIDE}."
            )
            notices.append((logging.WARNING, text))
        if servers.is_redis and left.traces(names):
            text = (
                "Celery has used these queues on this Redis, where it executed LOWER priorities "
                "first. Here higher ones are first, as on every broker: tags that were inverted "
                f'for that are to be turned round. See "Priorities on Redis" in {_GUIDE}.'
            )
            notices.append((logging.INFO, text))
    return notices


def _log(app: CeleryApp, queues: Sequence[str]) -> None:
    try:
        for level, text in leftover_notices(app, queues):
            logger.log(level, "%s", text)
    except Exception as error:
        logger.debug("Celery's queues could not be looked at: %s", error)
