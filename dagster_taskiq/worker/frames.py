"""Frames between the processes of a worker: JSON, each text after its length in four bytes."""

import asyncio
import json
import socket
import struct
from typing import Any

_LENGTH = struct.Struct("!I")
#: How long before the end of the lease the fork server kills all children with what they have
#: started; at its end the kernel kills the fork server, and the children by that. In seconds.
EARLY_SECONDS = 0.25


def pack(frame: dict[str, Any]) -> bytes:
    """Return a frame as bytes."""
    body = json.dumps(frame).encode()
    return _LENGTH.pack(len(body)) + body


async def read(reader: asyncio.StreamReader) -> dict[str, Any] | None:
    """Return the next frame; ``None`` when the other side has closed, even within a frame."""
    try:
        (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        # Text, or json would look which encoding it has.
        frame: dict[str, Any] = json.loads((await reader.readexactly(length)).decode())
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    return frame


def receive(channel: socket.socket) -> dict[str, Any] | None:
    """As :func:`read`, blocking, for the child."""
    head = _receive_exactly(channel, _LENGTH.size)
    if head is None:
        return None
    body = _receive_exactly(channel, _LENGTH.unpack(head)[0])
    if body is None:
        return None
    frame: dict[str, Any] = json.loads(body)
    return frame


def take(received: bytearray) -> list[dict[str, Any]]:
    """Return the frames that are complete in ``received``, and remove them from it."""
    found: list[dict[str, Any]] = []
    while len(received) >= _LENGTH.size:
        (length,) = _LENGTH.unpack_from(received)
        end = _LENGTH.size + length
        if len(received) < end:
            break
        found.append(json.loads(received[_LENGTH.size : end]))
        del received[:end]
    return found


def _receive_exactly(channel: socket.socket, size: int) -> bytes | None:
    parts = []
    while size:
        part = channel.recv(min(size, 1 << 20))
        if not part:
            return None
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
