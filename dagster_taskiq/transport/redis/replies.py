"""Commands and replies as Redis has them on the wire, in both versions of its protocol."""

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from redis._parsers import BaseParser
from redis.exceptions import ResponseError

_END = b"\r\n"
#: The longest text that is kept as it is sent, in characters.
_LONGEST_KEPT = 200
#: What a reply of these kinds begins with.
_TEXT, _ERROR, _INTEGER, _NULL, _DOUBLE, _TRUTH, _BIG = b"+-:_,#("
_BULK, _VERBATIM, _BULK_ERROR = b"$=!"
_ARRAY, _SET, _PUSH, _MAP = b"*~>%"


class Packed:
    """Parts of a command that are the same each time, such as the names of keys: packed once."""

    def __init__(self, parts: Iterable[str]) -> None:
        """Pack them."""
        self.parts = tuple(parts)
        self.data = b"".join(map(_part, self.parts))

    def __len__(self) -> int:
        """Return how many they are."""
        return len(self.parts)


def pack(command: Iterable[Any]) -> bytes:
    """Return a command as it is sent; its parts are text, bytes, numbers or :class:`Packed`."""
    number = 0
    parts = [b""]
    for each in command:
        number += 1
        # By their exact types: there are some twenty to each command.
        kind = type(each)
        if kind is str:
            parts.append(_part_again(each) if len(each) <= _LONGEST_KEPT else _part(each))
        elif kind is Packed:
            number += len(each) - 1
            parts.append(each.data)
        elif isinstance(each, bytes):
            parts += (b"$%d\r\n" % len(each), each, _END)
        else:
            parts.append(_part(str(each)))
    parts[0] = b"*%d\r\n" % number
    return b"".join(parts)


def unpacked(command: Iterable[Any]) -> list[Any]:
    """Return the parts of a command as redis-py takes them."""
    return [
        part for each in command for part in (each.parts if isinstance(each, Packed) else (each,))
    ]


def _part(text: str) -> bytes:
    part = text.encode()
    return b"$%d\r\n%b\r\n" % (len(part), part)


#: Most of what a script is given are names of keys, queues and workers, always the same ones.
_part_again = lru_cache(maxsize=1024)(_part)


class Replies:
    """Reads replies from what comes in, in whatever pieces that comes.

    redis-py's own reader is for one reply at a time, on a stream.
    """

    def __init__(self) -> None:
        """Have read nothing yet."""
        self._pieces: list[bytes] = []
        self._size = 0
        #: How much there has to be at least, before it is worth looking.
        self._needed = 0

    def feed(self, data: bytes) -> list[Any]:
        """Take what has come, and return the replies that are complete; an error is one of them.

        Raises:
            ValueError: this is not Redis' protocol.
        """
        if self._pieces:
            self._pieces.append(data)
            self._size += len(data)
            if self._size < self._needed:
                return []
            data = b"".join(self._pieces)
            self._pieces.clear()
        found: list[Any] = []
        at = 0
        try:
            while at < len(data):
                is_push = data[at] == _PUSH
                reply, at = _read(data, at)
                if not is_push:  # it answers no command
                    found.append(reply)
        except _IncompleteError as incomplete:
            data = data[at:]
            self._pieces, self._size = [data], len(data)
            self._needed = incomplete.end - at
        return found


class _IncompleteError(Exception):
    """More has to come."""

    def __init__(self, end: int) -> None:
        super().__init__()
        #: Where the data would have to end at least.
        self.end = end


def _read(data: bytes, at: int) -> tuple[Any, int]:
    """Return the reply at a place, and the place after it."""
    end = data.find(_END, at)
    if end < 0:
        raise _IncompleteError(len(data) + 1)
    kind, head, after = data[at], data[at + 1 : end], end + 2
    if kind in (_BULK, _VERBATIM, _BULK_ERROR):
        size = int(head)
        if size < 0:
            return None, after
        if len(data) < after + size + 2:
            raise _IncompleteError(after + size + 2)
        text = data[after : after + size]
        return (_error(text) if kind == _BULK_ERROR else text), after + size + 2
    if kind in (_ARRAY, _SET, _PUSH, _MAP):
        number = int(head) * (2 if kind == _MAP else 1)
        if number < 0:
            return None, after
        parts = []
        for _ in range(number):
            part, after = _read(data, after)
            parts.append(part)
        is_map = kind == _MAP
        return (dict(zip(parts[::2], parts[1::2], strict=True)) if is_map else parts), after
    return _of_one_line(kind, head), after


def _of_one_line(kind: int, head: bytes) -> Any:
    if kind == _TEXT:
        return head
    if kind == _ERROR:
        return _error(head)
    if kind in (_INTEGER, _BIG):
        return int(head)
    if kind == _NULL:
        return None
    if kind == _DOUBLE:
        return float(head)
    if kind == _TRUTH:
        return head == b"t"
    raise ValueError(f"A reply begins with {chr(kind)!r}.")


def _error(text: bytes) -> ResponseError:
    """Return the error that redis-py makes of an answer."""
    error: ResponseError = BaseParser.parse_error(text.decode(errors="replace"))
    return error
