"""The TCP connection below AMQP: opened for aiormq, and closed without asking the server."""

import asyncio
import ssl
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, SupportsIndex

import pamqp.frame
from aiormq.connection import TransportFactory
from pamqp.commands import Connection
from pamqp.exceptions import PAMQPException
from yarl import URL


class TcpConnection(TransportFactory):
    """What aiormq calls to open the TCP connection of one AMQP connection.

    It keeps a copy of what the server sends until the AMQP connection is open. A server that closes
    a connection instead of opening it sends a code and a reason, and aiormq (7.2 and before) drops
    both: it reports an unexpected frame. They are read from the copy.
    """

    def __init__(self, tls: ssl.SSLContext | None, server_name: str | None) -> None:
        """Prepare the connection; nothing is opened yet.

        Args:
            tls: how to encrypt; ``None`` for no encryption.
            server_name: the host that the server's certificate must name; by default the URL's.
        """
        self._tls = tls
        self._server_name = server_name if tls else None
        self._reader: _CopyingReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def create(
        self, url: URL, **kwargs: Any
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open the TCP connection (aiormq calls this).

        Does what ``asyncio.open_connection`` does, which cannot be given a reader.
        """
        loop = asyncio.get_running_loop()
        reader = _CopyingReader(loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        transport, _ = await loop.create_connection(
            lambda: protocol,
            str(url.host),
            int(url.port or 0),  # never 0: the URL is the one that `url.read_target` has made
            ssl=self._tls,
            server_hostname=self._server_name,
        )
        self._reader = reader
        self._writer = _GatheringWriter(transport, protocol, reader, loop)
        return reader, self._writer

    def end_handshake(self) -> None:
        """Note that the AMQP connection is open: from now on nothing is copied."""
        if self._reader is not None:
            self._reader.copy = None

    @property
    def refusal(self) -> Connection.Close | None:
        """With which frame the server has closed the connection before it was open, if it has."""
        if self._reader is None or self._reader.copy is None:
            return None
        data = bytes(self._reader.copy)
        # It ends in the middle of a frame, or is another protocol.
        with suppress(PAMQPException):
            while data:
                size, _, frame = pamqp.frame.unmarshal(data)
                if isinstance(frame, Connection.Close):
                    return frame
                data = data[size:]
        return None

    def abort(self) -> None:
        """Close the socket at once; what has not been sent is dropped."""
        if self._writer is not None:
            self._writer.transport.abort()


class _CopyingReader(asyncio.StreamReader):
    """A stream that keeps a copy of what arrives, until ``copy`` is set to ``None``."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self.copy: bytearray | None = bytearray()

    def feed_data(self, data: Iterable[SupportsIndex]) -> None:
        """Take what the socket has received (asyncio calls this)."""
        if self.copy is not None:
            self.copy.extend(data)
        super().feed_data(data)


class _GatheringWriter(asyncio.StreamWriter):
    """A stream whose writes of one turn of the event loop become one.

    aiormq writes each method by itself. A write is a call of the system that also wakes the server,
    and costs more than all else that is done for a method here.
    """

    def __init__(
        self,
        transport: asyncio.WriteTransport,
        protocol: asyncio.StreamReaderProtocol,
        reader: asyncio.StreamReader,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        super().__init__(transport, protocol, reader, loop)
        self._on_loop = loop
        self._gathered: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send the data at the end of this turn."""
        if not self._gathered:
            self._on_loop.call_soon(self._flush)
        self._gathered.append(bytes(data))

    def write_eof(self) -> None:
        """Send all that was written, and that nothing follows."""
        self._flush()
        super().write_eof()

    def close(self) -> None:
        """Send all that was written, and close the connection then."""
        self._flush()
        super().close()

    def _flush(self) -> None:
        if self._gathered:
            gathered, self._gathered = b"".join(self._gathered), []
            if not self.is_closing():
                super().write(gathered)
