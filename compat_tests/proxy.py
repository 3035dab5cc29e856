"""A door before a server, which tests may slam: connections are cut or refused as they like."""

import selectors
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class Proxy:
    """Hands on what comes to its port to a server on this machine, and back, in a thread."""

    def __init__(self, server_port: int, at: tuple[str, int] = ("127.0.0.1", 0)) -> None:
        """Begin to serve.

        Args:
            server_port: that of the server.
            at: the address and port of the door; any free port for 0.
        """
        self.server_port = server_port
        self._door = socket.create_server(at)
        self.address = str(self._door.getsockname()[0])
        self.port = int(self._door.getsockname()[1])
        self._refusing = False
        self._ended = False
        #: How long each piece of what comes is kept back, in seconds: the line is slow.
        self.pause = 0.0
        #: What a request holds whose answer is lost, and how many of them still are to be.
        self._unanswered, self._to_lose = b"", 0
        self._losing: set[socket.socket] = set()
        #: The other end of each open connection, in both directions.
        self._others: dict[socket.socket, socket.socket] = {}
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def cut(self) -> int:
        """Close all connections that are open, without a goodbye; return how many there were."""
        with self._lock:
            ends = list(self._others)
            for end in ends:
                # The thread that waits for them sees the end, and forgets them.
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
        return len(ends) // 2

    def refuse(self) -> None:
        """Close what is open, and everything that comes, until :meth:`accept`."""
        self._refusing = True
        self.cut()

    def accept(self) -> None:
        self._refusing = False

    def lose_answers(self, asked: bytes, times: int = 1) -> None:
        """Let the next requests that hold these bytes through, and cut them off from the answer."""
        self._unanswered, self._to_lose = asked, times

    @property
    def has_lost(self) -> bool:
        """Whether all answers are lost that were to be."""
        return self._to_lose == 0 and not self._losing

    def end(self) -> None:
        self._ended = True
        self.refuse()
        with suppress(OSError):
            socket.create_connection((self.address, self.port), 5).close()  # wakes the thread
        self._thread.join(30)
        self._door.close()

    def _serve(self) -> None:
        with selectors.DefaultSelector() as self._selector:
            self._selector.register(self._door, selectors.EVENT_READ)
            while not self._ended:
                for key, _ in self._selector.select():
                    if key.fileobj is self._door:
                        self._let_in()
                    elif key.fileobj in self._others:
                        assert isinstance(key.fileobj, socket.socket)
                        self._hand_on(key.fileobj)
            for end in list(self._others):
                self._forget(end)

    def _let_in(self) -> None:
        guest, _ = self._door.accept()
        if self._refusing:
            guest.close()
            return
        try:
            server = socket.create_connection(("127.0.0.1", self.server_port), 5)
        except OSError:
            guest.close()
            return
        with self._lock:
            self._others |= {guest: server, server: guest}
        for end in (guest, server):
            self._selector.register(end, selectors.EVENT_READ)
        if self._refusing:  # since just now
            self.cut()

    def _hand_on(self, end: socket.socket) -> None:
        try:
            data = end.recv(1 << 16)
            time.sleep(self.pause)
            if data and self._to_lose and self._unanswered in data:
                self._to_lose -= 1
                self._losing.add(self._others[end])
            if data and end not in self._losing:
                self._others[end].sendall(data)
                return
        except OSError:
            pass  # broken is as good as closed
        self._forget(end)

    def _forget(self, end: socket.socket) -> None:
        with self._lock:
            other = self._others.pop(end, None)
            if other is None:  # its other end was closed a moment before
                return
            del self._others[other]
        self._losing -= {end, other}
        for each in (end, other):
            self._selector.unregister(each)
            each.close()


@contextmanager
def proxy_to(server_port: int) -> Iterator[Proxy]:
    proxy = Proxy(server_port)
    try:
        yield proxy
    finally:
        proxy.end()
