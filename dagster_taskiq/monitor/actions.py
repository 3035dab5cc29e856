"""What the monitor changes if it is asked, and only if it was started with ``--allow-actions``.

Each action is a POST with JSON, and is answered by a sentence: what was done, or why not. It is
done to what is there when it is asked for, which may be other than what the page showed last. One
that the servers do not answer in time is given up, and the sentence says what is not known then.
"""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypeGuard, TypeVar

from aiohttp import web

from dagster_taskiq.errors import DagsterTaskiqError, ServerUnavailableError
from dagster_taskiq.monitor.access import check_action
from dagster_taskiq.monitor.watcher import Watcher
from dagster_taskiq.transport.background import look_at
from dagster_taskiq.wire.commands import Command, command
from dagster_taskiq.wire.notifications import worker_channel
from dagster_taskiq.wire.records import Worker
from dagster_taskiq.wire.rejected_messages import LISTED
from dagster_taskiq.wire.safe_text import printable

T = TypeVar("T")

logger = logging.getLogger(__name__)

#: How long broker and backend have for an action, or for a list, in seconds.
ACT_SECONDS = 8.0
#: How long an id may be, in bytes, and what is logged of ids and of an answer, in characters.
ID_BYTES = 1000
LOGGED_CHARACTERS = 300
AN_ID = f"an id of at most {ID_BYTES} bytes"
#: The status of an answer if a server is away.
SERVER_AWAY = 503
#: What is not known if a server does not answer in time.
ACTION_UNKNOWN = (
    "The action was given up, but may still be carried out once the server answers. Look at what "
    "has become of it before you ask for it again."
)
LIST_UNKNOWN = "So it is not known which messages were set aside. Ask again when it answers."
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
        actions: Mapping[str, tuple[Callable[[Body], Awaitable[str]], str]] = {
            "drain": (self._drain, "worker"),
            "terminate": (self._terminate, "worker"),
            "revoke": (self._revoke, "task"),
            "requeue": (self._requeue, "messages"),
            "delete": (self._delete, "messages"),
        }
        for name, (act, object_) in actions.items():
            app.router.add_post(f"/api/actions/{name}", self._handler(name, act, object_))
        # Here, and not with what may be read anyway: bodies of messages hold arguments.
        app.router.add_get("/api/rejected", self._rejected)

    async def _rejected(self, _: web.Request) -> web.Response:
        try:
            messages = await self._in_time(self._watcher.broker.list_rejected(LISTED), LIST_UNKNOWN)
        except RefusedError as error:
            return _refusal(error.status, error)
        return web.json_response({"messages": [asdict(each) for each in messages]})

    def _handler(
        self, name: str, act: Callable[[Body], Awaitable[str]], object_: str
    ) -> Callable[[web.Request], Awaitable[web.Response]]:
        """Return what answers the requests for one action.

        Args:
            name: its name.
            act: does it, once it has checked what the request names.
            object_: what the body of a request names: a worker, a task or messages.
        """

        async def handle(request: web.Request) -> web.Response:
            refusal = check_action(request)
            if refusal:
                return _refusal(403, refusal)
            body: Body = {}
            try:
                body = await _read(request)
                done = await self._in_time(act(body), ACTION_UNKNOWN)
            except RefusedError as error:
                if error.status == SERVER_AWAY:
                    _log(logging.WARNING, request, name, body[object_], str(error))
                return _refusal(error.status, error)
            _log(logging.INFO, request, name, body[object_], done)
            return web.json_response({"message": done})

        return handle

    async def _in_time(self, asked: Awaitable[T], unknown: str) -> T:
        """Return what the servers answer.

        Args:
            asked: asks them; cancelled if that takes too long.
            unknown: what is not known then, and what to do.

        Raises:
            RefusedError: a server is away, or does not answer in time; or as ``asked`` does.
        """
        task = asyncio.ensure_future(asked)
        # Not by wait_for: what is cancelled may wait for the server once more.
        done, _ = await asyncio.wait({task}, timeout=ACT_SECONDS)
        if not done:
            task.cancel()
            task.add_done_callback(look_at)
            silent = f"The servers have not answered within {ACT_SECONDS:g} s."
            raise RefusedError(SERVER_AWAY, f"{self._watcher.fleet.trouble or silent} {unknown}")
        try:
            return task.result()
        except ServerUnavailableError as error:
            # It may have gone away after it was asked.
            raise RefusedError(SERVER_AWAY, f"{error} {unknown}") from None
        except DagsterTaskiqError as error:
            raise RefusedError(SERVER_AWAY, str(error)) from None

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

    async def _send(self, which: str, name: Command) -> Worker:
        """Send a worker, by its id or a name that is no other's, a command; return its record."""
        workers = await self._watcher.backend.workers()
        found = [each for each in workers if each.id == which] or [
            each for each in workers if each.name == which
        ]
        if len(found) > 1:
            ids = ", ".join(each.id for each in found)
            raise RefusedError(
                409, f"{len(found)} workers have the name {which}. Give an id: {ids}."
            )
        if not found:
            raise RefusedError(
                404, f"There is no worker {which} any more. GET /api/workers has the ids of all."
            )
        (worker,) = found
        if worker.is_lost:
            raise RefusedError(
                409,
                f"Worker {worker.name} is lost, and would not notice. If its process (host "
                f"{worker.host}, pid {worker.pid}) is still there, end it there.",
            )
        await self._watcher.backend.post(worker_channel(worker.id), command(name))
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
        if task is not None:
            return f"Task {task_id} was cancelled: if it still waits, it will not start."
        return (
            f"There is no record of a task {task_id}: it has not started, or the id is wrong. It "
            "was cancelled: a message of it that waits, or still comes, is dropped."
        )

    async def _requeue(self, body: Body) -> str:
        ids = _ids(body)
        return _done("put back into its queue", ids, await self._watcher.broker.requeue(ids))

    async def _delete(self, body: Body) -> str:
        ids = _ids(body)
        return _done("deleted", ids, await self._watcher.broker.delete_rejected(ids))


