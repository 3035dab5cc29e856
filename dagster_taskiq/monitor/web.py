"""The HTTP server of the monitor: the page, its live events, and the JSON API.

What the last look at the fleet has found is answered; a look that has failed is told as
``trouble``. A queue that an autoscaler asks for is never answered by what is no longer known.
"""

import asyncio
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aiohttp import web

from dagster_taskiq.monitor.celery_metrics import celery_metrics
from dagster_taskiq.monitor.metrics import MetricsText, fleet_metrics
from dagster_taskiq.monitor.snapshot import FleetView, has_changed
from dagster_taskiq.monitor.watcher import Watcher
from dagster_taskiq.worker.metrics import CONTENT_TYPE

#: The page and what belongs to it, which are served as they are.
PAGE = Path(__file__).parent / "page"
#: The shortest time between two events of one stream, and the longest time without a line, in
#: seconds: what is in between closes silent connections.
EVENT_SECONDS = 0.5
SILENT_SECONDS = 15.0
#: After how many seconds the fleet is sent again though only ages have changed.
SAME_SECONDS = 5.0
#: After how many milliseconds a page asks for a new stream when its stream has ended.
RECONNECT_MILLISECONDS = 2000
#: How many streams there may be at once.
STREAMS = 100


class MonitorWeb:
    """The routes of the monitor."""

    def __init__(
        self, watcher: Watcher, settings: Mapping[str, Any], *, celery_names: bool
    ) -> None:
        """Serve nothing yet.

        Args:
            watcher: looks at the fleet, and runs already or will.
            settings: what the page has to know of this monitor, as JSON data.
            celery_names: whether the metrics have the names of celery-exporter and Flower too.
        """
        families = (fleet_metrics, celery_metrics) if celery_names else (fleet_metrics,)
        self._text = MetricsText(watcher.fleet, families)
        self._watcher = watcher
        self._fleet = watcher.fleet
        self._settings = settings
        self._streams: set[asyncio.Task[Any]] = set()

    def add_to(self, app: web.Application) -> None:
        """Add the routes to an application."""
        app.add_routes(
            [
                web.get("/healthz", self._health),
                web.get("/api/settings", self._answer_settings),
                web.get("/api/fleet", self._whole_fleet),
                web.get("/api/queues", self._queues),
                web.get("/api/queues/{name:.+}", self._queue),
                web.get("/api/workers", self._workers),
                web.get("/api/tasks", self._tasks),
                web.get("/metrics", self._metrics),
                web.get("/events", self._events),
                web.get("/", self._index),
                web.get(r"/{name:\w+\.\w+}", self._file),
            ]
        )
        app.on_shutdown.append(self._end_streams)

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _index(self, _: web.Request) -> web.FileResponse:
        return web.FileResponse(PAGE / "index.html")

    async def _file(self, request: web.Request) -> web.FileResponse:
        file = PAGE / request.match_info["name"]
        if not file.is_file():
            raise web.HTTPNotFound
        return web.FileResponse(file)

    async def _answer_settings(self, _: web.Request) -> web.Response:
        return _json(self._settings)

    async def _whole_fleet(self, _: web.Request) -> web.Response:
        await self._watcher.refresh()
        return _json(self._fleet.view().to_plain())

    async def _queues(self, _: web.Request) -> web.Response:
        await self._watcher.refresh()
        queues = [each.to_plain() for each in self._fleet.view().queues]
        return self._known({"queues": queues})

    async def _queue(self, request: web.Request) -> web.Response:
        await self._watcher.refresh()
        return self._known(self._fleet.queue(request.match_info["name"]).to_plain())

    async def _workers(self, _: web.Request) -> web.Response:
        await self._watcher.refresh()
        return self._known({"workers": self._fleet.view().to_plain()["workers"]})

    async def _tasks(self, _: web.Request) -> web.Response:
        await self._watcher.refresh()
        plain = self._fleet.view().to_plain()
        return self._known({name: plain[name] for name in ("running", "ended", "ended_unlisted")})

    async def _metrics(self, _: web.Request) -> web.Response:
        await self._watcher.refresh()
        body = await self._text.get()
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE})

    def _known(self, plain: Mapping[str, Any]) -> web.Response:
        """Return an answer; 503 if it would be older than the asker may expect.

        An autoscaler that is told that nothing waits, because a server is away, would end workers.
        """
        if self._fleet.trouble:
            return _json({"trouble": self._fleet.trouble}, status=503)
        return _json(plain)

    async def _events(self, request: web.Request) -> web.StreamResponse:
        """Send the fleet as it is, and then each change, until the other side has left.

        The event ``fleet`` has all of it, ``change`` the same with only those ended tasks that were
        not sent before. Ages that grow are no change: the other side counts on by itself.
        """
        if len(self._streams) >= STREAMS:
            return web.Response(status=503, text="Too many pages are open. Close some.\n")
        response = web.StreamResponse(
            headers={
                "Content-Type": "text/event-stream",
                "Cache-Control": "no-store",
                "X-Accel-Buffering": "no",
            }
        )
        task = asyncio.current_task()
        assert task is not None
        self._streams.add(task)
        try:
            await response.prepare(request)
            async with self._watcher.watched():
                await self._stream(response)
        except ConnectionResetError:
            pass  # the page was closed
        finally:
            self._streams.discard(task)
        return response

    async def _stream(self, response: web.StreamResponse) -> None:
        event, listed, looks = "fleet", 0, 0
        sent: FleetView | None = None
        sent_at = 0.0
        await response.write(f"retry: {RECONNECT_MILLISECONDS}\n\n".encode())
        while True:
            if await self._watcher.wait_for_look(looks, SILENT_SECONDS):
                looks, now = self._watcher.looks, time.monotonic()
                view = self._fleet.view(listed)
                if sent is None or now >= sent_at + SAME_SECONDS or has_changed(sent, view):
                    sent, sent_at = view, now
                    data = _dumps(view.to_plain())
                    await response.write(f"event: {event}\ndata: {data}\n\n".encode())
                    event, listed = "change", self._fleet.ended.last
                await asyncio.sleep(now + EVENT_SECONDS - time.monotonic())
            else:
                await response.write(b": nothing new\n\n")

    async def _end_streams(self, _: web.Application) -> None:
        for each in self._streams:
            each.cancel()


def _dumps(plain: Any) -> str:
    return json.dumps(plain, separators=(",", ":"))


def _json(plain: Any, status: int = 200) -> web.Response:
    headers = {"Cache-Control": "no-store"}
    return web.json_response(plain, status=status, dumps=_dumps, headers=headers)
