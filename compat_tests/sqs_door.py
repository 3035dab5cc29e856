"""A door before an SQS that knows what is asked: it counts, throttles, delays, freezes, cuts."""

import http.client
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

#: The error of an account that asks too much, and that of a service which has too much to do.
THROTTLED = "RequestThrottled"
UNAVAILABLE = "ServiceUnavailable"

#: What AWS says with each, and with which status.
ERRORS = {
    THROTTLED: (400, "The request was denied due to request throttling."),
    UNAVAILABLE: (503, "The request has failed due to a temporary failure of the server."),
}

#: Each request says its action here, where its body is JSON.
TARGET = "X-Amz-Target"


class SqsDoor:
    """Hands on each request that comes to its port to an SQS, unless a test wants otherwise."""

    def __init__(self, endpoint: str) -> None:
        self.server = urlsplit(endpoint).netloc
        #: How often each action was asked for, of which queue; what was refused counts as well.
        self.requests: Counter[tuple[str, str]] = Counter()
        #: The error that is answered for each action, or for all by the name ``*``.
        self.errors: dict[str, str] = {}
        #: How much later the answers of queues come than from the server, in seconds, by what the
        #: name of the queue ends with.
        self.delays: dict[str, float] = {}
        self._to_lose: Counter[str] = Counter()
        self._thawed = threading.Event()
        self._thawed.set()
        self._refusing = False
        self._guests: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._door = _Door(self)
        self.port = int(self._door.server_address[1])
        self._thread = threading.Thread(target=self._door.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def count(self, action: str = "") -> int:
        """Return how many requests have come, of one action or of all."""
        with self._lock:
            counted = dict(self.requests)
        return sum(number for (each, _), number in counted.items() if action in ("", each))

    def actions(self) -> dict[str, int]:
        """Return how many requests have come of each action."""
        with self._lock:
            found: Counter[str] = Counter()
            for (action, _), number in self.requests.items():
                found[action] += number
        return dict(found)

    def forget(self) -> None:
        """Count from 0 again."""
        with self._lock:
            self.requests.clear()

    def throttle(self, *actions: str, error: str = THROTTLED) -> None:
        """Answer some actions, or all, with an error until :meth:`relent`."""
        self.errors = dict.fromkeys(actions or ("*",), error)

    def relent(self) -> None:
        self.errors = {}

    def lose_answers(self, action: str, times: int = 1) -> None:
        """Let the next requests of an action through, and cut them off from the answer."""
        self._to_lose[action] = times

    @property
    def has_lost(self) -> bool:
        """Whether all answers are lost that were to be."""
        return not +self._to_lose

    def freeze(self) -> None:
        """Let nothing through in either direction, with all connections open, until `thaw`."""
        self._thawed.clear()

    def thaw(self) -> None:
        self._thawed.set()

    def cut(self) -> int:
        """Close all connections that are open, without a goodbye; return how many there were."""
        with self._lock:
            guests = list(self._guests)
        for each in guests:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        return len(guests)

    def refuse(self) -> None:
        """Close what is open, and everything that comes, until :meth:`accept`."""
        self._refusing = True
        self.cut()

    def accept(self) -> None:
        self._refusing = False

    def end(self) -> None:
        self.refuse()
        self.thaw()
        self._door.shutdown()
        self._thread.join(30)
        self._door.server_close()

    # What the threads of the connections call.

    def let_in(self, guest: socket.socket) -> bool:
        with self._lock:
            self._guests.add(guest)
        return not self._refusing

    def let_out(self, guest: socket.socket) -> None:
        with self._lock:
            self._guests.discard(guest)

    def note(self, action: str, queue: str) -> str | None:
        """Count a request, and return the error it gets."""
        with self._lock:
            self.requests[action, queue] += 1
        return self.errors.get(action) or self.errors.get("*")

    def delay_of(self, queue: str) -> float:
        return sum(delay for end, delay in self.delays.items() if queue.endswith(end))

    def loses(self, action: str) -> bool:
        with self._lock:
            if self._to_lose[action] <= 0:
                return False
            self._to_lose[action] -= 1
        return True

    def wait_until_thawed(self) -> None:
        self._thawed.wait()


class _Door(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # some wait at the server for as long as they want
    request_queue_size = 128

    def __init__(self, door: SqsDoor) -> None:
        self.door = door
        super().__init__(("127.0.0.1", 0), _Request)

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: connections are cut here on purpose."""


class _Request(BaseHTTPRequestHandler):
    """The requests of one connection, each with its answer."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Door

    def setup(self) -> None:
        super().setup()
        self._upstream: http.client.HTTPConnection | None = None

    def handle(self) -> None:
        if self.server.door.let_in(self.connection):
            super().handle()

    def finish(self) -> None:
        self.server.door.let_out(self.connection)
        if self._upstream is not None:
            self._upstream.close()
        with suppress(OSError):
            super().finish()

    def log_message(self, format: str, *args: object) -> None: ...

    def do_POST(self) -> None:
        door = self.server.door
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        action, queue = what_is_asked(self.headers, self.path, body)
        error = door.note(action, queue)
        door.wait_until_thawed()
        if error is not None:
            self._answer(*_error(error, is_json=TARGET in self.headers))
            return
        status, headers, answer = self._ask_server(body)
        time.sleep(door.delay_of(queue))
        door.wait_until_thawed()
        if door.loses(action):
            self.close_connection = True
            return
        self._answer(status, headers, answer)

    def _ask_server(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        if self._upstream is None:
            self._upstream = http.client.HTTPConnection(self.server.door.server, timeout=60)
        # With the host that was asked: the addresses of queues that are answered lead here again.
        self._upstream.request("POST", self.path, body, dict(self.headers))
        response = self._upstream.getresponse()
        answer = response.read()
        kept = {
            name: value
            for name, value in response.getheaders()
            if name.lower().startswith(("content-type", "x-amz"))
        }
        return response.status, kept, answer

    def _answer(self, status: int, headers: Mapping[str, str], answer: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)


def what_is_asked(headers: Mapping[str, str], path: str, body: bytes) -> tuple[str, str]:
    """Return the action of a request, and the name of its queue or of the one it makes.

    Both of SQS's protocols are read: JSON, and the older one of forms.
    """
    target = headers.get(TARGET)
    if target is not None:
        action = target.rpartition(".")[2]
        asked = json.loads(body or b"{}")
    else:
        asked = {name: values[0] for name, values in parse_qs(body.decode()).items()}
        action = asked.get("Action", "")
    url = asked.get("QueueUrl") or asked.get("QueueName") or path
    return action, str(url).rpartition("/")[2]


def _error(code: str, *, is_json: bool) -> tuple[int, dict[str, str], bytes]:
    """Return an answer as AWS gives it, in the protocol of the request."""
    status, text = ERRORS[code]
    if is_json:
        headers = {
            "Content-Type": "application/x-amz-json-1.0",
            "x-amzn-query-error": f"{code};{'Sender' if status < 500 else 'Receiver'}",
        }
        answer = json.dumps({"__type": f"com.amazonaws.sqs#{code}", "message": text})
        return status, headers, answer.encode()
    who = "Sender" if status < 500 else "Receiver"
    answer = (
        f"<ErrorResponse><Error><Type>{who}</Type><Code>{code}</Code><Message>{text}</Message>"
        "<Detail/></Error><RequestId>00000000-0000-0000-0000-000000000000</RequestId>"
        "</ErrorResponse>"
    )
    return status, {"Content-Type": "text/xml"}, answer.encode()


@contextmanager
def sqs_door(endpoint: str) -> Iterator[SqsDoor]:
    door = SqsDoor(endpoint)
    try:
        yield door
    finally:
        door.end()