def _log(level: int, request: web.Request, name: str, ids: str | list[str], answer: str) -> None:
    """Log a request for an action and what came of it; ids in it may be of any text."""
    logger.log(
        level,
        "%s asked for the action %s: %s Named: %s",
        request.remote,
        name,
        _as_logged(answer),
        _as_logged(json.dumps(ids)),
    )


def _as_logged(text: str) -> str:
    shown = printable(text[:LOGGED_CHARACTERS])
    return shown if len(text) <= LOGGED_CHARACTERS else f"{shown}..."


async def _read(request: web.Request) -> Body:
    try:
        body = await request.json()
    # ValueError is what is no JSON, or no text; LookupError an unknown charset, RecursionError too
    # many brackets, and the last one of those that do not say how they are compressed.
    except (ValueError, LookupError, RecursionError, web.RequestPayloadError):
        body = None
    if not isinstance(body, dict):
        raise RefusedError(400, "The body of the request must be a JSON object, in UTF-8.")
    return body


def _text(body: Body, name: str) -> str:
    value = body.get(name)
    if not _is_id(value):
        raise RefusedError(400, f'The body of the request must have "{name}": {AN_ID}.')
    return value


def _ids(body: Body) -> list[str]:
    values = body.get("messages")
    if not isinstance(values, list) or not values or not all(map(_is_id, values)):
        raise RefusedError(
            400, f'The body of the request must have "messages": a list, each {AN_ID}.'
        )
    return list(dict.fromkeys(values))


def _is_id(value: object) -> TypeGuard[str]:
    """Return whether something can be an id: others are no text for some of the servers."""
    if not isinstance(value, str) or not value or "\0" in value:
        return False
    try:
        return len(value.encode()) <= ID_BYTES
    except UnicodeEncodeError:
        return False


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
