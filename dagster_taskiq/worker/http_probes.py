"""The HTTP server of a worker, for the probes of Kubernetes, Prometheus, and what checks services.

``/livez`` answers as long as the worker's event loop does, and knows of no broker: a liveness probe
restarts what does not answer, and a restart repairs no broker. ``/readyz`` is 503 while the worker
starts, drains, or cannot reach its broker or backend. Both answer in a word or a few, with no name
among them. ``/metrics`` is what the worker itself has run and holds, and asks no broker either.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from aiohttp import web

from dagster_taskiq.errors import ConfigError, DagsterTaskiqError
from dagster_taskiq.transport.background import look_at
from dagster_taskiq.wire.records import Worker
from dagster_taskiq.worker.metrics import CONTENT_TYPE, render_worker

logger = logging.getLogger(__name__)

#: How long broker and backend have to answer, in seconds; less than a probe should be given.
PING_SECONDS = 3.0


class HttpProbes:
    """Serves the probes of one worker."""

    def __init__(
        self,
        port: int,
        state: Callable[[], str],
        ping: Callable[[], Awaitable[None]],
        describe: Callable[[], Worker],
    ) -> None:
        """Serve nothing yet.

        Args:
            port: where to listen, on all addresses, since kubelet asks that of the pod.
            state: returns ``starting``, ``idle``, ``busy`` or ``draining``.
            ping: returns when broker and backend have answered, and raises if one does not.
            describe: returns the worker as its next heartbeat shows it.
        """
        self._port = port
        self._state = state
        self._ping = ping
        self._describe = describe
        #: The ping that has not been answered yet: one at a time, however often is asked.
        self._pinging: asyncio.Future[None] | None = None
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Begin to serve.

        Raises:
            ConfigError: the port is taken, or not allowed.
        """
        if self._runner is not None:
            return
        app = web.Application()
        paths = {"/livez": self._live, "/readyz": self._ready, "/metrics": self._metrics}
        app.add_routes([web.get(path, answer) for path, answer in paths.items()])
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, port=self._port).start()
        except OSError as error:
            await self.close()
            raise ConfigError(
                f"Cannot listen on port {self._port}, which --http-port names: {error.strerror}. "
                "Name another one."
            ) from None
        logger.info("Serving /livez, /readyz and /metrics on port %d.", self._port)

    async def close(self) -> None:
        """Serve no longer."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        if self._pinging is not None:
            self._pinging.cancel()

    async def _live(self, _: web.Request) -> web.Response:
        return web.Response(text=f"{self._state()}\n")

    async def _ready(self, _: web.Request) -> web.Response:
        state = self._state()
        if state in ("starting", "draining"):
            return web.Response(status=503, text=f"{state}\n")
        if not await self._servers_answer():
            return web.Response(status=503, text="the broker or backend does not answer\n")
        return web.Response(text=f"{state}\n")

    async def _metrics(self, _: web.Request) -> web.Response:
        body = render_worker(self._describe())
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE})

    async def _servers_answer(self) -> bool:
        if self._pinging is None or self._pinging.done():
            self._pinging = asyncio.ensure_future(self._ping())
            self._pinging.add_done_callback(look_at)
        # Waited for, and not cancelled: a command that is cut off costs some clients a connection.
        done, _ = await asyncio.wait({self._pinging}, timeout=PING_SECONDS)
        if not done:
            return False
        error = None if self._pinging.cancelled() else self._pinging.exception()
        if error is not None and not isinstance(error, DagsterTaskiqError):
            logger.error("Cannot ask broker and backend.", exc_info=error)
        return error is None and not self._pinging.cancelled()
