"""A message of Celery's, as it waits in a queue: protocol 2, with a body in JSON.

The headers have the task's id and name, the body its arguments. On Redis, kombu puts headers,
properties and the body, in base64, into one JSON text.
"""

import base64
import binascii
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from dagster_taskiq.wire.task_names import EXECUTE_JOB, EXECUTE_PLAN, PACKED_ARGS, RESUME_JOB

#: The content type of a body that can be read. Others, such as pickle, can execute code.
JSON_TYPE = "application/json"

#: The arguments under which dagster-celery sends a run: it resumes under the name of the first.
_RUN_ARGUMENTS = (PACKED_ARGS[EXECUTE_JOB], PACKED_ARGS[RESUME_JOB])


class Kind(Enum):
    """What a message asks for."""

    RUN = "run"
    STEP = "step"
    #: A task of the project's own, or a message that cannot be read.
    OTHER = "other"


@dataclass(frozen=True)
class CeleryMessage:
    """A message of Celery's."""

    #: The id of its task; empty if it cannot be read.
    id: str
    #: The name of its task; empty if it cannot be read.
    task: str
    queue: str
    priority: int = 0
    #: The queue that a result is sent to with ``rpc://``.
    reply_to: str = ""
    correlation_id: str = ""
    #: The process that has sent it, as ``gen<pid>@<host>``; empty if it is not known.
    origin: str = ""
    args: Sequence[object] = ()
    kwargs: Mapping[str, object] | None = None
    #: What tells messages without an id apart.
    digest: str = ""
    #: Why it cannot be read, as the end of a sentence that begins with "it"; empty if it can be.
    problem: str = ""

    @property
    def kind(self) -> Kind:
        """What it asks for. The libraries on dagster-celery have tasks of their own for steps."""
        if self.task in (EXECUTE_JOB, RESUME_JOB) and self._run_argument:
            return Kind.RUN
        return Kind.STEP if PACKED_ARGS[EXECUTE_PLAN] in (self.kwargs or {}) else Kind.OTHER

    @property
    def packed(self) -> object:
        """Dagster's own arguments for the step or run, packed; ``None`` for any other task."""
        name = self._run_argument if self.kind is Kind.RUN else PACKED_ARGS[EXECUTE_PLAN]
        return (self.kwargs or {}).get(name)

    @property
    def named(self) -> str:
        """How sentences name it."""
        return f"the message {self.id or 'without an id'} ({self.task or 'no task'})"

    @property
    def _run_argument(self) -> str:
        return next((each for each in _RUN_ARGUMENTS if each in (self.kwargs or {})), "")


def read_redis(payload: bytes, queue: str) -> CeleryMessage:
    """Return a message as kombu has written it into a Redis.

    Args:
        payload: the entry of the list.
        queue: the name of the queue.

    Returns:
        The message; with a ``problem`` if it cannot be read.
    """
    try:
        return from_mapping(json.loads(payload), queue)
    except (ValueError, UnicodeDecodeError):
        return _unreadable(queue, payload, "is no JSON")


def from_mapping(document: object, queue: str) -> CeleryMessage:
    """Return a message as kombu has it in a Redis, from its JSON; see :func:`read_redis`."""
    if not isinstance(document, dict):
        return _unreadable(queue, json.dumps(document).encode(), "is no message of kombu's")
    properties = _mapping(document.get("properties"))
    body = str(document.get("body") or "")
    try:
        is_base64 = properties.get("body_encoding") == "base64"
        raw = base64.b64decode(body, validate=True) if is_base64 else body.encode()
    except binascii.Error:
        raw = b""
    return read(
        queue=queue,
        headers=_mapping(document.get("headers")),
        body=raw,
        content_type=str(document.get("content-type") or ""),
        reply_to=str(properties.get("reply_to") or ""),
        correlation_id=str(properties.get("correlation_id") or ""),
        priority=properties.get("priority"),
    )


def read(
    queue: str,
    headers: Mapping[str, object],
    body: bytes,
    content_type: str,
    reply_to: str,
    correlation_id: str,
    priority: object,
) -> CeleryMessage:
    """Return a message from its parts.

    Args:
        queue: the name of the queue.
        headers: of the message.
        body: the content, decoded.
        content_type: of the body; a body of another type than JSON is not read.
        reply_to: the queue that a result is sent to.
        correlation_id: by which the sender knows the result.
        priority: of the message, an integer; anything else counts as 0.

    Returns:
        The message; with a ``problem`` if it cannot be read.
    """
    task_id, task = _text(headers.get("id")), _text(headers.get("task"))
    args: object = []
    kwargs: object = {}
    problem = ""
    if not task_id or not task:
        problem = "is not of Celery's message protocol 2"
    elif content_type != JSON_TYPE:
        problem = f"has a body of the type {content_type or 'unknown'}, and only JSON is read"
    elif headers.get("compression"):
        problem = "has a compressed body"
    else:
        try:
            args, kwargs, *_ = json.loads(body)
        except (ValueError, TypeError):
            problem = "has a body that is no JSON of Celery's"
    if not isinstance(args, list) or not isinstance(kwargs, dict):
        problem, args, kwargs = "has arguments of another form", [], {}
    return CeleryMessage(
        id=task_id,
        task=task,
        queue=queue,
        priority=priority if isinstance(priority, int) else 0,
        reply_to=reply_to,
        correlation_id=correlation_id,
        origin=_text(headers.get("origin")),
        args=args,
        kwargs=kwargs,
        digest=_digest(body),
        problem=problem,
    )


def _unreadable(queue: str, content: bytes, problem: str) -> CeleryMessage:
    return CeleryMessage("", "", queue, digest=_digest(content), problem=problem)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
