"""How commands and replies of Redis are written and read."""

from typing import Any

import pytest
from redis.exceptions import NoScriptError, ReadOnlyError, ResponseError

from dagster_taskiq.transport.redis.replies import Packed, Replies, pack, unpacked

#: What the server writes, and what that is.
REPLIES: list[tuple[bytes, Any]] = [
    (b"+OK\r\n", b"OK"),
    (b":-12\r\n", -12),
    (b"$5\r\na\r\nbc\r\n", b"a\r\nbc"),
    (b"$0\r\n\r\n", b""),
    (b"$-1\r\n", None),
    (b"*-1\r\n", None),
    (b"*0\r\n", []),
    (b"*3\r\n:1\r\n*2\r\n$1\r\nx\r\n$-1\r\n+y\r\n", [1, [b"x", None], b"y"]),
    # Those of the third version of the protocol.
    (b"_\r\n", None),
    (b"#t\r\n", True),
    (b"#f\r\n", False),
    (b",1.5\r\n", 1.5),
    (b"(12345678901234567890\r\n", 12345678901234567890),
    (b"=6\r\ntxt:ab\r\n", b"txt:ab"),
    (b"~1\r\n:1\r\n", [1]),
    (b"%1\r\n$1\r\nk\r\n:2\r\n", {b"k": 2}),
]


def test_a_command_is_written_with_the_sizes_of_its_parts() -> None:
    assert pack(("SET", "ü", b"\r\n", 12)) == (
        b"*4\r\n$3\r\nSET\r\n$2\r\n\xc3\xbc\r\n$2\r\n\r\n\r\n$2\r\n12\r\n"
    )


def test_parts_that_were_packed_before_are_parts_of_a_command() -> None:
    command = ("EVALSHA", 2, Packed(["k", "ü"]), "a", b"b")
    assert unpacked(command) == ["EVALSHA", 2, "k", "ü", "a", b"b"]
    assert pack(command) == pack(unpacked(command))


def test_replies_are_read_in_whatever_pieces_they_come() -> None:
    written = b"".join(each for each, _ in REPLIES)
    wanted = [each for _, each in REPLIES]
    assert Replies().feed(written) == wanted
    for size in (1, 2, 3, 7):
        replies = Replies()
        pieces = [written[at : at + size] for at in range(0, len(written), size)]
        assert [each for piece in pieces for each in replies.feed(piece)] == wanted


@pytest.mark.parametrize(
    ("written", "kind", "text"),
    [
        (b"-NOSCRIPT No matching script.\r\n", NoScriptError, "No matching script."),
        (b"-READONLY You can't write.\r\n", ReadOnlyError, "You can't write."),
        (b"-ERR wrong\r\n", ResponseError, "wrong"),
        (b"!9\r\nERR wrong\r\n", ResponseError, "wrong"),
    ],
)
def test_errors_are_those_of_the_client_library(
    written: bytes, kind: type[Exception], text: str
) -> None:
    (error,) = Replies().feed(written)
    assert type(error) is kind
    assert str(error) == text


def test_what_the_server_pushes_answers_no_command() -> None:
    assert Replies().feed(b":1\r\n>2\r\n+moving\r\n:5\r\n:2\r\n") == [1, 2]


def test_what_is_not_redis_is_an_error() -> None:
    with pytest.raises(ValueError, match="begins with 'H'"):
        Replies().feed(b"HTTP/1.1 400 Bad Request\r\n")
