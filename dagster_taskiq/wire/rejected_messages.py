"""The messages that were set aside: rejected by a worker, kept, and delivered to nobody."""

from dataclasses import dataclass

from dagster_taskiq.wire.safe_text import printable

#: How many of them are listed at once, unless another number is asked for.
LISTED = 100
#: How many bytes of a body are shown.
PREVIEW_BYTES = 300
#: A list ends when it has come by so many bytes of bodies, where a server cannot leave them out.
LISTED_BYTES = 1 << 24


@dataclass(frozen=True)
class RejectedMessage:
    """One of them, as it is listed."""

    #: By which it is requeued or deleted.
    id: str
    task_id: str
    #: The queue, or run queue, it came from.
    queue: str
    #: Why it was rejected.
    reason: str
    #: In seconds since the epoch, by the clock of the server or of the worker that has rejected it;
    #: ``None`` if it was a worker of a release that did not note this.
    rejected_at: float | None
    #: The size of its body, in bytes.
    size: int
    #: The beginning of its body, as :func:`preview_of` returns it.
    preview: str
    #: Whether its whole body and its queue are there. If they are not, it cannot be requeued.
    is_whole: bool = True


def preview_of(body: bytes) -> str:
    """Return the beginning of a body as one line of text that is safe to print.

    Bytes that are no text are shown as escapes too.
    """
    return printable(body[:PREVIEW_BYTES].decode(errors="backslashreplace"))
