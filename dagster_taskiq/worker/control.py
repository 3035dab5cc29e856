"""What a worker can be told from outside: stop a task, drain, end.

Commands are mail in the worker's own channel. A ``revoke`` that is lost is made up for by the
next heartbeat, which reads the same fact from the task's record.
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

logger = logging.getLogger("dagster_taskiq.worker.control")

#: How long one wait for mail lasts, in seconds.
WAIT_SECONDS = 5.0
#: The pause after a failed read, in seconds.
RETRY_SECONDS = 1.0


class Control:
    """Obeys the mail of one worker until it is cancelled."""

    def __init__(
        self,
        backend: StateBackend,
        worker_id: str,
        cancellation: Cancellation,
        drain: Callable[[], None],
        kill: Callable[[], None],
    ) -> None:
        self._backend = backend
        self._channel = worker_channel(worker_id)
        self._cancellation = cancellation
        self._drain = drain
        self._kill = kill
        self._cursor = FROM_START

    async def run(self) -> None:
        """Read and obey."""
        while True:
            try:
                mails = await self._backend.collect(self._channel, self._cursor, WAIT_SECONDS)
            except ServerUnavailableError as error:
                logger.debug("Cannot read commands: %s", error)
                await asyncio.sleep(RETRY_SECONDS)
                continue
            except Exception:
                # Nobody waits for this coroutine; without it, the worker would be deaf.
                logger.exception("Cannot read commands.")
                await asyncio.sleep(RETRY_SECONDS)
                continue
            for mail in mails:
                self._cursor = mail.cursor
                try:
                    self._obey(mail.body)
                except (AttributeError, TypeError, ValueError):
                    # Whoever wrote that, the commands after it count.
                    logger.warning("Ignored a command that cannot be read: %.200r.", mail.body)

    def _obey(self, body: dict[str, Any]) -> None:
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
            logger.info("Told to drain.")
            self._drain()
        elif name == Command.KILL.value:
            logger.info("Told to end.")
            self._kill()
        else:
            logger.warning("Ignored a command this version does not know: %r.", name)
