"""Amazon SQS as moto imitates it, behind a real HTTP server: `python -m compat_tests.moto_server`.

It writes the number of its port on a line of its own, serves, and ends when its standard input is
closed: with whoever has started it, however that ended.

Three things differ from ``moto_server``, so that tests can rely on it. One request at a time
changes a queue: moto, which has no lock, delivers a message to two that wait, and loses one that is
sent while another is deleted. Who claimed one before does not change for how long another has it.
And time can be made to pass for the messages of some queues: ``POST
/pass-time?prefix=PREFIX&seconds=SECONDS``.
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any
from urllib.parse import parse_qs

from moto.server import DomainDispatcherApplication, create_backend_app
from moto.sqs.exceptions import ReceiptHandleIsInvalid
from moto.sqs.models import Message, SQSBackend, sqs_backends
from werkzeug.serving import WSGIRequestHandler, make_server

from compat_tests.sqs_servers import PASS_TIME

#: How long a request that waits goes without a look at the queue, in seconds. It is told of new
#: messages, and not of those whose delay or visibility timeout has passed.
PAUSE_SECONDS = 0.1

#: What changes the messages of a queue, and ends at once.
CHANGES = (
    *("send_message", "send_message_batch", "delete_message", "delete_message_batch"),
    *("change_message_visibility", "change_message_visibility_batch", "purge_queue"),
)

_receive_now = SQSBackend.receive_message
_change_visibility = SQSBackend.change_message_visibility
_changing = threading.RLock()


def receive_message(
    self: SQSBackend,
    queue_name: str,
    count: int,
    wait_seconds_timeout: int,
    visibility_timeout: int,
    message_attribute_names: list[str] | None = None,
) -> list[Message]:
    """Stand in for moto's own method: as that does, but one look at a time."""
    until = time.monotonic() + wait_seconds_timeout
    while True:
        with _changing:
            found = _receive_now(
                self, queue_name, count, 0, visibility_timeout, message_attribute_names
            )
        left = until - time.monotonic()
        if found or left <= 0:
            return found
        self.get_queue(queue_name).wait_for_messages(min(left, PAUSE_SECONDS))


def change_message_visibility(
    self: SQSBackend, queue_name: str, receipt_handle: str, visibility_timeout: int
) -> None:
    """Stand in for moto's own method: the claim of another receiver stays as it is.

    moto takes each handle that a message ever had.
    """
    for message in self.get_queue(queue_name)._messages:
        if receipt_handle in message._old_receipt_handles:
            raise ReceiptHandleIsInvalid
    _change_visibility(self, queue_name, receipt_handle, visibility_timeout)


def one_at_a_time(change: Callable[..., Any]) -> Callable[..., Any]:
    """Return a method that does the same, when no other one changes anything."""

    @wraps(change)
    def changing(*args: Any, **kwargs: Any) -> Any:
        with _changing:
            return change(*args, **kwargs)

    return changing


def pass_time(prefix: str, seconds: float) -> None:
    """Make the messages of all queues whose names begin so as old as they will be in a while."""
    milliseconds = int(seconds * 1000)
    with _changing:
        for backend in [each for regions in sqs_backends.values() for each in regions.values()]:
            for name, queue in list(backend.queues.items()):
                for message in queue._messages if name.startswith(prefix) else ():
                    message.sent_timestamp -= milliseconds
                    message.visible_at -= milliseconds
                    message.delayed_until -= milliseconds
                    if message.approximate_first_receive_timestamp:
                        message.approximate_first_receive_timestamp -= milliseconds


class Application:
    """moto's application, and the request that lets time pass."""

    def __init__(self) -> None:
        self._moto = DomainDispatcherApplication(create_backend_app)

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        if environ["PATH_INFO"] != PASS_TIME:
            return self._moto(environ, start_response)
        wanted = parse_qs(environ["QUERY_STRING"])
        pass_time(wanted["prefix"][0], float(wanted["seconds"][0]))
        start_response("204 No Content", [])
        return []


class Quiet(WSGIRequestHandler):
    """Writes no line for each request."""

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None: ...


def _end_with_standard_input() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


def main(port: int) -> None:
    SQSBackend.receive_message = receive_message
    SQSBackend.change_message_visibility = change_message_visibility
    for name in CHANGES:
        setattr(SQSBackend, name, one_at_a_time(getattr(SQSBackend, name)))
    server = make_server("127.0.0.1", port, Application(), threaded=True, request_handler=Quiet)
    threading.Thread(target=_end_with_standard_input, daemon=True).start()
    print(server.server_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
