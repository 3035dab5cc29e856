"""The commands that a worker receives from other processes: stop a task, drain, end, be watched.

Commands are notifications in the worker's own channel. If one to revoke a task is lost, the next
heartbeat does the same, because the task's record has that as well.
"""

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from dagster_taskiq.errors import ServerUnavailableError
from dagster_taskiq.transport.backend import StateBackend
from dagster_taskiq.wire.commands import Command
from dagster_taskiq.wire.notifications import FROM_START, worker_channel
from dagster_taskiq.worker.cancellation import Cancellation

logger = logging.getLogger(__name__)

#: How long one wait for commands lasts, in seconds; it may be less.
WAIT_SECONDS = 20.0
#: The pause after a failed read, in seconds.
RETRY_SECONDS = 1.0


class Control:
    """Receives the commands for one worker and carries them out."""

    def __init__(
        self,
        backend: StateBackend,
        worker_id: str,
        cancellation: Cancellation,
        drain: Callable[[], None],
        kill: Callable[[], None],
        watch: Callable[[float], None],
    ) -> None:
        """Receive nothing yet.

        Args:
            backend: holds the channel with the commands.
            worker_id: whose channel it is.
            cancellation: stops a task that is revoked.
            drain: called for the command to drain.
            kill: called for the command to end at once.
            watch: called for the command that a monitor watches, with its seconds.
        """
        self._backend = backend
        self._channel = worker_channel(worker_id)
        self._cancellation = cancellation
        self._drain = drain
        self._kill = kill
        self._watch = watch
        self._cursor = FROM_START

    async def run(self) -> None:
        """Receive commands and carry them out, until this is cancelled."""
        trouble = ""
        while True:
            try:
                notifications = await self._backend.collect(
                    self._channel, self._cursor, WAIT_SECONDS
                )
            except ServerUnavailableError as error:
                logger.debug("Cannot read commands: %s", error)
                await asyncio.sleep(RETRY_SECONDS)
                continue
            except Exception as error:
                # If this coroutine ended, nothing would report it, and no command would arrive.
                if str(error) != trouble:
                    logger.exception("Cannot read commands.")
                trouble = str(error)
                await asyncio.sleep(RETRY_SECONDS)
                continue
            trouble = ""
            for notification in notifications:
                self._cursor = notification.cursor
                try:
                    self._carry_out(notification.body)
                except (AttributeError, LookupError, TypeError, ValueError):
                    # The commands after it must not be lost with it.
                    logger.warning(
                        "Ignored a command that cannot be read: %.200r.", notification.body
                    )

    def _carry_out(self, body: dict[str, Any]) -> None:
        name = body.get("command")
        if name == Command.REVOKE.value:
            cancel = partial(
                self._cancellation.cancel,
                str(body.get("task")),
                str(body.get("reason") or "it was revoked"),
                at_once=bool(body.get("at_once")),
            )
            asyncio.get_running_loop().call_later(float(body.get("after") or 0), cancel)
        elif name == Command.DRAIN.value:
            logger.info("Received the command to drain.")
            self._drain()
        elif name == Command.KILL.value:
            logger.info("Received the command to end at once.")
            self._kill()
        elif name == Command.WATCH.value:
            self._watch(float(body["seconds"]))
        else:
            logger.warning("Ignored a command that this release does not know: %r.", name)
