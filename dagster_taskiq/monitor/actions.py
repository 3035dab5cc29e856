"""What the monitor changes if it is asked, and only if it was started with ``--allow-actions``.

Each action is a POST with JSON, and is answered by a sentence: what was done, or why not. It is
done to what is there when it is asked for, which may be other than what the page showed last.
"""

import json
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from aiohttp import web

from dagster_taskiq.errors import DagsterTaskiqError
from dagster_taskiq.monitor.access import check_action
from dagster_taskiq.monitor.watcher import Watcher
from dagster_taskiq.wire.commands import Command, command
from dagster_taskiq.wire.notifications import worker_channel
from dagster_taskiq.wire.records import Worker
from dagster_taskiq.wire.rejected_messages import LISTED

logger = logging.getLogger(__name__)

#: Why a task was cancelled, for its record and for logs.
REVOKED = "it was cancelled in the monitor"


class RefusedError(Exception):
    """An action cannot be done; the text says why, and what to do."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


#: Why something cannot be done to a message.
_LEFT = (
    "they are not there any more, are being looked at by another process, or were too large to be "
    "kept whole, and can only be deleted."
)

Body = Mapping[str, Any]


class Actions:
    """The actions of one monitor."""

    def __init__(self, watcher: Watcher) -> None:
        """Do nothing yet.

        Args:
            watcher: knows the workers, and has the connections to broker and backend.
        """
        self._watcher = watcher

    def add_to(self, app: web.Application) -> None:
        """Add the routes to an application."""
        actions: Mapping[str, Callable[[Body], Awaitable[str]]] = {
            "drain": self._drain,
            "terminate": self._terminate,
            "revoke": self._revoke,
            "requeue": self._requeue,
            "delete": self._delete,
        }
        for name, act in actions.items():
            app.router.add_post(f"/api/actions/{name}", _handler(name, act))
        # Here, and not with what may be read anyway: bodies of messages hold arguments.
        app.router.add_get("/api/rejected", self._rejected)

    async def _rejected(self, _: web.Request) -> web.Response:
        try:
            messages = await self._watcher.broker.list_rejected(LISTED)
        except DagsterTaskiqError as error:
            return _refusal(503, error)
        return web.json_response({"messages": [asdict(each) for each in messages]})

    async def _drain(self, body: Body) -> str:
        worker = await self._send(_text(body, "worker"), Command.DRAIN)
        return (
            f"Worker {worker.name} was told to drain: it finishes what it runs, "
            f"{_tasks(len(worker.running))}, takes no more, and ends."
        )

    async def _terminate(self, body: Body) -> str:
        worker = await self._send(_text(body, "worker"), Command.KILL)
        return (
            f"Worker {worker.name} was told to end: it stops what it runs, "
            f"{_tasks(len(worker.running))}."
        )

    async def _send(self, worker_id: str, name: Command) -> Worker:
        """Send a worker a command; return its record."""
        worker = next(
            (each for each in await self._watcher.backend.workers() if each.id == worker_id), None
        )
        if worker is None:
            raise RefusedError(404, f"There is no worker {worker_id} any more.")
        if worker.is_lost:
            raise RefusedError(
                409,
                f"Worker {worker.name} is lost, and would not notice. If its process (host "
                f"{worker.host}, pid {worker.pid}) is still there, end it there.",
            )
        await self._watcher.backend.post(worker_channel(worker_id), command(name))
        return worker

    async def _revoke(self, body: Body) -> str:
        task_id = _text(body, "task")
        # There is no record of a user's own task that waits.
        task = (await self._watcher.backend.tasks([task_id])).get(task_id)
        if task is not None and task.state.is_final:
            raise RefusedError(409, f"Task {task_id} has ended already: {task.state.value}.")
        await self._watcher.broker.cancel(task_id, REVOKED)
        if task is not None and task.worker:
            return f"Task {task_id} was cancelled: its worker stops it."
        return f"Task {task_id} was cancelled: if it still waits, it will not start."

    async def _requeue(self, body: Body) -> str:
        ids = _ids(body)
        return _done("put back into its queue", ids, await self._watcher.broker.requeue(ids))

    async def _delete(self, body: Body) -> str:
        ids = _ids(body)
        return _done("deleted", ids, await self._watcher.broker.delete_rejected(ids))


def _handler(
    name: str, act: Callable[[Body], Awaitable[str]]
) -> Callable[[web.Request], Awaitable[web.Response]]:
    """Return what answers the requests for one action."""

    async def handle(request: web.Request) -> web.Response:
        refusal = check_action(request)
        if refusal:
            return _refusal(403, refusal)
        try:
            done = await act(await _read(request))
        except RefusedError as error:
            return _refusal(error.status, error)
        except DagsterTaskiqError as error:
            return _refusal(503, error)
        logger.info("%s asked for the action %s: %s", request.remote, name, done)
        return web.json_response({"message": done})

    return handle


async def _read(request: web.Request) -> Body:
    try:
        body = await request.json()
    except (json.JSONDecodeError, UnicodeDecodeError):
        body = None
    if not isinstance(body, dict):
        raise RefusedError(400, "The body of the request must be a JSON object.")
    return body


def _text(body: Body, name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str) or not value:
        raise RefusedError(400, f'The body of the request must have "{name}": an id.')
    return value


def _ids(body: Body) -> list[str]:
    values = body.get("messages")
    if not isinstance(values, list) or not values or not all(isinstance(x, str) for x in values):
        raise RefusedError(400, 'The body of the request must have "messages": a list of ids.')
    return values


def _done(what: str, ids: Sequence[str], done: Sequence[str]) -> str:
    """Return what was done to messages, and to which it was not."""
    left = [each for each in ids if each not in done]
    if not done:
        raise RefusedError(409, f"No message was {what}: {_LEFT}")
    text = f"{len(done)} message{'s were each' if len(done) > 1 else ' was'} {what}."
    return f"{text} {len(left)} not: {_LEFT}" if left else text


def _refusal(status: int, why: str | Exception) -> web.Response:
    return web.json_response({"error": str(why)}, status=status)


def _tasks(number: int) -> str:
    return f"{number} task{'s' * (number != 1)}"
